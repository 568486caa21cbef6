// out[m][k] = sum_s a[s][m] * b[s][k], and sum[m] = sum_s a[s][m]: the gradient of a
// product's weight (and bias) over all its rows, by the tiles of the recurrent product.
//
// Bound: 2 S M K operations. Rows are taken in windows: a window of b is packed as weights
// are, a window of a transposed, and each tile of `out` is summed in registers over the
// window. So rounding grows with the window and the number of windows, not with S; and no
// sum depends on how the outputs are dealt out to threads.
#pragma once

#include "product.h"
#include "types.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <class C>
struct Outer {
  using V = Vec<C>;
  static constexpr int W = kLanes<C>;
  // Numbers. A chunk of a is 128 KiB of float32 and stays in the second-level cache while
  // all of b's window passes over it.
  static constexpr int64_t kWindow = 256, kChunk = 128;
  // Between rows of the transposed window: not a power of two, whose lines would meet in a
  // few sets of the cache.
  static constexpr int64_t kStride = kWindow + W;

  static size_t bytes(const OuterArgs& a) {
    return size_t(kWindow * round_up(a.K, W) + kStride * kChunk) * sizeof(C);
  }

  // The rows [m0, m1) of the result.
  static void entry(const OuterArgs& a, int64_t m0, int64_t m1, char* scratch) {
    C* packed = reinterpret_cast<C*>(scratch);
    C* transposed = packed + kWindow * round_up(a.K, W);
    for (int64_t s = 0; s == 0 || s < a.S; s += kWindow) {
      const int64_t count = min_of(kWindow, a.S - s);
      pack_window(a, s, count, packed);
      for (int64_t m = m0; m < m1; m += kChunk) {
        const int64_t last = min_of(m1, m + kChunk);
        transpose_window(a, s, count, m, last, transposed);
        const Product<C, 1> product{packed, count, transposed, kStride, false};
        product.run(0, last - m, 0, ceil_div(a.K, W), [&](int64_t row, int64_t u, V* sums) {
          C* out = static_cast<C*>(a.out) + (m + row) * a.out_row + u * W;
          add(out, sums[0], int(min_of(W, a.K - u * W)), a.more || s > 0);
        });
      }
    }
  }

 private:
  static void add(C* to, V sum, int lanes, bool more) {
    store(to, more ? sum + load(to, lanes) : sum, lanes);
  }

  // packed[block][s][lane] = b[s][block*W + lane]
  static void pack_window(const OuterArgs& a, int64_t s, int64_t count, C* packed) {
    for (int64_t i = 0; i < count; ++i) {
      const C* row = static_cast<const C*>(a.b[s + i]);
      for (int64_t k = 0; k < a.K; k += W)
        store(packed + (k / W * count + i) * W, load(row + k, int(min_of(W, a.K - k))));
    }
  }

  // transposed[m][s] = a[s][m]; what passes by is summed for the bias. Rows of a are read on
  // and on: going down a column first would meet a page, and an evicted line, at every row.
  static void transpose_window(const OuterArgs& a, int64_t s, int64_t count, int64_t m0, int64_t m1,
                               C* transposed) {
    V sums[kChunk / W] = {};
    for (int64_t i = 0; i < count; i += W) {
      const int64_t rows = min_of(W, count - i);
      const C* from = static_cast<const C*>(a.a) + (s + i) * a.a_row;
      for (int64_t m = m0; m < m1; m += W) {
        V tile[W], total{};
        const int lanes = int(min_of(W, m1 - m));
        if (rows == W && lanes == W) {
#pragma GCC unroll 16
          for (int r = 0; r < W; ++r) tile[r] = load(from + r * a.a_row + m);
        } else {
          for (int r = 0; r < W; ++r)
            tile[r] = r < rows ? load(from + r * a.a_row + m, lanes) : V{};
        }
#pragma GCC unroll 16
        for (int r = 0; r < W; ++r) total += tile[r];
        sums[(m - m0) / W] += total;
        transpose<C>(tile);
        // Room for whole vectors: both chunk and window are multiples of one.
#pragma GCC unroll 16
        for (int lane = 0; lane < W; ++lane)
          store(transposed + (m - m0 + lane) * kStride + i, tile[lane]);
      }
    }
    if (a.sum)
      for (int64_t m = m0; m < m1; m += W)
        add(static_cast<C*>(a.sum) + m, sums[(m - m0) / W], int(min_of(W, m1 - m)), a.more || s > 0);
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
