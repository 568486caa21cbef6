// Float32 numbers that products take as the sum of P terms of bfloat16: a storage type more, of which
// everything but the operands of products stays float32.
//
// One term is the number rounded. Two leave 2^-16 of it; three nothing, 3 x 8 bits being a float32's 24.
// Of a product of two numbers the pairs of terms are kept that count: 1, 3 of 4, or 6 of 9, the small
// ones added first. Where a number is not finite, or rounds to infinity, its other terms are NaN or
// infinite, and so is what it is multiplied into: that is how such a task is found, to be computed by
// float32's own products. Numbers below 2^-102 lose their last terms: bfloat16's products take
// denormals as zeros.
#pragma once

#include "../vec.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <int P>
struct in_terms {
  float value;
};
template <int P>
inline float to_wide(in_terms<P> x) {
  return x.value;
}
template <int P>
inline in_terms<P> from_wide(float f, in_terms<P>*) {
  return {f};
}
template <int P>
inline VecF load(const in_terms<P>* p) {
  return load(&p->value);
}
template <int P>
inline void store(in_terms<P>* p, VecF v) {
  store(&p->value, v);
}

// What products make of the numbers of a storage type: terms of bfloat16 in the tiles of AMX, or
// units for FMAs, where there are no terms.
template <class S>
constexpr int kTerms = 0;
#if defined(FASTRNN_TILES)
template <>
inline constexpr int kTerms<bfloat16> = 1;
template <int P>
inline constexpr int kTerms<in_terms<P>> = P;
#endif

// Whether a task may turn out not to be computable in terms.
template <class S>
constexpr bool kMayFail = kTerms<S> > 1;

// Whether all of [rows][ld] is finite, as far as `width`, whole vectors of it.
template <class C>
inline bool all_finite(const C* c, int64_t rows, int64_t width, int64_t ld) {
  constexpr int W = kLanes<C>;
  Vec<C> zeros{};  // 0 x is not zero where x is not finite
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t x = 0; x < width; x += W) zeros += load(c + r * ld + x) * C(0);
  for (int i = 0; i < W; ++i)
    if (zeros[i] != 0) return false;
  return true;
}

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
