// Gated recurrent unit, reset before the product; gates r, z, and n of the second product.
#pragma once

namespace fastrnn {
namespace FASTRNN_ISA {

struct GruResetBefore : CellDefaults {
  static constexpr int kGates = 3, kExtra = 0, kSaved = 3, kSecond = 1;
  static constexpr bool kApart = false, kReadsH = true, kReadsOut = false;

  template <class V, class K = Unclipped>
  static inline void first(const V* x, const V* a, V h_in, V* saved, V& operand,
                           K&& clips = {}) {
    saved[0] = sigmoid(clips.gate(0, x[0] + a[0]));
    saved[1] = sigmoid(clips.gate(1, x[1] + a[1]));
    operand = saved[0] * h_in;
  }

  template <class V, class K = Unclipped>
  static inline void second(const V* x, const V* a, V h_prev, V* saved, V& h,
                            K&& clips = {}) {
    saved[2] = tanh(clips.gate(2, x[2] + a[2]));
    h = saved[2] + saved[1] * (h_prev - saved[2]);
  }

  template <class V, class K = Unclipped>
  static inline void backward_second(const V* saved, V, V dh, V* dx, K&& clips = {}) {
    dx[2] = clips.gate_gradient(2, dh * (1 - saved[1]) * (1 - saved[2] * saved[2]));
  }

  template <class V, class K = Unclipped>
  static inline void backward_first(const V* saved, V h_prev, V h_in, V dh, V doperand, V* dx,
                                    V& dh_prev, V& dh_in, V& operand, K&& clips = {}) {
    const V r = saved[0], z = saved[1];
    dx[0] = clips.gate_gradient(0, doperand * h_in * (r * (1 - r)));
    dx[1] = clips.gate_gradient(1, dh * (h_prev - saved[2]) * (z * (1 - z)));
    dh_prev = dh * z, dh_in = doperand * r;
    operand = r * h_in;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
