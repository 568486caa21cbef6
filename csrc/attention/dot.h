// score(q, k) = q . k
#pragma once

#include "pack.h"
#include "rows.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <class S>
struct Dot {
  using C = typename Wide<S>::type;
  using Op = Operands<S>;
  using T = typename Op::T;
  static constexpr int W = kLanes<C>;
  static constexpr bool kScoresOfFew = true;

  const int64_t E, depth, padded;  // E in units, E in whole vectors
  T *of_query, *of_key;            // [q][depth]; [depth][kKeys]
  T *of_query_rows, *of_key_rows;  // [q units][padded]; [k units][padded]
  T *tile, *tile_transposed;
  Left<T> query{};
  Right<T> key{}, query_rows{}, key_rows{};
  RowBlock<S> queries_set{}, keys_set{};

  Dot(const AttentionArgs& a, Arena& arena, bool backward)
      : E(a.E), depth(Op::units(a.E)), padded(round_up(a.E, W)) {
    of_query = arena.take<T>(Op::size(kQueries, a.E));
    of_key = arena.take<T>(Op::size(kKeys, a.E));
    if (!backward) return;
    of_query_rows = arena.take<T>(Op::size(padded, kQueries));
    of_key_rows = arena.take<T>(Op::size(padded, kKeys));
    tile = arena.take<T>(Op::size(kQueries, kKeys));
    tile_transposed = arena.take<T>(Op::size(kKeys, kQueries));
  }

  void set_head(const AttentionArgs&, int64_t, int64_t) {}
  void set_queries(const RowBlock<S>& block, bool backward) {
    query = Op::left(block, of_query);
    queries_set = block;
    if (backward) query_rows = Op::right_rows(block, of_query_rows, padded);
  }
  void set_keys(const RowBlock<S>& block, bool backward) {
    key = Op::right_columns(block, of_key, kKeys);
    keys_set = block;
    if (backward) key_rows = Op::right_rows(block, of_key_rows, padded);
  }

  // s[queries][kKeys], without the scale. 2 queries keys E operations.
  void scores(int64_t queries, int64_t keys, C* s) {
    matmul<S>(queries, round_up(keys, W), depth, query, key, s, kKeys, false);
  }

  // The same from keys as they lie, for few queries. Bound: the keys' bytes. A query of the usual
  // widths stays in registers.
  static void scores_of_few(const RowBlock<S>& q, const RowBlock<S>& k, C* s) {
    const int64_t vectors = q.width % W ? 0 : q.width / W;
    for (int64_t r = 0; r < q.count; ++r) {
      const S* row = q.data + r * q.step;
      C* to = s + r * kKeys;
      if (vectors == 2) scores_of_one<2>(row, k, to);
      else if (vectors == 4) scores_of_one<4>(row, k, to);
      else if (vectors == 8 && kManyRegisters) scores_of_one<8>(row, k, to);
      else scores_of_one<0>(row, k, to);
    }
  }

  // Adds to dq[queries][dq_step] and dk[keys][padded] what ds[queries][kKeys] brings them.
  // 4 queries keys E operations.
  void backward(int64_t queries, int64_t keys, const C* ds, C* dq, int64_t dq_step, C* dk) {
    const int64_t columns = round_up(keys, W);
    matmul<S>(queries, padded, Op::units(keys),
                 Op::left_tile(ds, kKeys, queries, columns, tile), key_rows, dq, dq_step, true);
    matmul<S>(keys, padded, Op::units(queries),
                 Op::left_tile_transposed(ds, kKeys, queries, columns, tile_transposed),
                 query_rows, dk, padded, true);
  }

  // The same of query r and keys [first, last) alone.
  void backward_of(int64_t r, int64_t first, int64_t last, const C* ds, C* dq, C* dk) {
    RowBlock<S> seen = keys_set;
    seen.from = max_of(seen.from, first), seen.to = min_of(seen.to, last);
    add_rows(seen, ds, dq);
    if (const S* row = queries_set.row(r)) add_to_rows(row, E, ds, first, last, dk, padded);
  }

  // What the sums of `backward` still lack.
  void finish(C*) const {}
  void grad_vector(C*) const {}

 private:
  // N: vectors of the query, 0 where it stays in memory. A vector of partial sums a key first. Not
  // inlined: among all of the caller's variables the query would not stay in registers.
  template <int N>
  static __attribute__((noinline)) void scores_of_one(const S* q, const RowBlock<S>& k, C* s) {
    Vec<C> query[N ? N : 1];
    for (int i = 0; i < N; ++i) query[i] = load(q + i * W);
    for (int64_t k0 = 0; k0 < k.count; k0 += W) {
      Vec<C> sums[W];
      if (N && k.from <= k0 && k0 + W <= k.to) {
        const S* row = k.data + k0 * k.step;
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i, row += k.step) {
          ask_ahead(row, k.step, N * W);
          sums[i] = dot<N>(query, row);
        }
      } else {
        for (int i = 0; i < W; ++i) {
          const S* row = k0 + i < k.count ? k.row(k0 + i) : nullptr;
          sums[i] = row ? dot(q, row, k.width) : Vec<C>{};
        }
      }
      store(s + k0, sums_of_rows<C>(sums));
    }
  }

  // The products' sums lane by lane.
  template <int N>
  static inline __attribute__((always_inline)) Vec<C> dot(const Vec<C>* q, const S* k) {
    Vec<C> even{}, odd{};
#pragma GCC unroll 8
    for (int i = 0; i < N; i += 2) {
      even += q[i] * load(k + i * W);
      odd += q[i + 1] * load(k + (i + 1) * W);
    }
    return even + odd;
  }
  static inline Vec<C> dot(const S* q, const S* k, int64_t width) {
    Vec<C> even{}, odd{};
    int64_t x = 0;
    for (; x + 2 * W <= width; x += 2 * W) {
      even += load(q + x) * load(k + x);
      odd += load(q + x + W) * load(k + x + W);
    }
    for (; x < width; x += W) {
      const int n = int(min_of(W, width - x));
      even += load(q + x, n) * load(k + x, n);
    }
    return even + odd;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
