// minGRU and minLSTM: gates of the input alone, no recurrent product.
#pragma once

namespace fastrnn {
namespace FASTRNN_ISA {

// Gates u, n.
struct MinGru : CellDefaults {
  static constexpr int kGates = 2, kExtra = 0, kSaved = 2;
  static constexpr bool kApart = false, kReadsH = true, kReadsOut = false, kRecurrent = false;

  template <class V>
  static inline void forward(const V* x, const V* a, V h_prev, V*, V& h, V* saved) {
    const V u = sigmoid(x[0] + a[0]);
    const V n = x[1] + a[1];
    h = h_prev + u * (n - h_prev);
    saved[0] = u, saved[1] = n;
  }

  template <class V>
  static inline void backward(const V* saved, V, V h_prev, const V*, V dh, V*, V* dx, V*,
                              V& dh_prev) {
    const V u = saved[0], n = saved[1];
    dx[0] = dh * (n - h_prev) * (u * (1 - u));
    dx[1] = dh * u;
    dh_prev = dh * (1 - u);
  }
};

// Gates f, i, n.
struct MinLstm : CellDefaults {
  static constexpr int kGates = 3, kExtra = 0, kSaved = 3;
  static constexpr bool kApart = false, kReadsH = true, kReadsOut = false, kRecurrent = false;

  template <class V>
  static inline void forward(const V* x, const V* a, V h_prev, V*, V& h, V* saved) {
    const V f = sigmoid(x[0] + a[0]);
    const V i = sigmoid(x[1] + a[1]);
    const V n = x[2] + a[2];
    h = (f * h_prev + i * n) / (f + i);
    saved[0] = f, saved[1] = i, saved[2] = n;
  }

  template <class V>
  static inline void backward(const V* saved, V, V h_prev, const V*, V dh, V*, V* dx, V*,
                              V& dh_prev) {
    const V f = saved[0], i = saved[1], n = saved[2];
    const V share = 1 / (f + i);
    const V d = dh * (h_prev - n) * (f * i) * (share * share);
    dx[0] = d * (1 - f);
    dx[1] = -d * (1 - i);
    dx[2] = dh * i * share;
    dh_prev = dh * f * share;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
