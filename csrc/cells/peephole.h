// LSTMs whose gates see the cell state; gates i, f, g, o, parameters of i, f, o.
#pragma once

namespace fastrnn {
namespace FASTRNN_ISA {

struct PeepholeLstm : CellDefaults {
  static constexpr int kGates = 4, kExtra = 1, kSaved = 5, kParams = 3;
  static constexpr bool kApart = false, kReadsH = false, kReadsOut = false;

  template <class V, class K = Unclipped>
  static inline void forward(const V* x, const V* a, V, V* s, V& h, V* saved, const V* p,
                             K&& clips = {}) {
    const V i = sigmoid(clips.gate(0, x[0] + a[0] + p[0] * s[0]));
    const V f = sigmoid(clips.gate(1, x[1] + a[1] + p[1] * s[0]));
    const V g = tanh(clips.gate(2, x[2] + a[2]));
    const V c = clips.cell(f * s[0] + i * g);
    const V o = sigmoid(clips.gate(3, x[3] + a[3] + p[2] * c));
    h = o * tanh(c);
    s[0] = c;
    saved[0] = i, saved[1] = f, saved[2] = g, saved[3] = o, saved[4] = c;
  }

  template <class V, class K = Unclipped>
  static inline void backward(const V* saved, V, V, const V* s_prev, V dh, V* ds, V* dx, V*, V&,
                              const V* p, V* dp, K&& clips = {}) {
    const V i = saved[0], f = saved[1], g = saved[2], o = saved[3], c = saved[4];
    const V y = tanh(c);
    dx[3] = clips.gate_gradient(3, dh * y * (o * (1 - o)));
    const V dc = clips.cell_gradient(ds[0] + dh * o * (1 - y * y) + dx[3] * p[2]);
    dx[0] = clips.gate_gradient(0, dc * g * (i * (1 - i)));
    dx[1] = clips.gate_gradient(1, dc * s_prev[0] * (f * (1 - f)));
    dx[2] = clips.gate_gradient(2, dc * i * (1 - g * g));
    ds[0] = dc * f + dx[0] * p[0] + dx[1] * p[1];
    dp[0] += dx[0] * s_prev[0], dp[1] += dx[1] * s_prev[0], dp[2] += dx[3] * c;
  }
};

// f = 1 - i; gates i, g, o, parameters of i, o.
struct CoupledPeepholeLstm : CellDefaults {
  static constexpr int kGates = 3, kExtra = 1, kSaved = 4, kParams = 2;
  static constexpr bool kApart = false, kReadsH = false, kReadsOut = false;

  template <class V, class K = Unclipped>
  static inline void forward(const V* x, const V* a, V, V* s, V& h, V* saved, const V* p,
                             K&& clips = {}) {
    const V i = sigmoid(clips.gate(0, x[0] + a[0] + p[0] * s[0]));
    const V g = tanh(clips.gate(1, x[1] + a[1]));
    const V c = clips.cell(s[0] + i * (g - s[0]));
    const V o = sigmoid(clips.gate(2, x[2] + a[2] + p[1] * c));
    h = o * tanh(c);
    s[0] = c;
    saved[0] = i, saved[1] = g, saved[2] = o, saved[3] = c;
  }

  template <class V, class K = Unclipped>
  static inline void backward(const V* saved, V, V, const V* s_prev, V dh, V* ds, V* dx, V*, V&,
                              const V* p, V* dp, K&& clips = {}) {
    const V i = saved[0], g = saved[1], o = saved[2], c = saved[3];
    const V y = tanh(c);
    dx[2] = clips.gate_gradient(2, dh * y * (o * (1 - o)));
    const V dc = clips.cell_gradient(ds[0] + dh * o * (1 - y * y) + dx[2] * p[1]);
    dx[0] = clips.gate_gradient(0, dc * (g - s_prev[0]) * (i * (1 - i)));
    dx[1] = clips.gate_gradient(1, dc * i * (1 - g * g));
    ds[0] = dc * (1 - i) + dx[0] * p[0];
    dp[0] += dx[0] * s_prev[0], dp[1] += dx[2] * c;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
