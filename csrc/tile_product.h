// The recurrent product of bfloat16 by tiles. Weights packed in pairs (product.h) are tiles as they
// lie: 16 pairs of k for the 16 units of a block and gate, with the gates between them. So is h: up to
// 16 rows of 32 k. Sums leave as Product's callers want them, [row][block][gate][lane].
//
// A row's sums are made in the same order however many rows there are, so its bits depend neither
// on its neighbours nor on the number of threads; also one row is a tile.
//
// Bound: 16 rows x 16 units x 32 k in 16 cycles, 16 times the FMA's rate; with 32 rows, of two gates
// at a time, four products wait for four tiles loaded.
#pragma once

#include "product.h"
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

// One group's rows times one or more columns, a column being a block's gate.
struct TileDots {
  const bfloat16* h;  // of the first row
  int64_t ld;
  const bfloat16* w;  // of the first column
  int64_t pair_step;  // from one pair of k to the next
  int64_t K;
  float* sums;
  int64_t sums_step;  // from row to row, in floats
  int upper, lower;

  // Registers: sums 0 to 3, of the second half of the rows from 2 on; rows 4 and 5; weights 6 and 7.
  template <int kHalves, int kColumns>
  __attribute__((noinline)) void run(const int64_t* columns) const {
    static_assert(kHalves * kColumns <= 4, "four tiles of sums");
    clear<0, kHalves, kColumns>();
    int64_t k = 0;
    // In registers: the loads may touch any memory, as far as the compiler knows.
    const bfloat16 *above = h, *below = h + upper * ld, *at[kColumns];
    for (int c = 0; c < kColumns; ++c) at[c] = w + columns[c];
    const int64_t row_bytes = ld * 2, pair_bytes = pair_step * 2, depth = K;
    for (; k + tiles::kDepth <= depth; k += tiles::kDepth) {
      tiles::load<4>(above + k, row_bytes);
      if constexpr (kHalves == 2) tiles::load<5>(below + k, row_bytes);
      take<0, kHalves, kColumns>([&](int c) { return at[c] + k * (pair_bytes / 4); }, pair_bytes);
    }
    if (k < K) {
      // What is past the last k of a row, or of the weights, is another's: zeros in its place.
      bfloat16 rest[2 * tiles::kRows][tiles::kDepth] = {};
      bfloat16 weights[kColumns][tiles::kRows][tiles::kDepth] = {};
      for (int r = 0; r < upper + lower; ++r)
        __builtin_memcpy(rest[r], h + r * ld + k, size_t(K - k) * 2);
      for (int c = 0; c < kColumns; ++c)
        for (int64_t p = 0; p < ceil_div(K - k, 2); ++p)
          __builtin_memcpy(weights[c][p], w + columns[c] + (k / 2 + p) * pair_step, tiles::kRowBytes);
      tiles::load<4>(rest[0], tiles::kRowBytes);
      if constexpr (kHalves == 2) tiles::load<5>(rest[upper], tiles::kRowBytes);
      take<0, kHalves, kColumns>([&](int c) { return weights[c][0]; }, tiles::kRowBytes);
    }
    put<0, kHalves, kColumns>();
  }

 private:
  template <int C, int kHalves, int kColumns>
  static inline void clear() {
    if constexpr (C < kColumns) {
      tiles::clear<C>();
      if constexpr (kHalves == 2) tiles::clear<2 + C>();
      clear<C + 1, kHalves, kColumns>();
    }
  }
  template <int C, int kHalves, int kColumns, class At>
  static inline __attribute__((always_inline)) void take(At&& at, int64_t step) {
    if constexpr (C < kColumns) {
      tiles::load<6 + C % 2>(at(C), step);
      tiles::dot<C, 4, 6 + C % 2>();
      if constexpr (kHalves == 2) tiles::dot<2 + C, 5, 6 + C % 2>();
      take<C + 1, kHalves, kColumns>(at, step);
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
template <int G>
struct Product<bfloat16, G> {
  static constexpr int W = kLanes<float>;
  // Blocks at once: four columns, where there are so few gates.
  static constexpr int kBlocks = G >= 3 ? 1 : G == 2 ? 2 : 4;

  const bfloat16* packed;
  int64_t K;
  const bfloat16* h;  // [rows, ld]
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
        multiply(groups, h + (r0 + first) * ld, u, blocks, reinterpret_cast<float*>(sums));
        for (int64_t r = i * groups.each; r < min_of((i + 1) * groups.each, groups.rows); ++r)
          for (int b = 0; b < blocks; ++b)
            epilogue(r0 + r, u + b, sums + ((r - first) * blocks + b) * G);
      }
    }
    tiles::release();
  }

 private:
  // The sums of a group's rows and some blocks.
  void multiply(const RowGroups& groups, const bfloat16* rows, int64_t u, int blocks,
                float* sums) const {
    const int64_t block_size = round_up(K, 2) * G * W;
    int64_t columns[kBlocks * G];
    for (int c = 0; c < blocks * G; ++c)
      columns[c] = (u + c / G) * block_size + c % G * 2 * W;
    TileDots dots{rows, ld,        packed,         G * 2 * W,      K,
                  sums, blocks * G * W, groups.upper(), groups.lower()};
    const int count = blocks * G;
    int c = 0;
    if (groups.lower()) {
      for (; c + 2 <= count; c += 2) at(dots, sums, c).template run<2, 2>(columns + c);
      if (c < count) at(dots, sums, c).template run<2, 1>(columns + c);
    } else {
      for (; c + 4 <= count; c += 4) at(dots, sums, c).template run<1, 4>(columns + c);
      for (; c + 2 <= count; c += 2) at(dots, sums, c).template run<1, 2>(columns + c);
      if (c < count) at(dots, sums, c).template run<1, 1>(columns + c);
    }
  }
  static const TileDots& at(TileDots& dots, float* sums, int c) {
    dots.sums = sums + c * W;
    return dots;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
