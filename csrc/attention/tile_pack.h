// Operands of products by tiles: planes of pairs of bfloat16, a plane for each term, k padded with
// zeros to whole tiles.
#pragma once

#include "pack.h"
#include "tile_matmul.h"

namespace fastrnn {
namespace FASTRNN_ISA {

using BitsF = uint32_t __attribute__((vector_size(kBytes)));

// Two vectors of numbers as pairs of each term, the even ones in the lower halves.
template <int P>
inline __attribute__((always_inline)) void split_pairs(VecF even, VecF odd, VecF* pairs) {
  const auto rounded = [](VecF v) {
    const BitsF bits = (BitsF)v, near = bits + 0x7fff + ((bits >> 16) & 1);
    // A NaN stays one; of several terms the others are NaN then.
    return P > 1 ? near & 0xffff0000 : (BitsF)(v != v ? (IntF)bits | 0x400000 : (IntF)near) & 0xffff0000;
  };
#pragma GCC unroll 3
  for (int p = 0; p < P; ++p) {
    const BitsF a = rounded(even), b = rounded(odd);
    pairs[p] = (VecF)(a >> 16 | b);
    even -= (VecF)a, odd -= (VecF)b;
  }
}

// Numbers as they are stored: n of them, not more than the function takes, then zeros.
inline __mmask16 first_lanes(int64_t n) { return __mmask16((uint32_t(1) << max_of(0, min_of(n, 16))) - 1); }
inline VecF load_some(const float* p, int64_t n) { return (VecF)_mm512_maskz_loadu_ps(first_lanes(n), p); }

// 16 numbers of each of two rows as pairs of both.
template <int P>
inline void pairs_of_rows(const float* even, const float* odd, int64_t n, VecF* pairs) {
  split_pairs<P>(even ? load_some(even, n) : VecF{}, odd ? load_some(odd, n) : VecF{}, pairs);
}
template <int P>
inline void pairs_of_rows(const in_terms<P>* even, const in_terms<P>* odd, int64_t n, VecF* pairs) {
  pairs_of_rows<P>(reinterpret_cast<const float*>(even), reinterpret_cast<const float*>(odd), n, pairs);
}
template <int P>
inline void pairs_of_rows(const bfloat16* even, const bfloat16* odd, int64_t n, VecF* pairs) {
  const auto half = [&](const bfloat16* p) {
    return p ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_lanes(n), p)) : __m512i{};
  };
  pairs[0] = (VecF)_mm512_or_si512(half(even), _mm512_slli_epi32(half(odd), 16));
}

// 32 numbers of a row as pairs of neighbours.
template <int P>
inline void pairs_of_row(const float* row, int64_t n, VecF* pairs) {
  const VecF a = load_some(row, n), b = load_some(row + 16, n - 16);
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  split_pairs<P>((VecF)_mm512_permutex2var_ps((__m512)a, even, (__m512)b),
                 (VecF)_mm512_permutex2var_ps((__m512)a, odd, (__m512)b), pairs);
}
template <int P>
inline void pairs_of_row(const in_terms<P>* row, int64_t n, VecF* pairs) {
  pairs_of_row<P>(reinterpret_cast<const float*>(row), n, pairs);
}
template <int P>
inline void pairs_of_row(const bfloat16* row, int64_t n, VecF* pairs) {
  const __mmask32 lanes = n < 32 ? (__mmask32(1) << max_of(n, 0)) - 1 : ~__mmask32(0);
  pairs[0] = (VecF)_mm512_maskz_loadu_epi16(lanes, row);
}

template <class S>
struct Operands<S, true> {
  using C = float;
  using T = uint32_t;
  static constexpr int P = kTerms<S>;
  static int64_t units(int64_t k) { return round_up(ceil_div(k, 2), 16); }
  static int64_t size(int64_t n, int64_t k) { return P * n * units(k); }

  static Left<T> left(const RowBlock<S>& block, T* to) {
    const int64_t n = units(block.width), plane = block.count * n;
    if (sizeof(S) == sizeof(bfloat16) && block.from <= 0 && block.to >= block.count &&
        block.step == 2 * n && block.width == 2 * n)
      return {reinterpret_cast<const T*>(block.data), n, 1, plane};
    for (int64_t r = 0; r < block.count; ++r) {
      const S* row = block.row(r);
      for (int64_t x = 0; x < n; x += 16) {
        VecF pairs[P] = {};
        if (row) pairs_of_row<P>(row + 2 * x, block.width - 2 * x, pairs);
        put(pairs, to + r * n + x, plane);
      }
    }
    return {to, n, 1, plane};
  }
  static Right<T> right_columns(const RowBlock<S>& block, T* to, int64_t ld) {
    const int64_t n = units(block.width), plane = n * ld;
    for (int64_t r = 0; r < block.count; r += 16)
      for (int64_t x = 0; x < n; x += 16)
        transposed(to + x * ld + r, ld, plane, [&](int i, VecF* pairs) {
          const S* row = r + i < block.count ? block.row(r + i) : nullptr;
          if (row) pairs_of_row<P>(row + 2 * x, block.width - 2 * x, pairs);
        });
    return {to, ld, plane};
  }
  static Right<T> right_rows(const RowBlock<S>& block, T* to, int64_t ld) {
    const int64_t n = units(block.count), plane = n * ld;
    for (int64_t r = 0; r < n; ++r) {
      const S* even = 2 * r < block.count ? block.row(2 * r) : nullptr;
      const S* odd = 2 * r + 1 < block.count ? block.row(2 * r + 1) : nullptr;
      for (int64_t x = 0; x < ld; x += 16) {
        VecF pairs[P];
        pairs_of_rows<P>(even ? even + x : nullptr, odd ? odd + x : nullptr, block.width - x, pairs);
        put(pairs, to + r * ld + x, plane);
      }
    }
    return {to, ld, plane};
  }
  static Left<T> left_tile(const float* tile, int64_t ld, int64_t rows, int64_t columns, T* to) {
    const int64_t n = units(columns), plane = rows * n;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t x = 0; x < n; x += 16) {
        VecF pairs[P];
        pairs_of_row<P>(tile + r * ld + 2 * x, columns - 2 * x, pairs);
        put(pairs, to + r * n + x, plane);
      }
    return {to, n, 1, plane};
  }
  static Left<T> left_tile_transposed(const float* tile, int64_t ld, int64_t rows, int64_t columns,
                                      T* to) {
    const int64_t n = units(rows), plane = columns * n;
    for (int64_t c = 0; c < columns; c += 16)
      for (int64_t x = 0; x < n; x += 16)
        transposed(to + c * n + x, n, plane, [&](int i, VecF* pairs) {
          const int64_t r = 2 * (x + i);
          const float* from = tile + r * ld + c;
          pairs_of_rows<P>(r < rows ? from : nullptr, r + 1 < rows ? from + ld : nullptr, 16, pairs);
        });
    return {to, n, 1, plane};
  }

 private:
  static inline void put(const VecF* pairs, T* to, int64_t plane) {
#pragma GCC unroll 3
    for (int p = 0; p < P; ++p) __builtin_memcpy(to + p * plane, &pairs[p], 64);
  }
  // 16 vectors of pairs, made by `of(i, pairs)`, as the columns of a square.
  template <class Of>
  static inline __attribute__((always_inline)) void transposed(T* to, int64_t ld, int64_t plane, Of&& of) {
    VecF rows[P][16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      VecF pairs[P] = {};
      of(i, pairs);
#pragma GCC unroll 3
      for (int p = 0; p < P; ++p) rows[p][i] = pairs[p];
    }
    for (int p = 0; p < P; ++p) {
      transpose<float>(rows[p]);
      for (int i = 0; i < 16; ++i) __builtin_memcpy(to + p * plane + i * ld, &rows[p][i], 64);
    }
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
