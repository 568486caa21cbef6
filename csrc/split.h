// Float32 numbers that products take as the sum of P numbers of bfloat16, which they sum in float32. To
// the kernels they are one more storage type: everything but the operands of products stays float32.
//
// One term is the number rounded. Two leave 2^-16 of it, three nothing: 3 x 8 bits are a float32's 24.
// Instructions for bfloat16 take denormals as zero, and a small number's last terms would be some.
// So the terms are those of the number times 2^24, of which the last bit of the smallest normal number is
// normal; no more numbers are flushed than by float32's own products. Numbers from 2^103 on, infinity
// and NaN go as a mark, not finite, and their own bits in the other terms (of two terms the mark holds
// some as well, and 2^-14 is lost): what they are multiplied into is not finite either, whereby it is
// found and multiplied again (tile_product.h).
#pragma once

#include "product.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <int P>
struct split {
  float value;
};
template <int P>
struct FactorOf<split<P>> {
  using type = Terms<P>;
};
template <>
struct FactorOf<split<1>> {
  using type = bfloat16;
};

// Of a product of two numbers' terms.
template <int P>
constexpr float kUnscale = P > 1 ? 0x1p-48f : 1;

template <int P>
inline float to_wide(split<P> x) {
  return x.value;
}
template <int P>
inline split<P> from_wide(float f, split<P>*) {
  return {f};
}
template <int P>
inline VecF load(const split<P>* p) {
  return load(&p->value);
}
template <int P>
inline void store(split<P>* p, VecF v) {
  store(&p->value, v);
}

using BitsF = uint32_t __attribute__((vector_size(kBytes)));

// To bfloat16's eight bits, as float32.
inline VecF rounded(VecF v) {
  const BitsF bits = (BitsF)v;
  return (VecF)((v != v ? (IntF)(bits | 0x400000) : (IntF)(bits + 0x7fff + ((bits >> 16) & 1))) &
                (IntF)(BitsF{} + 0xffff0000));
}

// The terms of a vector of numbers, each as a float32 of which the lower half is zero.
template <int P>
struct TermsOf {
  VecF of[P];

  explicit TermsOf(VecF x) {
    if constexpr (P == 1)
      of[0] = rounded(x);
    else
      take(x);
  }

  // The number that was split, but for what two terms leave.
  static VecF joined(const VecF* of) {
    VecF sum = of[0];
    for (int p = 1; p < P; ++p) sum += of[p];
    const BitsF first = (BitsF)of[0], upper = (BitsF)of[1];
    const BitsF lower = P > 2 ? (BitsF)of[P - 1] >> 16 : (first >> 7) & 0xfe00;
    return (first & kMark) == kMark ? (VecF)(upper | lower) : sum * 0x1p-24f;
  }

 private:
  static constexpr int kNormal = 0x00800000, kHuge = (127 + 103) << 23;
  static constexpr uint32_t kMark = 0x7f800000;

  void take(VecF x) {
    const BitsF bits = (BitsF)x;
    const IntF size = (IntF)(bits & 0x7fffffff);
    // Denormals count as zero, also where the processor is not told so.
    VecF rest = size < kNormal ? VecF{} : x * 0x1p24f;
    for (int p = 0; p < P; ++p) {
      of[p] = rounded(rest);
      rest -= of[p];
    }
    const IntF huge = size >= kHuge;
    put(huge, 0, kMark | (bits & 0xfe00) << 7);
    put(huge, 1, bits & 0xffff0000);
    if constexpr (P > 2) put(huge, 2, bits << 16);
  }
  void put(IntF where, int p, BitsF bits) { of[p] = where ? (VecF)bits : of[p]; }
};

// Two vectors of terms as one of their pairs: the even ones in the lower halves.
inline VecF as_pairs(VecF even, VecF odd) { return (VecF)((BitsF)even >> 16 | (BitsF)odd); }

inline void put_terms(bfloat16* to, VecF term, int lanes) {
  using Half = uint16_t __attribute__((vector_size(kBytes / 2)));
  const Half half = __builtin_convertvector((BitsF)term >> 16, Half);
  __builtin_memcpy(to, &half, size_t(lanes) * sizeof(bfloat16));
}
template <int P>
inline void put_factors(Terms<P>* row, int64_t ld, int64_t column, VecF v, int lanes) {
  const TermsOf<P> terms(v);
  bfloat16* const to = reinterpret_cast<bfloat16*>(row) + column;
#pragma GCC unroll 3
  for (int p = 0; p < P; ++p) {
    if (__builtin_expect(lanes == kLanes<float>, 1))
      put_terms(to + p * ld, terms.of[p], kLanes<float>);
    else
      put_terms(to + p * ld, terms.of[p], lanes);
  }
}

// How packing (product.h) makes the p-th terms.
template <class F, int p, int P>
inline bfloat16 as_factor(split<P> x) {
  bfloat16 term;
  put_terms(&term, TermsOf<P>(broadcast(x.value)).of[p], 1);
  return term;
}
template <int p, int P>
inline VecF load_factors(const split<P>* from) {
  bfloat16 pairs[2 * kLanes<float>];
  for (int half = 0; half < 2; ++half)
    put_terms(pairs + half * kLanes<float>, TermsOf<P>(load(from + half * kLanes<float>)).of[p],
              kLanes<float>);
  return load_bits(pairs);
}
template <int p, int P>
inline void store_pairs(bfloat16* to, const split<P>* even, const split<P>* odd) {
  store_factor(to, as_pairs(TermsOf<P>(load(even)).of[p], TermsOf<P>(load(odd)).of[p]));
}

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
