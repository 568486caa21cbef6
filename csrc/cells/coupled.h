// LSTM whose forget gate is 1 - i; gates i, g, o.
#pragma once

namespace fastrnn {
namespace FASTRNN_ISA {

struct CoupledLstm : CellDefaults {
  static constexpr int kGates = 3, kExtra = 1, kSaved = 4;
  static constexpr bool kApart = false, kReadsH = false, kReadsOut = false;

  template <class V, class K = Unclipped>
  static inline void forward(const V* x, const V* a, V, V* s, V& h, V* saved,
                             K&& clips = {}) {
    const V i = sigmoid(clips.gate(0, x[0] + a[0]));
    const V g = tanh(clips.gate(1, x[1] + a[1]));
    const V o = sigmoid(clips.gate(2, x[2] + a[2]));
    const V c = clips.cell(s[0] + i * (g - s[0]));
    h = o * tanh(c);
    s[0] = c;
    saved[0] = i, saved[1] = g, saved[2] = o, saved[3] = c;
  }

  template <class V, class K = Unclipped>
  static inline void backward(const V* saved, V, V, const V* s_prev, V dh, V* ds, V* dx, V*, V&,
                              K&& clips = {}) {
    const V i = saved[0], g = saved[1], o = saved[2];
    const V y = tanh(saved[3]);
    const V dc = clips.cell_gradient(ds[0] + dh * o * (1 - y * y));
    dx[0] = clips.gate_gradient(0, dc * (g - s_prev[0]) * (i * (1 - i)));
    dx[1] = clips.gate_gradient(1, dc * i * (1 - g * g));
    dx[2] = clips.gate_gradient(2, dh * y * (o * (1 - o)));
    ds[0] = dc * (1 - i);
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
