// sLSTM: exponential input gate; gates i, f, g, o, states c, n and m beside h.
#pragma once

namespace fastrnn {
namespace FASTRNN_ISA {

// log(sigmoid(x)) = min(x, 0) - log(1 + e), e = exp(-|x|) at most 1. With s = e / (2 + e), at most
// a third, log(1 + e) = 2 (s + s^3/3 + s^5/5 + ...): the terms fall by nine each.
template <class V>
inline V log_sigmoid(V x) {
  using C = decltype(V{}[0] + 0 * V{}[0]);
  constexpr int kTerms = sizeof(C) == 4 ? 8 : 18;
  const V e = exp(x < 0 ? x : -x);
  const V s = e / (2 + e), square = s * s;
  V sum{};
  for (int k = kTerms - 1; k >= 0; --k) sum = sum * square + C(1) / C(2 * k + 1);
  return (x < 0 ? x : V{}) - 2 * s * sum;
}

struct SLstm : CellDefaults {
  // Kept: the gates as they act on c and n, the slope of log(f), the new states.
  static constexpr int kGates = 4, kExtra = 3, kSaved = 8;
  static constexpr bool kApart = false, kReadsH = false, kReadsOut = false;

  template <class V, class K = Unclipped>
  static inline void forward(const V* x, const V* a, V, V* s, V& h, V* saved,
                             K&& clips = {}) {
    const V in = clips.gate(0, x[0] + a[0]), forget = clips.gate(1, x[1] + a[1]);
    const V kept = log_sigmoid(forget) + s[2];
    const V larger = kept > in ? kept : in;
    const V m = s[1] == 0 ? in : larger;
    // From nothing f may be as large as it likes: there is nothing to keep.
    const V excess = kept > m ? V{} : kept - m;
    const V i = exp(in - m), f = exp(excess);
    const V g = tanh(clips.gate(2, x[2] + a[2])), o = sigmoid(clips.gate(3, x[3] + a[3]));
    const V c = f * s[0] + i * g, n = f * s[1] + i;
    h = o * c / n;
    s[0] = c, s[1] = n, s[2] = m;
    saved[0] = i, saved[1] = f, saved[2] = g, saved[3] = o, saved[4] = sigmoid(-forget);
    saved[5] = c, saved[6] = n, saved[7] = m;
  }

  template <class V, class K = Unclipped>
  static inline void backward(const V* saved, V, V, const V* s_prev, V dh, V* ds, V* dx, V*, V&,
                              K&& clips = {}) {
    const V i = saved[0], f = saved[1], g = saved[2], o = saved[3], slope = saved[4];
    const V share = 1 / saved[6], y = saved[5] * share;
    const V dc = ds[0] + dh * o * share;
    const V dn = ds[1] - dh * o * y * share;
    // Where n was 0, f was kept from being more than 1; c need not have been 0 as well.
    const auto bounded = (s_prev[1] == 0) & (f >= 1);
    const V di = (dc * g + dn) * i, df = bounded ? V{} : (dc * s_prev[0] + dn * s_prev[1]) * f;
    const V dm = ds[2] - di - df;
    // m is the larger of the two exponents, whose gate is then exp(0) = 1; both, if they are equal.
    const V zero{}, half = dm * decltype(V{}[0] + 0 * V{}[0])(0.5);
    const V of_f = s_prev[1] == 0 ? zero : f < 1 ? zero : i < 1 ? dm : half;
    const V df_total = df + of_f;
    dx[0] = clips.gate_gradient(0, di + (dm - of_f));
    dx[1] = clips.gate_gradient(1, df_total * slope);
    dx[2] = clips.gate_gradient(2, dc * i * (1 - g * g));
    dx[3] = clips.gate_gradient(3, dh * y * (o * (1 - o)));
    ds[0] = dc * f, ds[1] = dn * f, ds[2] = df_total;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
