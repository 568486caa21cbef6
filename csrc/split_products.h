// The products around the scan (linear.h, outer.h) of float32 numbers that are multiplied in terms of
// bfloat16: the same walks, but what is multiplied is written as terms on the way.
#pragma once

#include "split.h"
#include "types.h"

namespace fastrnn {
namespace FASTRNN_ISA {

// out[row][m] = sum_k x[row][k] * w[m][k] + bias[m], in chunks of rows that stay in the cache.
template <int P>
struct SplitLinear {
  using F = Factor<split<P>>;
  static constexpr int W = kLanes<float>;

  static int64_t stride(const LinearArgs& a) { return round_up(a.K + 1, 2 * W); }
  static int64_t chunk(const LinearArgs& a) {
    constexpr int64_t kChunkBytes = 256 * 1024;
    return max_of(48, kChunkBytes / int64_t(sizeof(F)) / stride(a));
  }
  static size_t bytes(const LinearArgs& a) { return size_t(chunk(a) * stride(a)) * sizeof(F); }

  static void entry(const LinearArgs& a, int64_t r0, int64_t r1) {
    const float* bias = static_cast<const float*>(a.bias);
    float* out = static_cast<float*>(a.out);
    F* x = reinterpret_cast<F*>(a.scratch);
    const int64_t ld = stride(a);
    const Product<F, 1> product{static_cast<const F*>(a.weight), a.K, x, ld, false};
    for (int64_t first = r0; first < r1; first += chunk(a)) {
      const int64_t rows = min_of(r1 - first, chunk(a));
      for (int64_t r = 0; r < rows; ++r) {
        put_row(x + r * ld, ld, static_cast<const float*>(a.x) + (first + r) * a.x_row, a.K);
        end_factors(x + r * ld, ld, a.K);
      }
      product.run(0, rows, 0, ceil_div(a.M, W), [&](int64_t r, int64_t u, VecF* sums) {
        if (bias) sums[0] += load(bias + u * W);
        store(out + (first + r) * a.out_row + u * W, sums[0], int(min_of(W, a.M - u * W)));
      });
    }
  }
};

// out[m][k] = sum_s a[s][m] * b[s][k] in windows of rows, and sum[m] = sum_s a[s][m], of the numbers
// themselves.
template <int P>
struct SplitOuter {
  using F = Factor<split<P>>;
  static constexpr int W = kLanes<float>;
  static constexpr int64_t kWindow = 256, kChunk = 128;
  // Between rows of the transposed window: not a power of two, whose lines would meet in a few
  // sets of the cache.
  static constexpr int64_t kStride = kWindow + 2 * W;

  static size_t bytes(const OuterArgs& a) {
    return size_t(kWindow * round_up(a.K, W) + kStride * kChunk) * sizeof(F);
  }

  static void entry(const OuterArgs& a, int64_t m0, int64_t m1, char* scratch) {
    F* packed = reinterpret_cast<F*>(scratch);
    F* transposed = packed + kWindow * round_up(a.K, W);
    for (int64_t s = 0; s == 0 || s < a.S; s += kWindow) {
      const int64_t count = min_of(kWindow, a.S - s);
      pack_window(a, s, count, reinterpret_cast<bfloat16*>(packed));
      for (int64_t m = m0; m < m1; m += kChunk) {
        const int64_t last = min_of(m1, m + kChunk);
        transpose_window(a, s, count, m, last, transposed);
        const Product<F, 1> product{packed, count, transposed, kStride, false};
        product.run(0, last - m, 0, ceil_div(a.K, W), [&](int64_t row, int64_t u, VecF* sums) {
          float* out = static_cast<float*>(a.out) + (m + row) * a.out_row + u * W;
          add(out, sums[0], int(min_of(W, a.K - u * W)), s > 0 || a.more);
        });
      }
    }
  }

 private:
  static void add(float* to, VecF sum, int lanes, bool more) {
    store(to, more ? sum + load(to, lanes) : sum, lanes);
  }

  // packed[block][plane][s / 2][lane][s % 2] = b[s][block*W + lane], zero past an odd count.
  static void pack_window(const OuterArgs& a, int64_t s, int64_t count, bfloat16* packed) {
    const int64_t groups = ceil_div(count, 2);
    for (int64_t i = 0; i < groups; ++i) {
      const bool whole = 2 * i + 1 < count;
      const float* even = static_cast<const float*>(a.b[s + 2 * i]);
      const float* odd = whole ? static_cast<const float*>(a.b[s + 2 * i + 1]) : nullptr;
      for (int64_t k = 0; k < a.K; k += W) {
        const int lanes = int(min_of(W, a.K - k));
        const TermsOf<P> x(load(even + k, lanes)), y(odd ? load(odd + k, lanes) : VecF{});
        for (int p = 0; p < P; ++p)
          store_factor(packed + ((k / W * P + p) * groups + i) * 2 * W, as_pairs(x.of[p], y.of[p]));
      }
    }
  }

  // transposed[m][s] = a[s][m], zeros up to a whole vector of s.
  static void transpose_window(const OuterArgs& a, int64_t s, int64_t count, int64_t m0, int64_t m1,
                               F* transposed) {
    VecF sums[kChunk / W] = {};
    for (int64_t i = 0; i < count; i += W) {
      const int64_t rows = min_of(W, count - i);
      const float* from = static_cast<const float*>(a.a) + (s + i) * a.a_row;
      for (int64_t m = m0; m < m1; m += W) {
        VecF tile[W], total{};
        const int lanes = int(min_of(W, m1 - m));
        for (int r = 0; r < W; ++r)
          tile[r] = r < rows ? load(from + r * a.a_row + m, lanes) : VecF{};
        for (int r = 0; r < W; ++r) total += tile[r];
        sums[(m - m0) / W] += total;
        transpose<float>(tile);
        for (int lane = 0; lane < W; ++lane)
          put_factors(transposed + (m - m0 + lane) * kStride, kStride, i, tile[lane], W);
      }
    }
    if (a.sum)
      for (int64_t m = m0; m < m1; m += W)
        add(static_cast<float*>(a.sum) + m, sums[(m - m0) / W], int(min_of(W, m1 - m)), s > 0 || a.more);
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
