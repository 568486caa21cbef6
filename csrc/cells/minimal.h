// minGRU and minLSTM: gates of the input alone, no recurrent product.
#pragma once

namespace fastrnn {
namespace FASTRNN_ISA {

// Gates u, n.
struct MinGru : CellDefaults {
  static constexpr int kGates = 2, kExtra = 0, kSaved = 2;
  static constexpr bool kApart = false, kReadsH = true, kReadsOut = false, kRecurrent = false;

  template <class V, class K = Unclipped>
  static inline void forward(const V* x, const V* a, V h_prev, V*, V& h, V* saved,
                             K&& clips = {}) {
    const V u = sigmoid(clips.gate(0, x[0] + a[0]));
    const V n = clips.gate(1, x[1] + a[1]);
    h = h_prev + u * (n - h_prev);
    saved[0] = u, saved[1] = n;
  }

  template <class V, class K = Unclipped>
  static inline void backward(const V* saved, V, V h_prev, const V*, V dh, V*, V* dx, V*,
                              V& dh_prev, K&& clips = {}) {
    const V u = saved[0], n = saved[1];
    dx[0] = clips.gate_gradient(0, dh * (n - h_prev) * (u * (1 - u)));
    dx[1] = clips.gate_gradient(1, dh * u);
    dh_prev = dh * (1 - u);
  }
};

// Gates f, i, n. Kept are the pre-activations.
struct MinLstm : CellDefaults {
  static constexpr int kGates = 3, kExtra = 0, kSaved = 3;
  static constexpr bool kApart = false, kReadsH = true, kReadsOut = false, kRecurrent = false;

  template <class V, class K = Unclipped>
  static inline void forward(const V* x, const V* a, V h_prev, V*, V& h, V* saved,
                             K&& clips = {}) {
    const V f = clips.gate(0, x[0] + a[0]);
    const V i = clips.gate(1, x[1] + a[1]);
    const V n = clips.gate(2, x[2] + a[2]);
    V of_f, of_i;
    shares(f, i, of_f, of_i);
    h = of_f * h_prev + of_i * n;
    saved[0] = f, saved[1] = i, saved[2] = n;
  }

  template <class V, class K = Unclipped>
  static inline void backward(const V* saved, V, V h_prev, const V*, V dh, V*, V* dx, V*,
                              V& dh_prev, K&& clips = {}) {
    const V f = saved[0], i = saved[1], n = saved[2];
    V of_f, of_i;
    shares(f, i, of_f, of_i);
    const V d = dh * (h_prev - n) * (of_f * of_i);
    dx[0] = clips.gate_gradient(0, d * sigmoid(-f));
    dx[1] = clips.gate_gradient(1, -d * sigmoid(-i));
    dx[2] = clips.gate_gradient(2, dh * of_i);
    dh_prev = dh * of_f;
  }

 private:
  // sigmoid(f) and sigmoid(i) over their sum: (1 + exp(-i)) / (2 + exp(-f) + exp(-i)), and the
  // other, both sides times exp(-most). So no exponential is above 1 and the sum not below, where
  // sigmoids could both be zero.
  template <class V>
  static inline void shares(V f, V i, V& of_f, V& of_i) {
    const V less = f < i ? f : i;
    const V most = less < 0 ? -less : V{};
    const V one = exp(-most), e_f = exp(-f - most), e_i = exp(-i - most);
    const V total = 1 / (2 * one + e_f + e_i);
    of_f = (one + e_i) * total, of_i = (one + e_f) * total;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
