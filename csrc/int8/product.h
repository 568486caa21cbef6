// Products of int8 weights with rows of float32 that are quantised as they come.
//
//   sum_k w[k] x[k]  ~  scale_w scale_x sum_k W[k] X[k],   W = round(w / scale_w), X likewise,
//
// scales such that the largest of a row becomes 127. The sum of the integers is exact, so it is the
// same for every instruction set, tile and number of threads. Weights are stored as bytes 128 + W,
// which vpdpbusd wants and which a shift takes apart where there is none; the row's 128 sum_k X[k]
// is taken off again.
//
// Bound, per step: a quarter of float32's bytes, and a quarter of its cycles by vpdpbusd.
#pragma once

#include "../math.h"
#include "../product.h"
#include "types.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastrnn {
namespace FASTRNN_ISA {

constexpr int64_t kQuadBytes = kUnitsOfBlock * 4;        // one gate of a block, four k
constexpr int kParts = int(kUnitsOfBlock) / kLanes<float>;  // vectors that a block's units take

inline int32_t load_int(const void* from) {
  int32_t found;
  __builtin_memcpy(&found, from, sizeof found);
  return found;
}

// Four k of a vector of units, and their product with four numbers of a row.
#if defined(__AVX512VNNI__)
using Quantum = int8_t;
struct Quad {
  __m512i bytes;
  explicit Quad(const uint8_t* at) : bytes(_mm512_loadu_si512(at)) {}
  IntF add(IntF sum, const Quantum* row) const {
    return (IntF)_mm512_dpbusd_epi32((__m512i)sum, bytes, _mm512_set1_epi32(load_int(row)));
  }
};
#elif defined(__AVX2__) || defined(__SSE2__)
// A row's four in the order 0 2 1 3: even and odd bytes are multiplied apart, in 16 bits.
using Quantum = int16_t;
#if defined(__AVX512BW__)
#define FASTRNN_(name) _mm512_##name
using Integers = __m512i;
#elif defined(__AVX2__)
#define FASTRNN_(name) _mm256_##name
using Integers = __m256i;
#else
#define FASTRNN_(name) _mm_##name
using Integers = __m128i;
#endif
struct Quad {
  Integers even, odd;
  explicit Quad(const uint8_t* at) {
    Integers bytes;
    __builtin_memcpy(&bytes, at, sizeof bytes);
    even = (Integers)((IntF)bytes & 0x00ff00ff);
    odd = FASTRNN_(srli_epi16)(bytes, 8);
  }
  IntF add(IntF sum, const Quantum* row) const {
    return sum + (IntF)FASTRNN_(madd_epi16)(even, FASTRNN_(set1_epi32)(load_int(row))) +
           (IntF)FASTRNN_(madd_epi16)(odd, FASTRNN_(set1_epi32)(load_int(row + 2)));
  }
};
#undef FASTRNN_
#else
using Quantum = int8_t;
struct Quad {
  const uint8_t* at;
  explicit Quad(const uint8_t* at) : at(at) {}
  IntF add(IntF sum, const Quantum* row) const {
    for (int lane = 0; lane < kLanes<float>; ++lane)
      for (int j = 0; j < 4; ++j) sum[lane] += int32_t(at[4 * lane + j]) * int32_t(row[j]);
    return sum;
  }
};
#endif

// Rows of quantised numbers, padded with zeros.
struct Quantised {
  Quantum* data = nullptr;
  int64_t ld = 0;
  float* scale = nullptr;
  int32_t* offset = nullptr;  // 128 times the sum of the row
};

// To the nearest integer, of two the even one: by the processor's conversion, which no compiler
// joins with the product before it.
inline IntF nearest(VecF v) {
#if defined(__AVX512F__)
  return (IntF)_mm512_cvtps_epi32((__m512)v);
#elif defined(__AVX2__)
  return (IntF)_mm256_cvtps_epi32((__m256)v);
#elif defined(__SSE2__)
  return (IntF)_mm_cvtps_epi32((__m128)v);
#else
  IntF found;
  for (int i = 0; i < kLanes<float>; ++i) found[i] = int32_t(__builtin_rintf(v[i]));
  return found;
#endif
}

inline void store_quanta(Quantum* to, IntF v) {
  using Narrow = Quantum __attribute__((vector_size(kLanes<float> * sizeof(Quantum))));
  const Narrow narrow = __builtin_convertvector(v, Narrow);
  if constexpr (sizeof(Quantum) == 1) {
    __builtin_memcpy(to, &narrow, sizeof narrow);
  } else {
    Quantum lanes[kLanes<float>];
    __builtin_memcpy(lanes, &narrow, sizeof narrow);
    for (int i = 0; i < kLanes<float>; i += 4) {
      to[i] = lanes[i], to[i + 1] = lanes[i + 2], to[i + 2] = lanes[i + 1], to[i + 3] = lanes[i + 3];
    }
  }
}

inline int32_t sum_of(IntF v) {
  int32_t total = 0;
  for (int i = 0; i < kLanes<float>; ++i) total += v[i];
  return total;
}

// The r-th row becomes that of `row`. One with a number that is not finite gets a scale of NaN; one
// all of whose numbers are below 2^-120 counts as zero.
inline void quantise(const float* row, int64_t K, const Quantised& to, int64_t r) {
  constexpr int W = kLanes<float>;
  // Magnitudes compare as their bits do, infinity and NaN above all numbers.
  IntF most{};
  for (int64_t k = 0; k < K; k += W) {
    const IntF bits = (IntF)load(row + k, int(min_of(W, K - k))) & 0x7fffffff;
    most = bits > most ? bits : most;
  }
  int32_t bits = 0;
  for (int i = 0; i < W; ++i) bits = most[i] > bits ? most[i] : bits;
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  const bool finite = bits < 0x7f800000, zero = largest < 0x1p-120f;
  to.scale[r] = !finite ? __builtin_nanf("") : zero ? 0 : largest / 127;
  const float inverse = finite && !zero ? 127 / largest : 0;
  Quantum* at = to.data + r * to.ld;
  IntF sum{};
  int64_t k = 0;
  for (; k < K; k += W) {
    const VecF v = load(row + k, int(min_of(W, K - k)));
    const IntF quanta = finite ? nearest(v * inverse) : IntF{};
    sum += quanta;
    store_quanta(at + k, quanta);
  }
  for (; k < to.ld; k += W) store_quanta(at + k, IntF{});
  to.offset[r] = 128 * sum_of(sum);
}

// acc[part][row][gate]; E sums of each run side by side, to cover the product's latency.
template <int G, int R, int P, int E>
__attribute__((noinline)) void multiply_quads(const uint8_t* w, const Quantum* rows, int64_t ld,
                                              int64_t depth, IntF* acc) {
  constexpr int kAhead = 1024;
  IntF sum[E][P][R][G];
#pragma GCC unroll 64
  for (int i = 0; i < E * P * R * G; ++i) (&sum[0][0][0][0])[i] = IntF{};
  for (int64_t k = 0; k < depth; k += 4 * E) {
#pragma GCC unroll 8
    for (int e = 0; e < E; ++e) {
      const uint8_t* at = w + (k / 4 + e) * (G * kQuadBytes);
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
        __builtin_prefetch(at + g * kQuadBytes + kAhead);
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) {
          const Quad weight(at + g * kQuadBytes + p * kBytes);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r)
            sum[e][p][r][g] = weight.add(sum[e][p][r][g], rows + r * ld + k + 4 * e);
        }
      }
    }
  }
#pragma GCC unroll 64
  for (int i = 0; i < P * R * G; ++i) {
    IntF total = (&sum[0][0][0][0])[i];
    for (int e = 1; e < E; ++e) total += (&sum[e][0][0][0])[i];
    acc[i] = total;
  }
}

template <int G, int R>
void multiply_rows_of_quads(int64_t rows, const uint8_t* w, const Quantum* from, int64_t ld,
                            int64_t depth, IntF* acc) {
  if constexpr (R > 1) {
    if (rows < R) return multiply_rows_of_quads<G, R - 1>(rows, w, from, ld, depth, acc);
  }
  multiply_quads<G, R, 1, 1>(w, from, ld, depth, acc);
}

// A matrix of G gates of U units, of depth K.
template <int G>
struct Int8Product {
  const Int8Matrix& matrix;
  int64_t U, K;
  // Blocks from the last to the first: see ../product.h.
  bool backwards;

  static constexpr int kMostRows = kManyRegisters && G > 2 ? 24 / G : 8 / G;

  // Calls epilogue(row, unit, lanes, sums[G]) for rows [r0, r1) of `rows`, units of blocks [u0, u1).
  template <class Epilogue>
  void run(const Quantised& rows, int64_t r0, int64_t r1, int64_t u0, int64_t u1,
           Epilogue&& epilogue) const {
    constexpr int W = kLanes<float>;
    const int64_t depth = round_up(K, kDepthStep), block = depth / 4 * G * kQuadBytes;
    auto finish = [&](int64_t r, int64_t unit, const IntF* acc) {
      const int lanes = int(min_of(W, U - unit));
      if (lanes <= 0) return;
      VecF sums[G];
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
        const VecF scale = load(matrix.scales + g * U + unit, lanes) * rows.scale[r];
        sums[g] = __builtin_convertvector(acc[g] - rows.offset[r], VecF) * scale;
      }
      epilogue(r, unit, lanes, sums);
    };
    for (int64_t i = u0; i < u1; ++i) {
      const int64_t u = backwards ? u1 - 1 - (i - u0) : i;
      const uint8_t* w = matrix.packed + u * block;
      if (r1 - r0 == 1) {
        constexpr int P = kParts > 1 ? 2 : 1, E = P > 1 ? 1 : 4;
        for (int p = 0; p < kParts; p += P) {
          IntF acc[P * G];
          multiply_quads<G, 1, P, E>(w + p * kBytes, rows.data + r0 * rows.ld, rows.ld, depth, acc);
          for (int q = 0; q < P; ++q)
            finish(r0, u * kUnitsOfBlock + (p + q) * W, acc + q * G);
        }
        continue;
      }
      const int64_t groups = ceil_div(r1 - r0, kMostRows);
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t first = r0 + (r1 - r0) * group / groups;
        const int64_t last = r0 + (r1 - r0) * (group + 1) / groups;
        for (int p = 0; p < kParts; ++p) {
          IntF acc[kMostRows * G];
          multiply_rows_of_quads<G, kMostRows>(last - first, w + p * kBytes,
                                               rows.data + first * rows.ld, rows.ld, depth, acc);
          for (int64_t r = first; r < last; ++r)
            finish(r, u * kUnitsOfBlock + p * W, acc + (r - first) * G);
        }
      }
    }
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
