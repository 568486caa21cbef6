// Independently recurrent network: h = phi(x + a + u h); no recurrent product.
#pragma once

namespace fastrnn {
namespace FASTRNN_ISA {

struct IndRnnBase : CellDefaults {
  static constexpr int kGates = 1, kExtra = 0, kSaved = 0, kParams = 1;
  static constexpr bool kApart = false, kReadsH = true, kReadsOut = true, kRecurrent = false;
};

struct IndRnnTanh : IndRnnBase {
  template <class V, class K = Unclipped>
  static inline void forward(const V* x, const V* a, V h_prev, V*, V& h, V*, const V* p,
                             K&& clips = {}) {
    h = tanh(clips.gate(0, x[0] + a[0] + p[0] * h_prev));
  }
  template <class V, class K = Unclipped>
  static inline void backward(const V*, V h, V h_prev, const V*, V dh, V*, V* dx, V*, V& dh_prev,
                              const V* p, V* dp, K&& clips = {}) {
    dx[0] = clips.gate_gradient(0, dh * (1 - h * h));
    dh_prev = dx[0] * p[0];
    dp[0] += dx[0] * h_prev;
  }
};

struct IndRnnRelu : IndRnnBase {
  template <class V, class K = Unclipped>
  static inline void forward(const V* x, const V* a, V h_prev, V*, V& h, V*, const V* p,
                             K&& clips = {}) {
    const V sum = clips.gate(0, x[0] + a[0] + p[0] * h_prev);
    h = sum <= 0 ? V{} : sum;  // in this order NaN stays NaN
  }
  template <class V, class K = Unclipped>
  static inline void backward(const V*, V h, V h_prev, const V*, V dh, V*, V* dx, V*, V& dh_prev,
                              const V* p, V* dp, K&& clips = {}) {
    dx[0] = clips.gate_gradient(0, h <= 0 ? V{} : dh);
    dh_prev = dx[0] * p[0];
    dp[0] += dx[0] * h_prev;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
