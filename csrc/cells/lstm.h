// Long short-term memory; gates i, f, g, o.
#pragma once

namespace fastrnn {
namespace FASTRNN_ISA {

struct Lstm : CellDefaults {
  static constexpr int kGates = 4, kExtra = 1, kSaved = 5;
  static constexpr bool kApart = false, kReadsH = false, kReadsOut = false;

  template <class V>
  static inline void forward(const V* x, const V* a, V, V* s, V& h, V* saved) {
    const V i = sigmoid(x[0] + a[0]);
    const V f = sigmoid(x[1] + a[1]);
    const V g = tanh(x[2] + a[2]);
    const V o = sigmoid(x[3] + a[3]);
    const V c = f * s[0] + i * g;
    h = o * tanh(c);
    s[0] = c;
    saved[0] = i, saved[1] = f, saved[2] = g, saved[3] = o, saved[4] = c;
  }

  template <class V>
  static inline void backward(const V* saved, V, V, const V* s_prev, V dh, V* ds, V* dx, V*, V&) {
    const V i = saved[0], f = saved[1], g = saved[2], o = saved[3];
    const V y = tanh(saved[4]);
    const V dc = ds[0] + dh * o * (1 - y * y);
    dx[0] = dc * g * (i * (1 - i));
    dx[1] = dc * s_prev[0] * (f * (1 - f));
    dx[2] = dc * i * (1 - g * g);
    dx[3] = dh * y * (o * (1 - o));
    ds[0] = dc * f;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
