// LSTM whose forget gate is 1 - i; gates i, g, o.
#pragma once

namespace fastrnn {
namespace FASTRNN_ISA {

struct CoupledLstm : CellDefaults {
  static constexpr int kGates = 3, kExtra = 1, kSaved = 4;
  static constexpr bool kApart = false, kReadsH = false, kReadsOut = false;

  template <class V>
  static inline void forward(const V* x, const V* a, V, V* s, V& h, V* saved) {
    const V i = sigmoid(x[0] + a[0]);
    const V g = tanh(x[1] + a[1]);
    const V o = sigmoid(x[2] + a[2]);
    const V c = s[0] + i * (g - s[0]);
    h = o * tanh(c);
    s[0] = c;
    saved[0] = i, saved[1] = g, saved[2] = o, saved[3] = c;
  }

  template <class V>
  static inline void backward(const V* saved, V, V, const V* s_prev, V dh, V* ds, V* dx, V*, V&) {
    const V i = saved[0], g = saved[1], o = saved[2];
    const V y = tanh(saved[3]);
    const V dc = ds[0] + dh * o * (1 - y * y);
    dx[0] = dc * (g - s_prev[0]) * (i * (1 - i));
    dx[1] = dc * i * (1 - g * g);
    dx[2] = dh * y * (o * (1 - o));
    ds[0] = dc * (1 - i);
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
