// exp, tanh and sigmoid on vectors, float and double, from one reduced polynomial.
//
// expm1(r) = r + r^2 q(r) on |r| <= ln2/2, q fitted at Chebyshev nodes in 50 digits:
// relative error 5.4e-10 (float, degree 5) and 6.8e-21 (double, degree 11), so that
// rounding alone is left. NaN goes through, infinities saturate.
#pragma once

#include "vec.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <class C>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  // ln2 in two parts; the first times any exponent here is exact.
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to integer
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kExpLimit = 104.0f;   // beyond: infinite, or zero
  static constexpr float kTanhLimit = 20.0f;   // of 2|x|; beyond: 1
  static constexpr float kQ[6] = {0.50000000134658092f, 0.16666666681623231f,
                                  0.04166646492528591f, 0.00833331092548090f,
                                  0.00139336499963094f, 0.00019890990824674f};
};

template <>
struct ExpConstants<double> {
  static constexpr double kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 1.9082149292705878e-10;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kExpLimit = 746.0;
  static constexpr double kTanhLimit = 40.0;
  static constexpr double kQ[12] = {
      0.5,
      0.16666666666666666667,
      0.041666666666666676774,
      0.008333333333333334007,
      0.0013888888888879073994,
      0.00019841269841263299129,
      0.000024801587336442237861,
      2.7557319247218730776e-6,
      2.7557263279088496905e-7,
      2.5052071094293546753e-8,
      2.0918137737642736429e-9,
      1.6086627956780368844e-10,
  };
};

// x = n ln2 + r; returns expm1(r) and n, as a number and, through `bits`, as an integer.
template <class C>
inline Vec<C> reduced_expm1(Vec<C> x, Vec<C>& n, typename VecOf<C>::ints& bits) {
  using K = ExpConstants<C>;
  constexpr C kLog2E = C(1.4426950408889634074);
  const Vec<C> shifted = x * kLog2E + K::kRound;
  n = shifted - K::kRound;
  using Ints = typename VecOf<C>::ints;
  bits = (Ints)shifted - (Ints)broadcast<C>(K::kRound);
  Vec<C> r = x - n * K::kLn2High;
  r = r - n * K::kLn2Low;
  constexpr int kTerms = sizeof(K::kQ) / sizeof(K::kQ[0]);
  Vec<C> q = broadcast<C>(K::kQ[kTerms - 1]);
#pragma GCC unroll 12
  for (int i = kTerms - 2; i >= 0; --i) q = q * r + K::kQ[i];
  return r + r * r * q;
}

// 2^n for |n| small enough that the result is a normal number.
template <class C>
inline Vec<C> power_of_two(typename VecOf<C>::ints n) {
  using K = ExpConstants<C>;
  return (Vec<C>)((n + K::kBias) << K::kMantissa);
}

// x between -limit and limit; a NaN stays one, which is why the limit comes first.
#if defined(__AVX512F__)
inline VecF at_most(float limit, VecF x) {
  return (VecF)_mm512_min_ps((__m512)broadcast<float>(limit), (__m512)x);
}
inline VecF at_least(float limit, VecF x) {
  return (VecF)_mm512_max_ps((__m512)broadcast<float>(limit), (__m512)x);
}
#elif defined(__AVX2__)
inline VecF at_most(float limit, VecF x) {
  return (VecF)_mm256_min_ps((__m256)broadcast<float>(limit), (__m256)x);
}
inline VecF at_least(float limit, VecF x) {
  return (VecF)_mm256_max_ps((__m256)broadcast<float>(limit), (__m256)x);
}
#else
inline VecF at_most(float limit, VecF x) { return x > limit ? broadcast<float>(limit) : x; }
inline VecF at_least(float limit, VecF x) { return x < limit ? broadcast<float>(limit) : x; }
#endif
inline VecD at_most(double limit, VecD x) { return x > limit ? broadcast<double>(limit) : x; }
inline VecD at_least(double limit, VecD x) { return x < limit ? broadcast<double>(limit) : x; }

// e * 2^n, in two steps, so that the ends of the range overflow and underflow as they
// should.
template <class C>
inline Vec<C> scale(Vec<C> e, Vec<C>, typename VecOf<C>::ints bits) {
  const auto half = bits >> 1;
  return e * power_of_two<C>(half) * power_of_two<C>(bits - half);
}
#if defined(__AVX512F__)
template <>
inline VecF scale<float>(VecF e, VecF n, IntF) {
  return (VecF)_mm512_scalef_ps((__m512)e, (__m512)n);
}
#endif

template <class V, class C>
inline V exp_impl(V x) {
  using K = ExpConstants<C>;
  x = at_least(-K::kExpLimit, at_most(K::kExpLimit, x));
  V n;
  typename VecOf<C>::ints bits;
  const V e = reduced_expm1<C>(x, n, bits) + 1;
  return scale<C>(e, n, bits);
}

// tanh(x) = m / (m + 2) with m = expm1(2|x|): no cancellation for small x.
template <class V, class C>
inline V tanh_impl(V x) {
  using K = ExpConstants<C>;
  using Ints = typename VecOf<C>::ints;
  const Ints sign = (Ints)x & (Ints)broadcast<C>(C(-0.0));
  V t = (V)((Ints)x ^ sign) * 2;
  t = at_most(K::kTanhLimit, t);
  V n;
  Ints bits;
  const V p = reduced_expm1<C>(t, n, bits);
  const V scale = power_of_two<C>(bits);
  const V m = scale * p + (scale - 1);
  return (V)((Ints)(m / (m + 2)) | sign);
}

inline VecF exp(VecF x) { return exp_impl<VecF, float>(x); }
inline VecD exp(VecD x) { return exp_impl<VecD, double>(x); }
inline VecF tanh(VecF x) { return tanh_impl<VecF, float>(x); }
inline VecD tanh(VecD x) { return tanh_impl<VecD, double>(x); }
inline VecF sigmoid(VecF x) { return 1 / (1 + exp(-x)); }
inline VecD sigmoid(VecD x) { return 1 / (1 + exp(-x)); }

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
