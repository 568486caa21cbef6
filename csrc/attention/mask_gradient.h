// The gradient of an additive mask: that of the scores, summed over what the mask is broadcast
// along. A pass of its own over the tiles, run only where it is wanted, since whoever adds to a
// mask's number has to own it: a task is one block of the mask's rows, with all heads and
// batches that share them.
//
// Bound: 2 (E + Ev) operations for each pair of query and key seen; memory of the mask's size.
#pragma once

#include "backward.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <template <class> class Score, class S>
struct MaskGradient {
  using C = typename Wide<S>::type;
  using V = Vec<C>;
  static constexpr int W = kLanes<C>;

  static int64_t row_blocks(const AttentionArgs& a) {
    return a.mask_Q == 1 ? 1 : ceil_div(a.Tq, kQueries);
  }
  static int64_t count(const AttentionArgs& a) { return a.mask_B * a.mask_H * row_blocks(a); }
  static size_t scratch(const AttentionArgs& a) {
    Arena arena{nullptr};
    TileGradient<Score, S>{a, arena};
    arena.take<C>(kQueries);
    if constexpr (kMayFail<S>)
      return size_t(max_of(int64_t(arena.used), int64_t(MaskGradient<Score, float>::scratch(a))));
    return arena.used;
  }

  static void run(const AttentionArgs& a, int64_t task, char* memory) {
    const bool done = compute(a, task, memory);
    if constexpr (kMayFail<S>)
      if (!done) MaskGradient<Score, float>::run(a, task, memory);
  }

 private:
  // False where the numbers of storage cannot be multiplied in terms (terms.h).
  static bool compute(const AttentionArgs& a, int64_t task, char* memory) {
    const int64_t blocks = row_blocks(a), block = task % blocks;
    const int64_t mh = task / blocks % a.mask_H, mb = task / blocks / a.mask_H;
    const int64_t all_blocks = ceil_div(a.Tq, kQueries);
    const int64_t i0 = a.mask_Q == 1 ? 0 : block, i1 = a.mask_Q == 1 ? all_blocks : block + 1;
    C* to = static_cast<C*>(a.grad_mask) + (mb * a.mask_H + mh) * a.mask_Q * a.mask_K;
    const int64_t t0 = i0 * kQueries, t1 = a.mask_Q == 1 ? 1 : min_of(a.Tq, t0 + kQueries);
    for (int64_t i = t0 * a.mask_K; i < t1 * a.mask_K; ++i) to[i] = 0;
    Arena arena{memory};
    TileGradient<Score, S> tile(a, arena);
    C* zeros = arena.take<C>(kQueries);
    for (int64_t b = a.mask_B == 1 ? 0 : mb; b < (a.mask_B == 1 ? a.B : mb + 1); ++b)
      for (int64_t h = a.mask_H == 1 ? 0 : mh; h < (a.mask_H == 1 ? a.H : mh + 1); ++h)
        for (int64_t i = i0; i < i1; ++i)
          if (!add(a, tile, zeros, b, h, i * kQueries, to)) return false;
    return true;
  }

  static bool add(const AttentionArgs& a, TileGradient<Score, S>& tile, C* zeros, int64_t b,
                  int64_t h, int64_t t0, C* to) {
    const int64_t t1 = min_of(a.Tq, t0 + kQueries);
    const KeyRange seen = keys_seen<S>(a, b, h, t0, t1).by_any;
    tile.score.set_head(a, b, h);
    tile.set_queries(a, b, h, t0, t1);
    tile.zero_sums(a, b, h, t0, t1, zeros);
    for (int64_t k0 = seen.first / kKeys * kKeys; k0 < seen.last; k0 += kKeys) {
      const int64_t keys = min_of(kKeys, a.Tk - k0);
      tile.set_keys(a, b, h, k0, keys, seen);
      if (!tile.compute(a, b, h, t0, t1, k0, keys, zeros, nullptr, 0, false)) return false;
      for (int64_t t = t0; t < t1; ++t) {
        const C* d = tile.d + (t - t0) * kKeys;
        C* row = to + (a.mask_Q == 1 ? 0 : t) * a.mask_K;
        for (int64_t k = 0; k < keys; ++k) row[a.mask_K == 1 ? 0 : k0 + k] += d[k];
      }
    }
    return true;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
