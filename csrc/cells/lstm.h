// Long short-term memory; gates i, f, g, o.
#pragma once

namespace fastrnn {
namespace FASTRNN_ISA {

struct Lstm : CellDefaults {
  static constexpr int kGates = 4, kExtra = 1, kSaved = 5;
  static constexpr bool kApart = false, kReadsH = false, kReadsOut = false;

  template <class V, class K = Unclipped>
  static inline void forward(const V* x, const V* a, V, V* s, V& h, V* saved,
                             K&& clips = {}) {
    const V i = sigmoid(clips.gate(0, x[0] + a[0]));
    const V f = sigmoid(clips.gate(1, x[1] + a[1]));
    const V g = tanh(clips.gate(2, x[2] + a[2]));
    const V o = sigmoid(clips.gate(3, x[3] + a[3]));
    const V c = clips.cell(f * s[0] + i * g);
    h = o * tanh(c);
    s[0] = c;
    saved[0] = i, saved[1] = f, saved[2] = g, saved[3] = o, saved[4] = c;
  }

  template <class V, class K = Unclipped>
  static inline void backward(const V* saved, V, V, const V* s_prev, V dh, V* ds, V* dx, V*, V&,
                              K&& clips = {}) {
    const V i = saved[0], f = saved[1], g = saved[2], o = saved[3];
    const V y = tanh(saved[4]);
    const V dc = clips.cell_gradient(ds[0] + dh * o * (1 - y * y));
    dx[0] = clips.gate_gradient(0, dc * g * (i * (1 - i)));
    dx[1] = clips.gate_gradient(1, dc * s_prev[0] * (f * (1 - f)));
    dx[2] = clips.gate_gradient(2, dc * i * (1 - g * g));
    dx[3] = clips.gate_gradient(3, dh * y * (o * (1 - o)));
    ds[0] = dc * f;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
