// One time step straight from the weights as they lie, [G*H, I] and [G*H, K]: for a single
// step, packing them would cost more than the step.
//
// A gate of W units is W dot products along the rows of a weight, summed in vectors of k and
// then transposed into a vector of units. Every dot product is summed in the same order,
// whatever its neighbours in the batch and the number of threads.
//
// Bound: G H (I + K) numbers of weights, streamed once for each kRows rows of the batch.
#pragma once

#include "math.h"
#include "product.h"
#include "row.h"
#include "types.h"

// After math.h: cells use its functions.
#include "cells/cells.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <class Cell, class S>
struct Step {
  using C = typename Wide<S>::type;
  using V = Vec<C>;
  static constexpr int W = kLanes<C>, G = Cell::kGates, X = Cell::kExtra;
  // Batch rows taken together, and dot products: their sums are to fit in registers.
  static constexpr int kRows = kManyRegisters ? 4 : 2;

  // The blocks [u0, u1) of units.
  static void entry(const StepArgs& a, int64_t u0, int64_t u1) {
    for (int64_t u = u0; u < u1; ++u) {
      int64_t b = 0;
      for (; b + kRows <= a.B; b += kRows) block<kRows>(a, u, b);
      for (; b < a.B; ++b) block<1>(a, u, b);
    }
  }

 private:
  template <int R>
  static void block(const StepArgs& a, int64_t u, int64_t b) {
    const int64_t unit = u * W;
    const int count = int(min_of(W, a.H - unit));
    const S* x = static_cast<const S*>(a.x) + b * a.I;
    const S* h = state(a, 0, b);
    const int64_t h_row = a.states[0].b;
    V gates_x[R][G], gates_h[R][G];
    for (int g = 0; g < G; ++g) {
      const int64_t row = g * a.H + unit;
      const S* weight_ih = static_cast<const S*>(a.weight_ih) + row * a.I;
      const S* weight_hh = static_cast<const S*>(a.weight_hh) + row * a.H;
      V sums[R][W] = {}, found[R];
      add_dots<R>(weight_ih, count, x, a.I, a.I, sums);
      // One sum for both sides, where the cell only adds them.
      if constexpr (Cell::kApart) {
        across<R>(sums, found);
        for (int r = 0; r < R; ++r) gates_x[r][g] = found[r] + bias(a.bias_ih, row, count);
        for (int r = 0; r < R; ++r)
          for (int lane = 0; lane < W; ++lane) sums[r][lane] = V{};
      }
      add_dots<R>(weight_hh, count, h, h_row, a.H, sums);
      across<R>(sums, found);
      for (int r = 0; r < R; ++r) {
        gates_h[r][g] = found[r] + bias(a.bias_hh, row, count);
        if constexpr (!Cell::kApart) gates_x[r][g] = bias(a.bias_ih, row, count);
      }
    }
    for (int r = 0; r < R; ++r) {
      V others[X ? X : 1], saved[Cell::kSaved ? Cell::kSaved : 1], out{}, before{};
      for (int i = 0; i < X; ++i) others[i] = load(state(a, 1 + i, b + r) + unit, count);
      if constexpr (Cell::kReadsH) before = load(h + r * h_row + unit, count);
      Cell::forward(gates_x[r], gates_h[r], before, others, out, saved);
      store(static_cast<S*>(a.out) + (b + r) * a.out_row + unit, out, count);
      store(final(a, 0, b + r) + unit, out, count);
      for (int i = 0; i < X; ++i) store(final(a, 1 + i, b + r) + unit, others[i], count);
    }
  }

  static const S* state(const StepArgs& a, int i, int64_t b) {
    return static_cast<const S*>(a.states[i].data) + b * a.states[i].b;
  }
  static S* final(const StepArgs& a, int i, int64_t b) {
    return static_cast<S*>(a.finals[i].data) + b * a.finals[i].b;
  }
  static V bias(const void* from, int64_t row, int count) {
    return from ? load(static_cast<const S*>(from) + row, count) : V{};
  }

  // sums[r][j] += the products of in's row r and w's row j, in vectors of k. Rows of w past
  // `count` are none: the last one is read again, and nobody reads its sum.
  template <int R>
  static inline void add_dots(const S* w, int count, const S* in, int64_t in_row, int64_t K,
                              V (*sums)[W]) {
    constexpr int J = R == 1 && W >= 8 ? 8 : 4 < W ? 4 : W;
    for (int first = 0; first < W && first < count; first += J) {
      const S* rows[J];
      V sum[R][J];
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j) {
        rows[j] = w + min_of(first + j, count - 1) * K;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[r][j] = sums[r][first + j];
      }
      int64_t k = 0;
      for (; k + W <= K; k += W) {
        V of_in[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) of_in[r] = load(in + r * in_row + k);
#pragma GCC unroll 8
        for (int j = 0; j < J; ++j) {
          const V of_w = load(rows[j] + k);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) sum[r][j] += of_w * of_in[r];
        }
      }
      if (k < K) {
        const int rest = int(K - k);
        for (int j = 0; j < J; ++j) {
          const V of_w = load(rows[j] + k, rest);
          for (int r = 0; r < R; ++r) sum[r][j] += of_w * load(in + r * in_row + k, rest);
        }
      }
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sums[r][first + j] = sum[r][j];
    }
  }

  // found[r][lane] = the sum over all lanes of sums[r][lane].
  template <int R>
  static inline void across(V (*sums)[W], V* found) {
    for (int r = 0; r < R; ++r) {
      transpose<C>(sums[r]);
#pragma GCC unroll 8
      for (int half = W / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; ++i) sums[r][i] += sums[r][i + half];
      found[r] = sums[r][0];
    }
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
