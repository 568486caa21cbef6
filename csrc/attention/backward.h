// The gradients of queries, keys, values, centre, width and vector in one pass over the tiles,
// with the weights computed anew from the saved log-sum-exp (Dao et al. 2022).
//
// A task is a slice of the keys of one head of keys, with all queries that read it: the
// gradients of its keys and values are its own, and those of the queries go to a partial sum of
// its own, which `finish` adds up in order; of a single slice the task itself. So nothing depends on which thread did what. The
// number of slices depends on the sizes alone, enough for kEnoughTasks tasks: memory stays
// linear in the length.
//
// Bound: 2 (3 E + 2 Ev) operations for each pair of query and key seen, and one exp.
#pragma once

#include "forward.h"

namespace fastrnn {
namespace FASTRNN_ISA {

// The scores' gradient of a tile, from what the forward saved: common to this pass and to that
// of the mask.
template <template <class> class Score, class S>
struct TileGradient {
  using C = typename Wide<S>::type;
  using V = Vec<C>;
  using Op = Operands<S>;
  using T = typename Op::T;
  static constexpr int W = kLanes<C>;
  static constexpr C kInfinity = C(__builtin_inf());

  Score<S> score;
  const int64_t width;      // Ev in whole vectors
  C *f, *slope, *kept;      // of a row: factors, derivatives of the cap, softmax
  C *s, *d;                 // weights; their gradients, then the scores'
  T *of_value, *of_grad_out;      // [Ev units][kKeys]; [q][Ev units]
  T *out_columns, *grad_columns;  // [Ev units][q]; of the gradient [q][Ev units] for tiles
  Right<T> value{};
  Left<T> grad_out{};
  RowBlock<S> query_block{}, grad_block{}, key_block{};

  TileGradient(const AttentionArgs& a, Arena& arena)
      : score(a, arena, true), width(round_up(a.Ev, W)) {
    s = arena.take<C>(kQueries * kKeys);
    d = arena.take<C>(kQueries * kKeys);
    f = arena.take<C>(kKeys);
    slope = arena.take<C>(kKeys);
    kept = arena.take<C>(kKeys);
    of_value = arena.take<T>(Op::size(kKeys, a.Ev));
    of_grad_out = arena.take<T>(Op::size(kQueries, a.Ev));
    out_columns = arena.take<T>(Op::size(kQueries, a.Ev));
    grad_columns = arena.take<T>(Op::size(kQueries, a.Ev));
  }

  void set_keys(const AttentionArgs& a, int64_t b, int64_t h, int64_t k0, int64_t keys,
                KeyRange seen) {
    key_block = keys_of<S>(a, a.key, a.E, b, h, k0, keys, seen);
    score.set_keys(key_block, true);
    value = Op::right_columns(keys_of<S>(a, a.value, a.Ev, b, h, k0, keys, seen), of_value, kKeys);
  }

  // Queries that see nothing read as zeros: they may be padding.
  void set_queries(const AttentionArgs& a, int64_t b, int64_t h, int64_t t0, int64_t t1) {
    query_block = queries_of<S>(a.query, a.E, b, h, t0, t1);
    grad_block = queries_of<S>(a.grad_out, a.Ev, b, h, t0, t1);
    cut_to_seeing(a, b, h, t0, query_block);
    grad_block.from = query_block.from, grad_block.to = query_block.to;
    score.set_queries(query_block, true);
    grad_out = Op::left(grad_block, of_grad_out);
  }

  // What the softmax takes off the gradients of a query's weights, their weighted mean, for the
  // queries of a block: of output and gradient, summed as the product of value and gradient is. So
  // of a single key, in which the output is the value, the difference is nothing at all.
  void zero_sums(const AttentionArgs& a, int64_t b, int64_t h, int64_t t0, int64_t t1, C* to) {
    if (a.Tk <= kKeys) return;  // a tile holds all that a query sees: see `one_row`
    RowBlock<S> g = queries_of<S>(a.grad_out, a.Ev, b, h, t0, t1);
    cut_to_seeing(a, b, h, t0, g);
    Right<T> out = Op::right_columns(queries_of<S>(a.out, a.Ev, b, h, t0, t1), out_columns, kQueries);
    if constexpr (kTerms<S> > 0) {
      // The order of a tile's sums is its own; what is wanted is on its diagonal.
      Left<T> grad = Op::left(g, grad_columns);
      C square[16 * 16];
      for (int64_t r = 0; r < t1 - t0; r += 16, grad.data += 16 * grad.row, out.data += 16) {
        const int64_t count = min_of(16, t1 - t0 - r);
        matmul<S>(count, 16, Op::units(a.Ev), grad, out, square, 16, false);
        for (int64_t i = 0; i < count; ++i) to[r + i] = square[17 * i];
      }
    } else {
      Op::right_columns(g, grad_columns, kQueries);
      for (int64_t r = 0; r < t1 - t0; r += W) {
        V sum = V{};
        for (int64_t x = 0; x < Op::units(a.Ev) * kQueries; x += kQueries)
          multiply_add(sum, grad_columns + x + r, out.data + x + r);
        store(to + r, sum);
      }
    }
  }

  // Tile of queries [t0, t1) and keys [k0, k0 + keys): s becomes the weights of the values and
  // d the gradient of the scores, zeros in the lanes after the keys. `zeros` from `zero_sums`.
  // `of_factors`, where there is a Gaussian: two sums a query. False where terms do not do.
  [[nodiscard]] bool compute(const AttentionArgs& a, int64_t b, int64_t h, int64_t t0, int64_t t1, int64_t k0,
               int64_t keys, const C* zeros, C* of_factors, int64_t step, bool before_cap) {
    const int64_t queries = t1 - t0, columns = round_up(keys, W), units = Op::units(a.Ev);
    score.scores(queries, keys, s);
    matmul<S>(queries, columns, units, grad_out, value, d, kKeys, false);
    if (kMayFail<S> &&
        !(all_finite(s, queries, columns, kKeys) && all_finite(d, queries, columns, kKeys)))
      return false;
    for (int64_t r = 0; r < queries; ++r) {
      const Row<S> row(a, b, h, t0 + r);
      one_row(row, k0, keys, s + r * kKeys, d + r * kKeys, zeros[r],
              of_factors ? of_factors + r * step : nullptr, before_cap);
    }
    return true;
  }

 private:
  static void cut_to_seeing(const AttentionArgs& a, int64_t b, int64_t h, int64_t t0,
                            RowBlock<S>& block) {
    if (!a.first.data) return;
    const auto blind = [&](int64_t r) {
      const Row<S> row(a, b, h, t0 + r);
      return row.first == row.last;
    };
    while (block.from < block.to && blind(block.from)) ++block.from;
    while (block.from < block.to && blind(block.to - 1)) --block.to;
  }

  inline void one_row(const Row<S>& row, int64_t k0, int64_t keys, C* s, C* d, C zero,
                      C* of_factors, bool before_cap) {
    const AttentionArgs& a = row.a;
    C lse = at<C>(a.lse, row.b, row.h, row.t);
    if (lse == -kInfinity) lse = kInfinity;  // nothing was seen: weights 0
    const bool capped = a.softcap != 0;
    row.finish_scores(s, k0, keys, capped ? slope : nullptr);
    // Where the tile holds all that a query sees, the mean that the softmax takes off is summed
    // from the gradients themselves, not from the output: where one weight is nearly 1 the
    // difference is nearly nothing, and the two sums would be rounded apart. For the same reason
    // the weights have to add up to 1, which the rounding of lse keeps them from.
    const bool whole = k0 <= row.first && row.last <= k0 + keys;
    const bool found = a.grad_found.data;
    if (row.weighted) row.factors(k0, keys, f);
    C share = 1;
    if (whole) {
      V sum = V{}, total = V{};
      for (int64_t i = 0; i < keys; i += W) {
        const V x = load(s + i), p = seen(x, exp_of_difference<C>(x - lse));
        store(kept + i, p);
        total += p;
        sum += seen(x, p * (row.weighted ? load(d + i) * load(f + i) : load(d + i)));
      }
      const C all = sum_lanes<C>(total);
      if (all != 0) share = 1 / all;
      zero = sum_lanes<C>(sum) * share;
    }
    if (a.grad_row.data) zero -= at<C>(a.grad_row, row.b, row.h, row.t);
    if (!row.weighted && !found) {
      for (int64_t i = 0; i < keys; i += W) {
        const V x = load(s + i);
        const V p = whole ? load(kept + i) * share : seen(x, exp_of_difference<C>(x - lse));
        store(s + i, p);
        V ds = seen(x, p * (load(d + i) - zero));
        if (capped && before_cap) ds *= load(slope + i);
        store(d + i, ds);
      }
      return;
    }
    const S* g = found ? at<S>(a.grad_found, row.b, row.h, row.t) + k0 : nullptr;
    const bool logs = a.extra == Extra::kLogProbabilities;
    V centre = V{}, spread = V{};
    const V numbers = lane_numbers<C>();
    for (int64_t i = 0; i < keys; i += W) {
      const V x = load(s + i);
      const V p = whole ? load(kept + i) * share : seen(x, exp_of_difference<C>(x - lse));
      const V factor = row.weighted ? load(f + i) : broadcast<C>(1);
      const V extra = found ? load(g + i, int(min_of(W, keys - i))) : V{};
      const V da = logs ? load(d + i) : load(d + i) + extra;
      V ds = p * (factor * da - zero);
      if (logs) ds += extra;
      ds = seen(x, ds);
      if (capped && before_cap) ds *= load(slope + i);
      const V weight = p * factor;
      if (of_factors) {
        const V z = row.distance(numbers, k0 + i) * row.spread;
        const V e = seen(x, weight * da * z);
        centre += e, spread += e * z;
      }
      store(s + i, weight);
      store(d + i, ds);
    }
    if (of_factors) {
      of_factors[0] += sum_lanes<C>(centre) * row.spread;
      of_factors[1] += sum_lanes<C>(spread) * row.spread;
    }
  }

  // What is not seen has weight and gradient 0, even where the query or the value's gradient is
  // not finite.
  static inline V seen(V score, V number) { return score == -kInfinity ? V{} : number; }
};

template <template <class> class Score, class S>
struct AttentionBackward {
  using C = typename Wide<S>::type;
  using V = Vec<C>;
  using Op = Operands<S>;
  using T = typename Op::T;
  static constexpr int W = kLanes<C>;

  struct Scratch {
    TileGradient<Score, S> tile;
    int64_t key_width, value_width;
    C *dk, *dv, *dk_head;
    T *grad_out, *weights;   // right [q units][Ev]; left, transposed
    KeysSeen* ranges;        // [group][query blocks]
    C* zeros;                // [group][query blocks][kQueries]
    C* dq;                   // [group][Tq][partial row], where there is but one slice
    Scratch(const AttentionArgs& a, Arena& arena)
        : tile(a, arena), key_width(round_up(a.E, W)), value_width(round_up(a.Ev, W)) {
      dk = arena.take<C>(kKeys * key_width);
      dk_head = arena.take<C>(kKeys * key_width);
      dv = arena.take<C>(kKeys * value_width);
      grad_out = arena.take<T>(Op::size(value_width, kQueries));
      weights = arena.take<T>(Op::size(kKeys, kQueries));
      const int64_t group = a.H / a.Hk, query_blocks = ceil_div(a.Tq, kQueries);
      ranges = arena.take<KeysSeen>(group * query_blocks);
      zeros = arena.take<C>(group * query_blocks * kQueries);
      dq = arena.take<C>(a.slices == 1 ? group * a.Tq * partial_row(a) : 0);
    }
  };

  // A query's partial row: its gradient, then the centre's and the width's.
  static int64_t partial_row(const AttentionArgs& a) {
    return round_up(a.E, W) + (a.centre.data ? W : 0);
  }
  static int64_t count(const AttentionArgs& a) { return a.B * a.Hk * a.slices; }
  static size_t scratch(const AttentionArgs& a) {
    Arena arena{nullptr};
    Scratch{a, arena};
    if constexpr (kMayFail<S>)
      return size_t(max_of(int64_t(arena.used), int64_t(AttentionBackward<Score, float>::scratch(a))));
    return arena.used;
  }

  static void run(const AttentionArgs& a, int64_t task, char* memory) {
    const bool done = compute(a, task, memory);
    if constexpr (kMayFail<S>)
      if (!done) AttentionBackward<Score, float>::run(a, task, memory);
  }

  // What is left to do where there are several slices.
  static int64_t finish_count(const AttentionArgs& a) { return a.slices > 1 ? a.B * a.H : 0; }
  static size_t finish_scratch(const AttentionArgs& a) {
    Arena arena{nullptr};
    Score<S>(a, arena, false);
    return arena.used;
  }
  static void finish(const AttentionArgs& a, int64_t task, char* memory) {
    Arena arena{memory};
    Score<S> score(a, arena, false);
    const int64_t group = a.H / a.Hk, h = task % a.H, b = task / a.H;
    const int64_t size = a.Tq * partial_row(a);
    const int64_t head = (b * a.Hk + h / group) * a.slices * group + h % group;
    finish_head(a, score, b, h, static_cast<C*>(a.partial) + head * size, group * size);
  }

 private:
  // False where the numbers of storage cannot be multiplied in terms (terms.h).
  static bool compute(const AttentionArgs& a, int64_t task, char* memory) {
    Arena arena{memory};
    Scratch m(a, arena);
    const int64_t slice = task % a.slices, hk = task / a.slices % a.Hk;
    const int64_t b = task / a.slices / a.Hk, group = a.H / a.Hk;
    const int64_t blocks = ceil_div(a.Tk, kKeys), query_blocks = ceil_div(a.Tq, kQueries);
    const int64_t from = blocks * slice / a.slices, to = blocks * (slice + 1) / a.slices;
    const int64_t step = partial_row(a);
    C* partial = m.dq;
    if (a.slices > 1) partial = static_cast<C*>(a.partial) + task * group * a.Tq * step;
    for (int64_t i = 0; i < group * a.Tq * step; i += W) store(partial + i, V{});
    KeyRange all = {a.Tk, 0};
    for (int64_t g = 0; g < group; ++g) {
      if (a.grad_vector) {
        C* to = vector_of(a, b, hk * group + g, slice);
        for (int64_t e = 0; e < m.key_width; e += W) store(to + e, V{});
      }
      for (int64_t i = 0; i < query_blocks; ++i) {
        KeysSeen& sight = m.ranges[g * query_blocks + i];
        sight = keys_seen<S>(a, b, hk * group + g, i * kQueries, min_of(a.Tq, (i + 1) * kQueries));
        const KeyRange seen = sight.by_any;
        if (seen.first < seen.last)
          all = {min_of(all.first, seen.first), max_of(all.last, seen.last)};
        if (seen.first < to * kKeys && seen.last > from * kKeys) {
          const int64_t t0 = i * kQueries, t1 = min_of(a.Tq, t0 + kQueries);
          m.tile.zero_sums(a, b, hk * group + g, t0, t1, m.zeros + (g * query_blocks + i) * kQueries);
        }
      }
    }
    for (int64_t block = from; block < to; ++block) {
      const int64_t k0 = block * kKeys, keys = min_of(kKeys, a.Tk - k0);
      for (int64_t i = 0; i < keys * m.key_width; i += W) store(m.dk + i, V{});
      for (int64_t i = 0; i < keys * m.value_width; i += W) store(m.dv + i, V{});
      bool packed = false;
      for (int64_t g = 0; g < group; ++g) {
        const int64_t h = hk * group + g;
        bool met = false;
        for (int64_t i = 0; i < query_blocks; ++i) {
          const KeysSeen& sight = m.ranges[g * query_blocks + i];
          if (sight.by_any.first >= k0 + keys || sight.by_any.last <= k0) continue;
          if (!packed) m.tile.set_keys(a, b, h, k0, keys, all);
          packed = true;
          if (!met) {
            m.tile.score.set_head(a, b, h);
            for (int64_t x = 0; x < keys * m.key_width; x += W) store(m.dk_head + x, V{});
          }
          met = true;
          const int64_t t0 = i * kQueries, t1 = min_of(a.Tq, t0 + kQueries);
          if (!one_tile(a, m, b, h, t0, t1, k0, keys, sight.partly(k0, keys),
                        m.zeros + (g * query_blocks + i) * kQueries,
                        partial + (g * a.Tq + t0) * step, step, slice))
            return false;
        }
        if (!met) continue;
        for (int64_t r = 0; r < keys; ++r) m.tile.score.finish(m.dk_head + r * m.key_width);
        for (int64_t x = 0; x < keys * m.key_width; x += W)
          store(m.dk + x, load(m.dk + x) + load(m.dk_head + x));
      }
      if (kMayFail<S> && !(all_finite(m.dk, keys, m.key_width, m.key_width) &&
                           all_finite(m.dv, keys, m.value_width, m.value_width)))
        return false;
      for (int64_t r = 0; r < keys; ++r) {
        S* dk = at<S>(a.grad_key, b, hk, k0 + r);
        S* dv = at<S>(a.grad_value, b, hk, k0 + r);
        for (int64_t x = 0; x < a.E; x += W)
          store(dk + x, load(m.dk + r * m.key_width + x) * C(a.scale), int(min_of(W, a.E - x)));
        for (int64_t x = 0; x < a.Ev; x += W)
          store(dv + x, load(m.dv + r * m.value_width + x), int(min_of(W, a.Ev - x)));
      }
    }
    if (kMayFail<S> && !all_finite(partial, group * a.Tq, step, step)) return false;
    if (a.slices > 1) return true;
    for (int64_t g = 0; g < group; ++g)
      finish_head(a, m.tile.score, b, hk * group + g, partial + g * a.Tq * step, 0);
    return true;
  }

  // The gradients of a head's queries from the slices' sums, taken in order; the first is changed.
  static void finish_head(const AttentionArgs& a, Score<S>& score, int64_t b, int64_t h, C* sums,
                          int64_t slice_step) {
    const int64_t step = partial_row(a);
    score.set_head(a, b, h);
    for (int64_t t = 0; t < a.Tq; ++t) {
      C* sum = sums + t * step;
      if (a.slices > 1)
        for (int64_t x = 0; x < step; x += W) {
          V total = load(sum + x);
          for (int64_t slice = 1; slice < a.slices; ++slice)
            total += load(sum + slice * slice_step + x);
          store(sum + x, total);
        }
      score.finish(sum);
      S* dq = at<S>(a.grad_query, b, h, t);
      for (int64_t x = 0; x < a.E; x += W)
        store(dq + x, load(sum + x) * C(a.scale), int(min_of(W, a.E - x)));
      if (!a.centre.data) continue;
      at<C>(a.grad_centre, b, h, t) = sum[step - W];
      at<C>(a.grad_width, b, h, t) = sum[step - W + 1];
    }
  }

  static C* vector_of(const AttentionArgs& a, int64_t b, int64_t h, int64_t slice) {
    return static_cast<C*>(a.grad_vector) +
           ((b * a.H + h) * a.slices + slice) * round_up(a.E, W);
  }

  static bool one_tile(const AttentionArgs& a, Scratch& m, int64_t b, int64_t h, int64_t t0,
                       int64_t t1, int64_t k0, int64_t keys, bool partly, const C* zeros,
                       C* partial, int64_t step, int64_t slice) {
    const int64_t queries = t1 - t0, columns = round_up(keys, W);
    m.tile.set_queries(a, b, h, t0, t1);
    if (!m.tile.compute(a, b, h, t0, t1, k0, keys, zeros,
                        a.centre.data ? partial + step - W : nullptr, step, true))
      return false;
    // The products below multiply with the zeros of keys not seen, too: 0 x NaN.
    if (partly && !(finite(m.tile.query_block) && finite(m.tile.grad_block) &&
                    finite(m.tile.key_block))) {
      row_by_row(a, m, b, h, t0, t1, k0, keys, partial, step, slice);
      return true;
    }
    matmul<S>(keys, m.value_width, Op::units(queries),
                 Op::left_tile_transposed(m.tile.s, kKeys, queries, columns, m.weights),
                 Op::right_rows(m.tile.grad_block, m.grad_out, m.value_width), m.dv,
                 m.value_width, true);
    m.tile.score.backward(queries, keys, m.tile.d, partial, step, m.dk_head);
    if (a.grad_vector) m.tile.score.grad_vector(vector_of(a, b, h, slice));
    return true;
  }

  // What `one_tile` adds, each query's to the keys that it sees alone.
  static void row_by_row(const AttentionArgs& a, Scratch& m, int64_t b, int64_t h, int64_t t0,
                         int64_t t1, int64_t k0, int64_t keys, C* partial, int64_t step,
                         int64_t slice) {
    for (int64_t r = 0; r < t1 - t0; ++r) {
      const Row<S> row(a, b, h, t0 + r);
      const int64_t first = max_of(row.first - k0, 0), last = min_of(row.last - k0, keys);
      if (first >= last) continue;
      const S* grad = m.tile.grad_block.row(r);
      if (grad)
        add_to_rows(grad, a.Ev, m.tile.s + r * kKeys, first, last, m.dv, m.value_width);
      m.tile.score.backward_of(r, first, last, m.tile.d + r * kKeys, partial + r * step, m.dk_head);
      if (a.grad_vector) m.tile.score.grad_vector(vector_of(a, b, h, slice));
    }
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
