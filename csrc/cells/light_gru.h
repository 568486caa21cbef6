// Light GRU: no reset gate, relu; gates z, n.
#pragma once

namespace fastrnn {
namespace FASTRNN_ISA {

struct LightGru : CellDefaults {
  static constexpr int kGates = 2, kExtra = 0, kSaved = 2;
  static constexpr bool kApart = false, kReadsH = true, kReadsOut = false;

  template <class V, class K = Unclipped>
  static inline void forward(const V* x, const V* a, V h_prev, V*, V& h, V* saved,
                             K&& clips = {}) {
    const V z = sigmoid(clips.gate(0, x[0] + a[0]));
    const V sum = clips.gate(1, x[1] + a[1]);
    const V n = sum <= 0 ? V{} : sum;  // in this order NaN stays NaN
    h = n + z * (h_prev - n);
    saved[0] = z, saved[1] = n;
  }

  template <class V, class K = Unclipped>
  static inline void backward(const V* saved, V, V h_prev, const V*, V dh, V*, V* dx, V*,
                              V& dh_prev, K&& clips = {}) {
    const V z = saved[0], n = saved[1];
    dx[0] = clips.gate_gradient(0, dh * (h_prev - n) * (z * (1 - z)));
    dx[1] = clips.gate_gradient(1, n <= 0 ? V{} : dh * (1 - z));
    dh_prev = dh * z;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
