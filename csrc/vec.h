// A vector of units, as wide as the instruction set has registers, and its loads and
// stores from every storage dtype. The arithmetic is the compiler's own on vector
// types, so the same source serves SSE2, AVX2, AVX-512 and NEON.
#pragma once

#include <cstdint>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace fastrnn {
namespace FASTRNN_ISA {

#if defined(__AVX512F__)
constexpr int kBytes = 64, kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kRegisters = 32;
#else
constexpr int kBytes = 16, kRegisters = 16;
#endif

using VecF = float __attribute__((vector_size(kBytes)));
using VecD = double __attribute__((vector_size(kBytes)));
using IntF = int32_t __attribute__((vector_size(kBytes)));
using IntD = int64_t __attribute__((vector_size(kBytes)));

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// Storage type -> type of accumulation and state, and its vector.
template <class S>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};
template <class C>
struct VecOf;
template <>
struct VecOf<float> {
  using type = VecF;
  using ints = IntF;
};
template <>
struct VecOf<double> {
  using type = VecD;
  using ints = IntD;
};
template <class C>
using Vec = typename VecOf<C>::type;
template <class C>
constexpr int kLanes = kBytes / int(sizeof(C));

inline float to_float(bfloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}

// Round to nearest even; a NaN stays one.
inline bfloat16 to_bfloat16(float f) {
  uint32_t bits;
  __builtin_memcpy(&bits, &f, 4);
  if (f != f) return {uint16_t((bits >> 16) | 0x40)};
  return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

inline float to_float(float16 x) {
#if defined(__F16C__)
  return _cvtsh_ss(x.bits);
#else
  // Exponent and mantissa shifted into place and the bias mended. A denormal's mantissa is
  // counted in its unit instead: shifted, it would be a denormal float, which the kernels flush.
  constexpr uint32_t kBias = uint32_t(127 - 15) << 23;
  uint32_t bits = uint32_t(x.bits & 0x7fff) << 13;
  float f;
  if ((x.bits & 0x7c00) == 0) {
    f = float(x.bits & 0x3ff) * 0x1p-24f;
    __builtin_memcpy(&bits, &f, 4);
  } else {
    bits += (x.bits & 0x7c00) == 0x7c00 ? 2 * kBias : kBias;
  }
  bits |= uint32_t(x.bits & 0x8000) << 16;
  __builtin_memcpy(&f, &bits, 4);
  return f;
#endif
}

inline float16 to_float16(float f) {
#if defined(__F16C__)
  return {uint16_t(_cvtss_sh(f, 0))};
#else
  uint32_t bits;
  __builtin_memcpy(&bits, &f, 4);
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return {uint16_t(sign | 0x7e00)};   // NaN
  if (bits >= 0x477ff000) return {uint16_t(sign | 0x7c00)};  // rounds past the largest
  if (bits < 0x38800000) {                                   // a half denormal, or zero
    // Adding 0.5 leaves the value, in units of 2^-24, rounded in the low bits.
    float magnitude;
    __builtin_memcpy(&magnitude, &bits, 4);
    magnitude += 0.5f;
    __builtin_memcpy(&bits, &magnitude, 4);
    return {uint16_t(sign | (bits - 0x3f000000))};
  }
  bits += 0xfff + ((bits >> 13) & 1);
  return {uint16_t(sign | ((bits - 0x38000000) >> 13))};
#endif
}

inline float from_wide(float f, float*) { return f; }
inline double from_wide(double d, double*) { return d; }
inline bfloat16 from_wide(float f, bfloat16*) { return to_bfloat16(f); }
inline float16 from_wide(float f, float16*) { return to_float16(f); }
inline float to_wide(float f) { return f; }
inline double to_wide(double d) { return d; }
inline float to_wide(bfloat16 x) { return to_float(x); }
inline float to_wide(float16 x) { return to_float(x); }

template <class C>
inline Vec<C> broadcast(C x) {
  return x - Vec<C>{};  // minus keeps a negative zero
}

// Whole vectors.
template <class C>
inline Vec<C> load(const C* p) {
  Vec<C> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class C>
inline void store(C* p, Vec<C> v) {
  __builtin_memcpy(p, &v, sizeof v);
}

inline VecF load(const bfloat16* p) {
  using Half = uint16_t __attribute__((vector_size(kBytes / 2)));
  using Full = uint32_t __attribute__((vector_size(kBytes)));
  Half half;
  __builtin_memcpy(&half, p, sizeof half);
  return (VecF)(__builtin_convertvector(half, Full) << 16);
}
inline void store(bfloat16* p, VecF v) {
  using Half = uint16_t __attribute__((vector_size(kBytes / 2)));
  using Full = uint32_t __attribute__((vector_size(kBytes)));
  const Full bits = (Full)v;
  const Full rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Full nan = (bits >> 16) | 0x40;
  const Half half = __builtin_convertvector((Full)(v != v ? (IntF)nan : (IntF)rounded), Half);
  __builtin_memcpy(p, &half, sizeof half);
}

inline VecF load(const float16* p) {
#if defined(__AVX512F__)
  return (VecF)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__)
  return (VecF)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  VecF v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = to_float(p[i]);
  return v;
#endif
}
inline void store(float16* p, VecF v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, 0));
#elif defined(__AVX2__)
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, 0));
#else
  for (int i = 0; i < kLanes<float>; ++i) p[i] = to_float16(v[i]);
#endif
}

// The first n lanes; the others read as zero and are not written.
template <class S>
inline Vec<typename Wide<S>::type> load(const S* p, int n) {
  using C = typename Wide<S>::type;
  if (__builtin_expect(n == kLanes<C>, 1)) return load(p);
  C lanes[kLanes<C>] = {};
  for (int i = 0; i < n; ++i) lanes[i] = to_wide(p[i]);
  return load(lanes);
}
template <class S>
inline void store(S* p, Vec<typename Wide<S>::type> v, int n) {
  using C = typename Wide<S>::type;
  if (__builtin_expect(n == kLanes<C>, 1)) return store(p, v);
  C lanes[kLanes<C>];
  store(lanes, v);
  for (int i = 0; i < n; ++i) p[i] = from_wide(lanes[i], (S*)nullptr);
}

template <int... I>
struct Sequence {};
template <int N, int... I>
struct MakeSequence : MakeSequence<N - 1, N - 1, I...> {};
template <int... I>
struct MakeSequence<0, I...> {
  using type = Sequence<I...>;
};

// One exchange of a butterfly between two rows of a tile: where bit `kBit` of the lane is
// set, the low result takes b's lane without it; where clear, the high one a's lane with it.
template <int kBit, bool kHigh, class V, int... I>
inline V exchange(V a, V b, Sequence<I...>) {
  constexpr int W = sizeof...(I);
#if defined(__clang__)
  return __builtin_shufflevector(
      a, b, (kHigh ? (I & kBit ? W + I : I + kBit) : (I & kBit ? W + I - kBit : I))...);
#else
  using Mask = decltype(a == a);
  return __builtin_shuffle(
      a, b, Mask{(kHigh ? (I & kBit ? W + I : I + kBit) : (I & kBit ? W + I - kBit : I))...});
#endif
}

template <class C, int kBit>
inline void transpose_from(Vec<C>* rows) {
  constexpr int W = kLanes<C>;
  if constexpr (kBit < W) {
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      if (i & kBit) continue;
      const Vec<C> a = rows[i], b = rows[i + kBit];
      rows[i] = exchange<kBit, false>(a, b, typename MakeSequence<W>::type{});
      rows[i + kBit] = exchange<kBit, true>(a, b, typename MakeSequence<W>::type{});
    }
    transpose_from<C, 2 * kBit>(rows);
  }
}

// A square tile, as many vectors as lanes, transposed in registers.
template <class C>
inline void transpose(Vec<C>* rows) {
  transpose_from<C, 1>(rows);
}

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
