// Gated recurrent unit, reset after the product; gates r, z, n.
#pragma once

namespace fastrnn {
namespace FASTRNN_ISA {

struct Gru : CellDefaults {
  static constexpr int kGates = 3, kExtra = 0, kSaved = 4;
  static constexpr bool kApart = true, kReadsH = true, kReadsOut = false;

  template <class V, class K = Unclipped>
  static inline void forward(const V* x, const V* a, V h_prev, V*, V& h, V* saved,
                             K&& clips = {}) {
    const V r = sigmoid(clips.gate(0, x[0] + a[0]));
    const V z = sigmoid(clips.gate(1, x[1] + a[1]));
    const V n = tanh(clips.gate(2, x[2] + r * a[2]));
    h = n + z * (h_prev - n);
    saved[0] = r, saved[1] = z, saved[2] = n, saved[3] = a[2];
  }

  template <class V, class K = Unclipped>
  static inline void backward(const V* saved, V, V h_prev, const V*, V dh, V*, V* dx, V* da,
                              V& dh_prev, K&& clips = {}) {
    const V r = saved[0], z = saved[1], n = saved[2], n_h = saved[3];
    const V dn = clips.gate_gradient(2, dh * (1 - z) * (1 - n * n));
    dx[0] = clips.gate_gradient(0, dn * n_h * (r * (1 - r)));
    dx[1] = clips.gate_gradient(1, dh * (h_prev - n) * (z * (1 - z)));
    dx[2] = dn;
    da[0] = dx[0], da[1] = dx[1], da[2] = dn * r;
    dh_prev = dh * z;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
