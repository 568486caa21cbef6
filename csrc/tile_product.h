// The recurrent product by tiles, of bfloat16 and of float32 in terms of it (split.h). Weights packed in
// pairs (product.h) are tiles as they lie: 16 pairs of k for the 16 units of a block and gate, with the
// gates between them. So is h: up to 16 rows of 32 k. Sums leave as Product's callers want them,
// [row][block][gate][lane].
//
// A row's sums are made in the same order however many rows there are, so its bits depend neither
// on its neighbours nor on the number of threads; also one row is a tile.
//
// Bound: 16 rows x 16 units x 32 k in 16 cycles, 16 times the FMA's rate; of P terms P (P + 1) / 2 times
// as many. With 32 rows, of two gates at a time, four products wait for four tiles loaded.
#pragma once

#include "split.h"
#include "tile_ops.h"

namespace fastrnn {
namespace FASTRNN_ISA {

// Rows in groups of at most two tiles, as even as can be: the tiles' shapes hold for all of them,
// the last group taking some of the rows before it once more.
struct RowGroups {
  int64_t rows, count, each;
  explicit RowGroups(int64_t rows)
      : rows(rows), count(ceil_div(rows, 2 * tiles::kRows)), each(ceil_div(rows, max_of(count, 1))) {}
  int64_t first(int64_t i) const { return min_of(i * each, rows - each); }
  int upper() const { return int(min_of(each, tiles::kRows)); }
  int lower() const { return int(each) - upper(); }
};

// Which terms of a row's number and of a weight are multiplied: all but those whose product is below
// the last bit, from the smallest products to the first terms' own.
struct TermPair {
  int row, weight;
};
template <int P>
struct TermPairs {
  static constexpr TermPair of[] = {{0, 0}};
};
template <>
struct TermPairs<2> {
  static constexpr TermPair of[] = {{0, 1}, {1, 0}, {0, 0}};
};
template <>
struct TermPairs<3> {
  static constexpr TermPair of[] = {{0, 2}, {1, 1}, {2, 0}, {0, 1}, {1, 0}, {0, 0}};
};

// One group's rows times one or more columns, a column being a block's gate.
template <int P>
struct TileDots {
  const bfloat16* h;  // of the first row
  int64_t row, row_plane;  // from row to row, and from plane to plane
  const bfloat16* w;  // of the first column
  int64_t pair_step, weight_plane;  // from one pair of k to the next
  int64_t K;
  float* sums;
  int64_t sums_step;  // from row to row, in floats
  int upper, lower;

  // Registers: sums 0 to 3, of the second half of the rows from 2 on; rows 4 and 5; weights 6 and 7.
  //
  // The first terms' products are summed after all others: so the small ones are not rounded to the
  // last bit of a large sum over and over.
  template <int kHalves, int kColumns>
  __attribute__((noinline)) void run(const int64_t* columns) const {
    static_assert(kHalves * kColumns <= 4, "four tiles of sums");
    constexpr int kPairs = P * (P + 1) / 2;
    clear<0, kHalves, kColumns>();
    if constexpr (kPairs > 1) sweep<0, kPairs - 1, kHalves, kColumns>(columns);
    sweep<kPairs - 1, kPairs, kHalves, kColumns>(columns);
    put<0, kHalves, kColumns>();
  }

 private:
  // Where the tiles of 32 k lie.
  template <int kColumns>
  struct Place {
    const bfloat16 *above, *below, *at[kColumns];
    int64_t row_bytes, row_plane, pair_bytes, weight_plane;
  };

  // All k, of the pairs of terms [I, kEnd).
  template <int I, int kEnd, int kHalves, int kColumns>
  inline __attribute__((always_inline)) void sweep(const int64_t* columns) const {
    // In registers: the loads may touch any memory, as far as the compiler knows.
    Place<kColumns> place;
    place.above = h, place.below = h + upper * row;
    for (int c = 0; c < kColumns; ++c) place.at[c] = w + columns[c];
    place.row_bytes = row * 2, place.row_plane = row_plane;
    place.pair_bytes = pair_step * 2, place.weight_plane = weight_plane;
    const int64_t depth = K;
    int64_t k = 0;
    for (; k + tiles::kDepth <= depth; k += tiles::kDepth) {
      products<I, kEnd, kHalves, kColumns>(place);
      place.above += tiles::kDepth, place.below += tiles::kDepth;
      for (int c = 0; c < kColumns; ++c) place.at[c] += place.pair_bytes * (tiles::kDepth / 4);
    }
    if (k < depth) last<I, kEnd, kHalves, kColumns>(columns, k);
  }

  // What is past the last k of a row, or of the weights, is another's: zeros in its place.
  template <int I, int kEnd, int kHalves, int kColumns>
  __attribute__((noinline)) void last(const int64_t* columns, int64_t k) const {
    alignas(64) bfloat16 rest[P][2 * tiles::kRows][tiles::kDepth] = {};
    alignas(64) bfloat16 weights[kColumns][P][tiles::kRows][tiles::kDepth] = {};
    for (int p = 0; p < P; ++p) {
      for (int r = 0; r < upper + lower; ++r)
        __builtin_memcpy(rest[p][r], h + r * row + p * row_plane + k, size_t(K - k) * 2);
      for (int c = 0; c < kColumns; ++c)
        for (int64_t i = 0; i < ceil_div(K - k, 2); ++i)
          __builtin_memcpy(weights[c][p][i],
                           w + columns[c] + p * weight_plane + (k / 2 + i) * pair_step, tiles::kRowBytes);
    }
    Place<kColumns> place;
    place.above = rest[0][0], place.below = rest[0][upper];
    for (int c = 0; c < kColumns; ++c) place.at[c] = weights[c][0][0];
    place.row_bytes = place.pair_bytes = tiles::kRowBytes;
    place.row_plane = 2 * tiles::kRows * tiles::kDepth, place.weight_plane = tiles::kRows * tiles::kDepth;
    products<I, kEnd, kHalves, kColumns>(place);
  }

  template <int I, int kEnd, int kHalves, int kColumns>
  static inline __attribute__((always_inline)) void products(const Place<kColumns>& place) {
    if constexpr (I < kEnd) {
      constexpr TermPair pair = TermPairs<P>::of[I];
      tiles::load<4>(place.above + pair.row * place.row_plane, place.row_bytes);
      if constexpr (kHalves == 2)
        tiles::load<5>(place.below + pair.row * place.row_plane, place.row_bytes);
      take<0, pair.weight, kHalves>(place);
      products<I + 1, kEnd, kHalves>(place);
    }
  }
  template <int C, int kTerm, int kHalves, int kColumns>
  static inline __attribute__((always_inline)) void take(const Place<kColumns>& place) {
    if constexpr (C < kColumns) {
      tiles::load<6 + C % 2>(place.at[C] + kTerm * place.weight_plane, place.pair_bytes);
      tiles::dot<C, 4, 6 + C % 2>();
      if constexpr (kHalves == 2) tiles::dot<2 + C, 5, 6 + C % 2>();
      take<C + 1, kTerm, kHalves>(place);
    }
  }
  template <int C, int kHalves, int kColumns>
  static inline void clear() {
    if constexpr (C < kColumns) {
      tiles::clear<C>();
      if constexpr (kHalves == 2) tiles::clear<2 + C>();
      clear<C + 1, kHalves, kColumns>();
    }
  }
  template <int C, int kHalves, int kColumns>
  inline void put() const {
    if constexpr (C < kColumns) {
      float* to = sums + C * kLanes<float>;
      tiles::store<C>(to, sums_step * 4);
      if constexpr (kHalves == 2) tiles::store<2 + C>(to + upper * sums_step, sums_step * 4);
      put<C + 1, kHalves, kColumns>();
    }
  }
};

// As Product of product.h, whose place it takes.
template <class F, int G>
struct TileProduct {
  static constexpr int W = kLanes<float>, P = kPlanes<F>;
  // Blocks at once: four columns, where there are so few gates.
  static constexpr int kBlocks = G >= 3 ? 1 : G == 2 ? 2 : 4;

  const F* packed;
  int64_t K;
  const F* h;  // [rows, ld]
  int64_t ld;
  bool backwards;

  template <class Epilogue>
  inline void run(int64_t r0, int64_t r1, int64_t u0, int64_t u1, Epilogue&& epilogue) const {
    if (r1 <= r0 || u1 <= u0) return;
    const RowGroups groups(r1 - r0);
    tiles::Config config;
    for (int i = 0; i < 4; ++i)
      config.shape(i, i >= 2 && groups.lower() ? groups.lower() : groups.upper());
    config.shape(4, groups.upper()), config.shape(6, tiles::kRows), config.shape(7, tiles::kRows);
    if (groups.lower()) config.shape(5, groups.lower());
    tiles::configure(config);
    const int64_t turns = ceil_div(u1 - u0, kBlocks);
    for (int64_t turn = 0; turn < turns; ++turn) {
      const int64_t u = u0 + (backwards ? turns - 1 - turn : turn) * kBlocks;
      const int blocks = int(min_of(kBlocks, u1 - u));
      for (int64_t i = 0; i < groups.count; ++i) {
        VecF sums[2 * tiles::kRows * kBlocks * G];
        const int64_t first = groups.first(i);
        multiply(groups, first + r0, u, blocks, reinterpret_cast<float*>(sums));
        for (int64_t r = i * groups.each; r < min_of((i + 1) * groups.each, groups.rows); ++r)
          for (int b = 0; b < blocks; ++b) {
            VecF* const found = sums + ((r - first) * blocks + b) * G;
            if constexpr (P > 1)
              if (!finite(found)) multiply_plainly(r0 + r, u + b, found);
            epilogue(r0 + r, u + b, found);
          }
      }
    }
    tiles::release();
  }

 private:
  int64_t block_size() const { return round_up(K, 2) * G * W; }
  const bfloat16* block(int64_t u) const {
    return reinterpret_cast<const bfloat16*>(packed + u * block_size());
  }
  const bfloat16* row(int64_t r) const { return reinterpret_cast<const bfloat16*>(h + r * ld); }

  // The sums of a group's rows and some blocks.
  void multiply(const RowGroups& groups, int64_t first, int64_t u, int blocks, float* sums) const {
    int64_t columns[kBlocks * G];
    for (int c = 0; c < blocks * G; ++c)
      columns[c] = c / G * P * block_size() + c % G * 2 * W;
    TileDots<P> dots{row(first), P * ld, ld, block(u), G * 2 * W, block_size(), K,
                     sums, blocks * G * W, groups.upper(), groups.lower()};
    const int count = blocks * G;
    int c = 0;
    if (groups.lower()) {
      for (; c + 2 <= count; c += 2) at(dots, sums, c).template run<2, 2>(columns + c);
      if (c < count) at(dots, sums, c).template run<2, 1>(columns + c);
    } else {
      for (; c + 4 <= count; c += 4) at(dots, sums, c).template run<1, 4>(columns + c);
      // What is left at once: a sum's tile is waited for, and others are to be had meanwhile.
      if (count - c == 3) at(dots, sums, c).template run<1, 3>(columns + c);
      if (count - c == 2) at(dots, sums, c).template run<1, 2>(columns + c);
      if (count - c == 1) at(dots, sums, c).template run<1, 1>(columns + c);
    }
  }
  static const TileDots<P>& at(TileDots<P>& dots, float* sums, int c) {
    dots.sums = sums + c * W;
    return dots;
  }

  // A row's sums of a block, of the numbers that the terms were made of; false if one is not finite.
  static bool finite(VecF* sums) {
    __mmask16 found = 0;
    for (int g = 0; g < G; ++g) {
      sums[g] *= kUnscale<P>;
      found |= _mm512_fpclass_ps_mask((__m512)sums[g], kNaNOrInfinity);
    }
    return found == 0;
  }
  static constexpr int kNaNOrInfinity = 0x99;

  // The same by FMAs, as float32's own product would: where numbers are not finite, where terms cannot
  // be had of them (split.h), or where sums of scaled ones are too large.
  __attribute__((noinline)) void multiply_plainly(int64_t r, int64_t u, VecF* sums) const {
    const bfloat16 *x = row(r), *w = block(u);
    for (int g = 0; g < G; ++g) sums[g] = VecF{};
    for (int64_t k = 0; k < K; k += 2) {
      VecF even, odd;
      join_pairs(x + k, ld, [](const bfloat16* pair) {
        int bits;
        __builtin_memcpy(&bits, pair, sizeof bits);
        return (VecF)_mm512_set1_epi32(bits);
      }, even, odd);
      for (int g = 0; g < G; ++g) {
        VecF weight_even, weight_odd;
        join_pairs(w + (k / 2 * G + g) * 2 * W, block_size(),
                   [](const bfloat16* pairs) { return load_bits(pairs); }, weight_even, weight_odd);
        sums[g] = (VecF)_mm512_fmadd_ps((__m512)weight_even, (__m512)even, (__m512)sums[g]);
        sums[g] = (VecF)_mm512_fmadd_ps((__m512)weight_odd, (__m512)odd, (__m512)sums[g]);
      }
    }
  }
  template <class Load>
  static inline void join_pairs(const bfloat16* at, int64_t plane, Load&& load, VecF& even, VecF& odd) {
    VecF evens[P], odds[P];
    for (int p = 0; p < P; ++p) {
      const BitsF pairs = (BitsF)load(at + p * plane);
      evens[p] = (VecF)(pairs << 16), odds[p] = (VecF)(pairs & 0xffff0000);
    }
    even = TermsOf<P>::joined(evens), odd = TermsOf<P>::joined(odds);
  }
};

template <int G>
struct Product<bfloat16, G> : TileProduct<bfloat16, G> {};
template <int P, int G>
struct Product<Terms<P>, G> : TileProduct<Terms<P>, G> {};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
