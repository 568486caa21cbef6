// Products of blocks by the tiles of AMX. An operand is one plane of pairs for each of its terms;
// left [rows][k], right [k][columns], k in whole tiles.
//
// Bound: 16 rows x 16 columns x 32 k in 16 cycles, for each pair of terms; four such products wait
// for four tiles loaded, of 8 cycles each.
#pragma once

#include "../tile_ops.h"
#include "matmul.h"

namespace fastrnn {
namespace FASTRNN_ISA {

// Up to two tiles of rows times up to two of columns: sums in registers 0 to 3, rows in 4 and 5,
// columns in 6 and 7.
template <int P, int kHalves, int kColumns>
struct TileBlock {
  template <int H, int N, class Do>
  static inline __attribute__((always_inline)) void each_sum(Do&& apply) {
    if constexpr (H < kHalves) {
      apply(Number<2 * H + N>{}, H, N);
      if constexpr (N + 1 < kColumns)
        each_sum<H, N + 1>(apply);
      else
        each_sum<H + 1, 0>(apply);
    }
  }

  static __attribute__((noinline)) void run(int64_t K, Left<uint32_t> a, Right<uint32_t> b, float* c,
                                            int64_t ldc, bool add) {
    const int64_t a_bytes = a.row * 4, b_bytes = b.k * 4, c_bytes = ldc * 4;
    each_sum<0, 0>([&](auto sum, int h, int n) {
      if (add)
        tiles::load<decltype(sum)::value>(c + h * tiles::kRows * ldc + n * 16, c_bytes);
      else
        tiles::clear<decltype(sum)::value>();
    });
    for (int terms = P - 1; terms >= 0; --terms)
      for (int i = 0; i <= terms; ++i) {
        const uint32_t* left = a.data + i * a.plane;
        const uint32_t* right = b.data + (terms - i) * b.plane;
        for (int64_t k = 0; k < K; k += 16, left += 16, right += 16 * b.k) {
          tiles::load<4>(left, a_bytes);
          tiles::load<6>(right, b_bytes);
          tiles::dot<0, 4, 6>();
          if constexpr (kColumns == 2) {
            tiles::load<7>(right + 16, b_bytes);
            tiles::dot<1, 4, 7>();
          }
          if constexpr (kHalves == 2) {
            tiles::load<5>(left + tiles::kRows * a.row, a_bytes);
            tiles::dot<2, 5, 6>();
            if constexpr (kColumns == 2) tiles::dot<3, 5, 7>();
          }
        }
      }
    each_sum<0, 0>([&](auto sum, int h, int n) {
      tiles::store<decltype(sum)::value>(c + h * tiles::kRows * ldc + n * 16, c_bytes);
    });
  }
};

template <int P>
void tile_matmul(int64_t M, int64_t N, int64_t K, Left<uint32_t> a, Right<uint32_t> b, float* c,
                 int64_t ldc, bool add) {
  for (int64_t r = 0, rows, shaped = 0; r < M; r += rows) {
    rows = min_of(2 * tiles::kRows, M - r);
    const int upper = int(min_of(rows, tiles::kRows)), lower = int(rows) - upper;
    if (rows != shaped) {
      tiles::Config config;
      config.shape(0, upper), config.shape(1, upper), config.shape(4, upper);
      if (lower) config.shape(2, lower), config.shape(3, lower), config.shape(5, lower);
      config.shape(6, tiles::kRows), config.shape(7, tiles::kRows);
      tiles::configure(config);
      shaped = rows;
    }
    const Left<uint32_t> left = {a.data + r * a.row, a.row, 1, a.plane};
    const auto columns = [&](auto count, int64_t n) {
      constexpr int kColumns = decltype(count)::value;
      const Right<uint32_t> right = {b.data + n, b.k, b.plane};
      float* to = c + r * ldc + n;
      if (lower)
        TileBlock<P, 2, kColumns>::run(K, left, right, to, ldc, add);
      else
        TileBlock<P, 1, kColumns>::run(K, left, right, to, ldc, add);
    };
    int64_t n = 0;
    for (; n + 32 <= N; n += 32) columns(Number<2>{}, n);
    if (n < N) columns(Number<1>{}, n);
  }
  tiles::release();
}

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
