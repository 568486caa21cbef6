// Products of small blocks: c[r][n] (+)= sum_k a(r, k) b[k][n], with rows r broadcast and
// columns n along the lanes.
//
// An operand is stored in units: a number of the accumulation type, or, where the machine
// multiplies them so, a pair of bfloat16 neighbours in k. A block that does not lie so already is
// packed before it is multiplied, once for as many products as it takes part in, and padded with
// zeros to whole vectors and units.
//
// Bound: an FMA for each vector, row and k. A tile of 6 rows and 4 vectors meets each FMA with
// 10/24 loads, most from the first-level cache.
#pragma once

#include "../product.h"
#include "terms.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <int N>
struct Number {
  static constexpr int value = N;
};

template <class S>
struct Unit {
  using type = typename Wide<S>::type;
  static constexpr int kGroup = 1;  // numbers k in one
};
#if defined(__AVX512BF16__) && !defined(FASTRNN_TILES)
#define FASTRNN_PAIRS_BY_FMA 1
template <>
struct Unit<bfloat16> {
  using type = uint32_t;
  static constexpr int kGroup = 2;
};
#endif

// sum += a * b, a one unit for all lanes.
template <class C>
inline void multiply_add(Vec<C>& sum, C a, const C* b) {
  sum += load(b) * a;
}
// a a unit for each lane.
template <class C>
inline void multiply_add(Vec<C>& sum, const C* a, const C* b) {
  sum += load(b) * load(a);
}
#if defined(FASTRNN_PAIRS_BY_FMA)
inline void multiply_add(VecF& sum, uint32_t a, const uint32_t* b) {
  sum = (VecF)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(int(a)),
                               (__m512bh)_mm512_loadu_si512(b));
}
inline void multiply_add(VecF& sum, const uint32_t* a, const uint32_t* b) {
  sum = (VecF)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_loadu_si512(a),
                               (__m512bh)_mm512_loadu_si512(b));
}
#endif

// Operands as they lie: steps in units, from row to row, from one k to the next, and from one term
// to the next, if there are several (terms.h). With the left one's first two swapped it is read as
// its transpose.
template <class T>
struct Left {
  const T* data;
  int64_t row, k, plane = 0;
};
template <class T>
struct Right {
  const T* data;
  int64_t k, plane = 0;
};

template <class C, class T, int R, int U>
__attribute__((noinline)) void multiply_block(int64_t K, const T* a, int64_t a_row, int64_t a_k,
                                              const T* b, int64_t b_k, C* c, int64_t ldc,
                                              bool add) {
  constexpr int W = kLanes<C>;
  Vec<C> sum[R][U];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) sum[r][u] = Vec<C>{};
  for (int64_t k = 0; k < K; ++k) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) multiply_add(sum[r][u], a[r * a_row + k * a_k], b + k * b_k + u * W);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      C* to = c + r * ldc + u * W;
      store(to, add ? load(to) + sum[r][u] : sum[r][u]);
    }
}

template <class C, class T, int R, int U>
inline void multiply_some(int64_t rows, int64_t K, const T* a, int64_t a_row, int64_t a_k,
                          const T* b, int64_t b_k, C* c, int64_t ldc, bool add) {
  if constexpr (R > 1) {
    if (rows < R)
      return multiply_some<C, T, R - 1, U>(rows, K, a, a_row, a_k, b, b_k, c, ldc, add);
  }
  multiply_block<C, T, R, U>(K, a, a_row, a_k, b, b_k, c, ldc, add);
}

constexpr int kTileRows = 6;
constexpr int kTileVectors = kRegisters == 32 ? 4 : 2;

// M rows, N columns (whole vectors), K units.
template <class C, class T>
void fma_matmul(int64_t M, int64_t N, int64_t K, Left<T> a, Right<T> b, C* c, int64_t ldc, bool add) {
  constexpr int W = kLanes<C>;
  const int64_t groups = ceil_div(M, kTileRows);
  int64_t n = 0;
  auto columns = [&](auto vectors) {
    constexpr int U = decltype(vectors)::value;
    for (; n + U * W <= N; n += U * W)
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t r0 = M * g / groups, r1 = M * (g + 1) / groups;
        multiply_some<C, T, kTileRows, U>(r1 - r0, K, a.data + r0 * a.row, a.row, a.k, b.data + n,
                                          b.k, c + r0 * ldc + n, ldc, add);
      }
  };
  if constexpr (kTileVectors == 4) columns(Number<4>{});
  columns(Number<2>{});
  columns(Number<1>{});
}

// tile_matmul.h
template <int P>
void tile_matmul(int64_t M, int64_t N, int64_t K, Left<uint32_t> a, Right<uint32_t> b, float* c,
                 int64_t ldc, bool add);

// The same of a storage type's operands, by what multiplies them.
template <class S, class C, class T>
inline void matmul(int64_t M, int64_t N, int64_t K, Left<T> a, Right<T> b, C* c, int64_t ldc,
                   bool add) {
  if constexpr (kTerms<S> > 0)
    tile_matmul<kTerms<S>>(M, N, K, a, b, c, ldc, add);
  else
    fma_matmul(M, N, K, a, b, c, ldc, add);
}

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
