// Blocks of tensors, copied into the form in which products take them.
#pragma once

#include "matmul.h"
#include "rows.h"

namespace fastrnn {
namespace FASTRNN_ISA {

// Rows [count][X] of a tensor, `step` apart, those outside [from, to) read as zeros: padding
// that nobody sees may hold anything.
template <class S>
struct RowBlock {
  const S* data;
  int64_t step, count, from, to, width;
  const S* row(int64_t r) const { return r >= from && r < to ? data + r * step : nullptr; }
};

// Whether all numbers of a block are finite.
template <class S>
bool finite(const RowBlock<S>& block) {
  using C = typename Wide<S>::type;
  constexpr int W = kLanes<C>;
  Vec<C> zeros{};  // 0 x is not zero where x is not finite
  for (int64_t r = max_of(block.from, 0); r < min_of(block.to, block.count); ++r)
    for (int64_t x = 0; x < block.width; x += W)
      zeros += load(block.data + r * block.step + x, int(min_of(W, block.width - x))) * C(0);
  return sum_lanes<C>(zeros) == 0;
}

// Rows that come from beyond the caches are asked for so many rows ahead, one line in four: the
// processor fetches the neighbours. All lines would cost what is in a cache a fifth of its speed.
constexpr int64_t kAhead = 32;
template <class S>
inline __attribute__((always_inline)) void ask_ahead(const S* row, int64_t step, int64_t width) {
  for (int64_t x = 0; x < width; x += 256 / int64_t(sizeof(S)))
    __builtin_prefetch(row + kAhead * step + x, 0, 2);
}

// to[width] += sum_r weights[r] row(r), rows from memory as they lie, two at a time: the FMAs of
// one alone would wait for each other. Bound: the rows' bytes.
template <class S, class C>
void add_rows(const RowBlock<S>& block, const C* weights, C* to) {
  constexpr int W = kLanes<C>, U = 4;
  const int64_t first = max_of(block.from, 0), last = min_of(block.to, block.count);
  int64_t x = 0;
  for (; x + U * W <= block.width; x += U * W) {
    Vec<C> even[U], odd[U];
    for (int u = 0; u < U; ++u) even[u] = load(to + x + u * W), odd[u] = Vec<C>{};
    int64_t r = first;
    for (; r + 2 <= last; r += 2) {
      const S* row = block.data + r * block.step + x;
      ask_ahead(row, block.step, U * W);
      ask_ahead(row + block.step, block.step, U * W);
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) {
        even[u] += load(row + u * W) * weights[r];
        odd[u] += load(row + block.step + u * W) * weights[r + 1];
      }
    }
    if (r < last)
      for (int u = 0; u < U; ++u) even[u] += load(block.data + r * block.step + x + u * W) * weights[r];
    for (int u = 0; u < U; ++u) store(to + x + u * W, even[u] + odd[u]);
  }
  for (; x < block.width; x += W) {
    const int n = int(min_of(W, block.width - x));
    Vec<C> sum = load(to + x);
    for (int64_t r = first; r < last; ++r) sum += load(block.data + r * block.step + x, n) * weights[r];
    store(to + x, sum);
  }
}

// to[r][ld] += weights[r] row, for r in [first, last).
template <class S, class C>
void add_to_rows(const S* row, int64_t width, const C* weights, int64_t first, int64_t last, C* to,
                 int64_t ld) {
  constexpr int W = kLanes<C>;
  for (int64_t r = first; r < last; ++r)
    for (int64_t x = 0; x < width; x += W)
      store(to + r * ld + x,
            load(to + r * ld + x) + load(row + x, int(min_of(W, width - x))) * weights[r]);
}

// The numbers themselves: c[r][x], x padded to `ld`.
template <class S, class C>
void copy_rows(const RowBlock<S>& block, C* c, int64_t ld) {
  constexpr int W = kLanes<C>;
  for (int64_t r = 0; r < block.count; ++r) {
    const S* row = block.row(r);
    for (int64_t x = 0; x < ld; x += W)
      store(c + r * ld + x, row && x < block.width
                                ? load(row + x, int(min_of(W, block.width - x)))
                                : Vec<C>{});
  }
}

// c[x][r], r padded to whole vectors, x to `depth`.
template <class S, class C>
void copy_columns(const RowBlock<S>& block, int64_t depth, C* c, int64_t ld) {
  constexpr int W = kLanes<C>;
  for (int64_t r = 0; r < block.count; r += W)
    for (int64_t x = 0; x < depth; x += W) {
      Vec<C> tile[W];
      for (int i = 0; i < W; ++i) {
        const S* row = r + i < block.count ? block.row(r + i) : nullptr;
        tile[i] = row && x < block.width ? load(row + x, int(min_of(W, block.width - x)))
                                         : Vec<C>{};
      }
      transpose<C>(tile);
      const int64_t left = min_of(W, depth - x);
      for (int64_t i = 0; i < left; ++i) store(c + (x + i) * ld + r, tile[i]);
    }
}

// Operands of products for a storage type; sizes and strides in units. `to` is memory for a copy,
// which is made only where the numbers do not lie already as they have to.
template <class S, bool kOfTiles = (kTerms<S> > 0)>
struct Operands {
  using C = typename Wide<S>::type;
  using T = typename Unit<S>::type;
  static constexpr int kGroup = Unit<S>::kGroup;
  static int64_t units(int64_t k) { return ceil_div(k, kGroup); }
  // Of n rows or columns of k numbers.
  static int64_t size(int64_t n, int64_t k) { return n * units(k); }

  // k along X: [r][units(X)].
  static Left<T> left(const RowBlock<S>& block, T* to) {
    if (as_it_lies(block)) return {reinterpret_cast<const T*>(block.data), block.step / kGroup, 1};
    const int64_t n = units(block.width);
    for (int64_t r = 0; r < block.count; ++r) left_row(block.row(r), block.width, to + r * n);
    return {to, n, 1};
  }
  // k along X: [units(X)][r], r padded to `ld`.
  static Right<T> right_columns(const RowBlock<S>& block, T* to, int64_t ld);
  // k along the rows: [units(r)][X], X padded to `ld`.
  static Right<T> right_rows(const RowBlock<S>& block, T* to, int64_t ld);
  // From a computed tile [rows][ld]: k along the columns, and k along the rows.
  static Left<T> left_tile(const C* tile, int64_t ld, int64_t rows, int64_t columns, T* to);
  static Left<T> left_tile_transposed(const C* tile, int64_t ld, int64_t rows, int64_t columns,
                                      T* to);

 private:
  static void left_row(const S* row, int64_t width, T* to);
  // Whether rows of units are what is there: dense ones, none of them to be read as zeros. Rows
  // far apart would share their lines of the caches.
  static bool as_it_lies(const RowBlock<S>& block) {
    return sizeof(S) * kGroup == sizeof(T) && block.from <= 0 && block.to >= block.count &&
           block.step == block.width && block.width % kGroup == 0 &&
           uintptr_t(block.data) % sizeof(T) == 0;
  }
};

template <class S, bool kOfTiles>
inline void Operands<S, kOfTiles>::left_row(const S* row, int64_t width, T* to) {
  constexpr int W = kLanes<C>;
  for (int64_t x = 0; x < width; x += W) {
    const int n = int(min_of(W, width - x));
    store(to + x, row ? load(row + x, n) : Vec<C>{}, n);
  }
}
template <class S, bool kOfTiles>
inline Right<typename Operands<S, kOfTiles>::T> Operands<S, kOfTiles>::right_columns(const RowBlock<S>& block, T* to,
                                                                 int64_t ld) {
  copy_columns(block, block.width, to, ld);
  return {to, ld};
}
template <class S, bool kOfTiles>
inline Right<typename Operands<S, kOfTiles>::T> Operands<S, kOfTiles>::right_rows(const RowBlock<S>& block, T* to,
                                                              int64_t ld) {
  if (block.width == ld && as_it_lies(block)) return {reinterpret_cast<const T*>(block.data), ld};
  copy_rows(block, to, ld);
  return {to, ld};
}
template <class S, bool kOfTiles>
inline Left<typename Operands<S, kOfTiles>::T> Operands<S, kOfTiles>::left_tile(const C* tile, int64_t ld, int64_t,
                                                            int64_t, T*) {
  return {tile, ld, 1};
}
template <class S, bool kOfTiles>
inline Left<typename Operands<S, kOfTiles>::T> Operands<S, kOfTiles>::left_tile_transposed(const C* tile, int64_t ld,
                                                                       int64_t, int64_t, T*) {
  return {tile, 1, ld};
}

#if defined(FASTRNN_PAIRS_BY_FMA)
// Pairs of bfloat16.
template <>
inline void Operands<bfloat16>::left_row(const bfloat16* row, int64_t width, uint32_t* to) {
  if (row == nullptr) {
    __builtin_memset(to, 0, size_t(units(width)) * 4);
    return;
  }
  if (width % 2) to[width / 2] = 0;
  __builtin_memcpy(to, row, size_t(width) * 2);
}

template <>
inline Right<uint32_t> Operands<bfloat16>::right_columns(const RowBlock<bfloat16>& block,
                                                         uint32_t* to, int64_t ld) {
  // As for floats, a pair taken for one.
  const int64_t depth = units(block.width);
  for (int64_t r = 0; r < block.count; r += 16)
    for (int64_t x = 0; x < depth; x += 16) {
      VecF tile[16];
      for (int i = 0; i < 16; ++i) {
        const bfloat16* row = r + i < block.count ? block.row(r + i) : nullptr;
        tile[i] = VecF{};
        if (row)
          __builtin_memcpy(&tile[i], row + 2 * x, size_t(min_of(64, 2 * (block.width - 2 * x))));
      }
      transpose<float>(tile);
      const int64_t left = min_of(16, depth - x);
      for (int64_t i = 0; i < left; ++i) __builtin_memcpy(to + (x + i) * ld + r, &tile[i], 64);
    }
  return {to, ld};
}

// Two rows of 16, neighbours in k, as 16 pairs.
inline __m512i interleave(__m256i even, __m256i odd) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(even),
                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

template <>
inline Right<uint32_t> Operands<bfloat16>::right_rows(const RowBlock<bfloat16>& block,
                                                      uint32_t* to, int64_t ld) {
  for (int64_t r = 0; r < block.count; r += 2) {
    const bfloat16* even = block.row(r);
    const bfloat16* odd = r + 1 < block.count ? block.row(r + 1) : nullptr;
    for (int64_t x = 0; x < ld; x += 16) {
      const int64_t n = max_of(0, min_of(16, block.width - x));
      const __mmask16 lanes = __mmask16((1u << n) - 1);
      const __m256i a = even ? _mm256_maskz_loadu_epi16(lanes, even + x) : _mm256_setzero_si256();
      const __m256i b = odd ? _mm256_maskz_loadu_epi16(lanes, odd + x) : _mm256_setzero_si256();
      _mm512_storeu_si512(to + r / 2 * ld + x, interleave(a, b));
    }
  }
  return {to, ld};
}

inline __m256i as_bfloat16(const float* p) {
  return (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(p));
}

template <>
inline Left<uint32_t> Operands<bfloat16>::left_tile(const float* tile, int64_t ld, int64_t rows,
                                                    int64_t columns, uint32_t* to) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t x = 0; x < columns; x += 16)
      _mm256_storeu_si256((__m256i*)(to + (r * ld + x) / 2), as_bfloat16(tile + r * ld + x));
  return {to, ld / 2, 1};
}

template <>
inline Left<uint32_t> Operands<bfloat16>::left_tile_transposed(const float* tile, int64_t ld,
                                                               int64_t rows, int64_t columns,
                                                               uint32_t* to) {
  for (int64_t r = 0; r < rows; r += 2)
    for (int64_t x = 0; x < columns; x += 16) {
      const __m256i odd =
          r + 1 < rows ? as_bfloat16(tile + (r + 1) * ld + x) : _mm256_setzero_si256();
      _mm512_storeu_si512(to + r / 2 * ld + x, interleave(as_bfloat16(tile + r * ld + x), odd));
    }
  return {to, 1, ld};
}
#endif

}  // namespace FASTRNN_ISA
}  // namespace fastrnn

#if defined(FASTRNN_TILES)
#include "tile_pack.h"
#endif
