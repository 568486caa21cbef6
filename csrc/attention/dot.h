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

  const int64_t E, depth, padded;  // E in units, E in whole vectors
  T *query, *key;              // [q][depth]; [depth][kKeys]
  T *query_rows, *key_rows;    // [q units][padded]; [k units][padded]
  T *tile, *tile_transposed;

  Dot(const AttentionArgs& a, Arena& arena, bool backward)
      : E(a.E), depth(Op::units(a.E)), padded(round_up(a.E, W)) {
    query = arena.take<T>(kQueries * depth);
    key = arena.take<T>(depth * kKeys);
    if (!backward) return;
    query_rows = arena.take<T>(kQueries * padded);
    key_rows = arena.take<T>(kKeys * padded);
    tile = arena.take<T>(kQueries * kKeys);
    tile_transposed = arena.take<T>(kQueries * kKeys);
  }

  void set_head(const AttentionArgs&, int64_t, int64_t) {}
  void set_queries(const RowBlock<S>& block, bool backward) {
    Op::left(block, query);
    if (backward) Op::right_rows(block, query_rows, padded);
  }
  void set_keys(const RowBlock<S>& block, bool backward) {
    Op::right_columns(block, key, kKeys);
    if (backward) Op::right_rows(block, key_rows, padded);
  }

  // s[queries][kKeys], without the scale. 2 queries keys E operations.
  void scores(int64_t queries, int64_t keys, C* s) {
    matmul<C, T>(queries, round_up(keys, W), depth, query, depth, 1, key, kKeys, s, kKeys, false);
  }

  // Adds to dq[queries][dq_step] and dk[keys][padded] what ds[queries][kKeys] brings them.
  // 4 queries keys E operations.
  void backward(int64_t queries, int64_t keys, const C* ds, C* dq, int64_t dq_step, C* dk) {
    int64_t r, k;
    const int64_t columns = round_up(keys, W);
    const T* left = Op::left_tile(ds, kKeys, queries, columns, tile, r, k);
    matmul<C, T>(queries, padded, Op::units(keys), left, r, k, key_rows, padded, dq, dq_step,
                 true);
    left = Op::left_tile_transposed(ds, kKeys, queries, columns, tile_transposed, r, k);
    matmul<C, T>(keys, padded, Op::units(queries), left, r, k, query_rows, padded, dk, padded,
                 true);
  }

  // What the sums of `backward` still lack.
  void finish(C*) const {}
  void grad_vector(C*) const {}
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
