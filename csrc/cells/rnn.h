// Elman network: h = phi(x + a).
#pragma once

namespace fastrnn {
namespace FASTRNN_ISA {

struct RnnBase : CellDefaults {
  static constexpr int kGates = 1, kExtra = 0, kSaved = 0;
  static constexpr bool kApart = false, kReadsH = false, kReadsOut = true;
};

struct RnnTanh : RnnBase {
  template <class V, class K = Unclipped>
  static inline void forward(const V* x, const V* a, V, V*, V& h, V*, K&& clips = {}) {
    h = tanh(clips.gate(0, x[0] + a[0]));
  }
  template <class V, class K = Unclipped>
  static inline void backward(const V*, V h, V, const V*, V dh, V*, V* dx, V*, V&,
                              K&& clips = {}) {
    dx[0] = clips.gate_gradient(0, dh * (1 - h * h));
  }
};

struct RnnRelu : RnnBase {
  template <class V, class K = Unclipped>
  static inline void forward(const V* x, const V* a, V, V*, V& h, V*, K&& clips = {}) {
    const V sum = clips.gate(0, x[0] + a[0]);
    h = sum <= 0 ? V{} : sum;  // in this order NaN stays NaN
  }
  template <class V, class K = Unclipped>
  static inline void backward(const V*, V h, V, const V*, V dh, V*, V* dx, V*, V&,
                              K&& clips = {}) {
    dx[0] = clips.gate_gradient(0, h <= 0 ? V{} : dh);
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
