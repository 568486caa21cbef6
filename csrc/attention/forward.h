// out = softmax(scores) value, by tiles of queries and keys: the weights of a tile exist only
// while it is worked on, and the softmax's shift and total follow the tiles (Milakov &
// Gimelshein 2018; Dao et al. 2022).
//
// A task is one block of queries of one head. Every sum runs over the keys in order, whatever
// the thread. Bound: 2 (E + Ev) operations for each pair of query and key seen, and one exp.
#pragma once

#include "additive.h"
#include "dot.h"

extern "C" {
float logf(float) noexcept;
double log(double) noexcept;
}

namespace fastrnn {
namespace FASTRNN_ISA {

inline float natural_log(float x) { return ::logf(x); }
inline double natural_log(double x) { return ::log(x); }

template <class S>
RowBlock<S> queries_of(const Heads& tensor, int64_t width, int64_t b, int64_t h, int64_t t0,
                       int64_t t1) {
  return {at<S>(tensor, b, h, t0), tensor.t, t1 - t0, 0, t1 - t0, width};
}

// Keys or values [k0, k0 + keys), what is not in `seen` as zeros.
template <class S>
RowBlock<S> keys_of(const AttentionArgs& a, const Heads& tensor, int64_t width, int64_t b,
                    int64_t h, int64_t k0, int64_t keys, KeyRange seen) {
  const int64_t head = h / (a.H / a.Hk);
  return {at<S>(tensor, b, head, k0), tensor.t, keys, seen.first - k0, seen.last - k0, width};
}

template <template <class> class Score, class S>
struct AttentionForward {
  using C = typename Wide<S>::type;
  using V = Vec<C>;
  using Op = Operands<S>;
  using T = typename Op::T;
  static constexpr int W = kLanes<C>;
  static constexpr C kInfinity = C(__builtin_inf());

  struct Scratch {
    Score<S> score;
    int64_t width;  // Ev in whole vectors
    C *s, *f, *o, *top, *total;
    T *value, *left;
    Scratch(const AttentionArgs& a, Arena& arena)
        : score(a, arena, false), width(round_up(a.Ev, W)) {
      s = arena.take<C>(kQueries * kKeys);
      f = arena.take<C>(kKeys);
      o = arena.take<C>(kQueries * width);
      top = arena.take<C>(kQueries);
      total = arena.take<C>(kQueries);
      value = arena.take<T>(Op::size(width, kKeys));
      left = arena.take<T>(Op::size(kQueries, kKeys));
    }
  };

  static int64_t blocks(const AttentionArgs& a) { return ceil_div(a.Tq, kQueries); }
  static int64_t count(const AttentionArgs& a) { return a.B * a.H * blocks(a); }
  static size_t scratch(const AttentionArgs& a) {
    Arena arena{nullptr};
    Scratch{a, arena};
    if constexpr (kMayFail<S>)
      return size_t(max_of(int64_t(arena.used), int64_t(AttentionForward<Score, float>::scratch(a))));
    return arena.used;
  }

  static void run(const AttentionArgs& a, int64_t task, char* memory) {
    const bool done = compute(a, task, memory);
    if constexpr (kMayFail<S>)
      if (!done) AttentionForward<Score, float>::run(a, task, memory);
  }

 private:
  // False where the numbers of storage cannot be multiplied in terms (terms.h).
  static bool compute(const AttentionArgs& a, int64_t task, char* memory) {
    Arena arena{memory};
    Scratch m(a, arena);
    // The last block first: with causality it is the longest.
    const int64_t t0 = (blocks(a) - 1 - task % blocks(a)) * kQueries;
    const int64_t t1 = min_of(a.Tq, t0 + kQueries), queries = t1 - t0;
    const int64_t h = task / blocks(a) % a.H, b = task / blocks(a) / a.H;
    const KeysSeen sight = keys_seen<S>(a, b, h, t0, t1);
    const KeyRange seen = sight.by_any;
    m.score.set_head(a, b, h);
    const RowBlock<S> q = queries_of<S>(a.query, a.E, b, h, t0, t1);
    const bool few = a.Tq <= kFewQueries;
    const bool extra = a.extra != Extra::kNone;
    const bool unpacked = few && Score<S>::kScoresOfFew;
    if (!unpacked) m.score.set_queries(q, false);
    for (int64_t r = 0; r < queries; ++r) {
      m.top[r] = -kInfinity, m.total[r] = 0;
      for (int64_t x = 0; x < m.width; x += W) store(m.o + r * m.width + x, V{});
    }
    for (int64_t k0 = seen.first / kKeys * kKeys; k0 < seen.last; k0 += kKeys) {
      const int64_t keys = min_of(kKeys, a.Tk - k0), columns = round_up(keys, W);
      const RowBlock<S> k = keys_of<S>(a, a.key, a.E, b, h, k0, keys, seen);
      if constexpr (Score<S>::kScoresOfFew) {
        if (unpacked) Score<S>::scores_of_few(q, k, m.s);
      }
      if (!unpacked) {
        m.score.set_keys(k, false);
        m.score.scores(queries, keys, m.s);
        if (kMayFail<S> && !all_finite(m.s, queries, columns, kKeys)) return false;
      }
      for (int64_t r = 0; r < queries; ++r)
        weigh(Row<S>(a, b, h, t0 + r), k0, keys, m.s + r * kKeys, m.f, m.top[r], m.total[r],
              m.o + r * m.width, m.width);
      const RowBlock<S> v = keys_of<S>(a, a.value, a.Ev, b, h, k0, keys, seen);
      // A product multiplies with the zero weights of keys not seen, too: 0 x NaN.
      if (few || (sight.partly(k0, keys) && !finite(v))) {
        for (int64_t r = 0; r < queries; ++r)
          add_rows(Row<S>(a, b, h, t0 + r).seen_of(v, k0), m.s + r * kKeys, m.o + r * m.width);
        continue;
      }
      matmul<S>(queries, m.width, Op::units(keys),
                   Op::left_tile(m.s, kKeys, queries, columns, m.left),
                   Op::right_rows(v, m.value, m.width), m.o, m.width, true);
    }
    if (kMayFail<S> && !few && !all_finite(m.o, queries, m.width, m.width)) return false;
    for (int64_t r = 0; r < queries; ++r) {
      const C inverse = m.total[r] == 0 ? C(0) : 1 / m.total[r];
      S* out = at<S>(a.out, b, h, t0 + r);
      for (int64_t x = 0; x < a.Ev; x += W)
        store(out + x, load(m.o + r * m.width + x) * inverse, int(min_of(W, a.Ev - x)));
      at<C>(a.lse, b, h, t0 + r) =
          m.total[r] == 0 ? -kInfinity : m.top[r] + natural_log(m.total[r]);
    }
    if (extra) write_found(a, m, q, unpacked, b, h, t0, t1, seen);
    return true;
  }

  // Scores of one query become weights against the largest so far; total and output follow.
  static inline void weigh(const Row<S>& row, int64_t k0, int64_t keys, C* s, C* f, C& top,
                           C& total, C* o, int64_t width) {
    const C found = max_lanes<C>(row.finish_scores(s, k0, keys));
    const C next = found > top ? found : top;
    const C shift = next == -kInfinity ? C(0) : next;  // nothing seen yet
    if (top != next) {
      C shrink = 0;
      if (top != -kInfinity) shrink = exp_of_difference<C>(broadcast<C>(top - next))[0];
      total *= shrink;
      for (int64_t x = 0; x < width; x += W) store(o + x, load(o + x) * shrink);
      top = next;
    }
    V sum = V{};
    for (int64_t i = 0; i < keys; i += W) {
      const V p = exp_of_difference<C>(load(s + i) - shift);
      sum += p;
      store(s + i, p);
    }
    total += sum_lanes<C>(sum);
    if (row.weighted) {
      row.factors(k0, keys, f);
      for (int64_t i = 0; i < keys; i += W) store(s + i, load(s + i) * load(f + i));
    }
  }

  // The weights, or their logarithms, now that the totals are known: the scores once more, summed
  // in the order of the first time. From the largest score and the total, not from lse, whose last
  // bit is a large part of a weight where scores are in the thousands.
  static void write_found(const AttentionArgs& a, Scratch& m, const RowBlock<S>& q, bool unpacked,
                          int64_t b, int64_t h, int64_t t0, int64_t t1, KeyRange seen) {
    const bool logs = a.extra == Extra::kLogProbabilities;
    const V nothing = logs ? broadcast<C>(-kInfinity) : V{};
    for (int64_t k0 = 0; k0 < a.Tk; k0 += kKeys) {
      const int64_t keys = min_of(kKeys, a.Tk - k0);
      const bool any = k0 + keys > seen.first && k0 < seen.last;
      if (any) {
        const RowBlock<S> k = keys_of<S>(a, a.key, a.E, b, h, k0, keys, seen);
        if constexpr (Score<S>::kScoresOfFew) {
          if (unpacked) Score<S>::scores_of_few(q, k, m.s);
        }
        if (!unpacked) {
          m.score.set_keys(k, false);
          m.score.scores(t1 - t0, keys, m.s);
        }
      }
      for (int64_t t = t0; t < t1; ++t) {
        S* to = at<S>(a.found, b, h, t) + k0;
        const Row<S> row(a, b, h, t);
        C* s = m.s + (t - t0) * kKeys;
        const C top = m.top[t - t0], total = m.total[t - t0];
        const C inverse = 1 / total, log_total = logs ? natural_log(total) : C(0);
        if (any) row.finish_scores(s, k0, keys);
        if (any && row.weighted && !logs) row.factors(k0, keys, m.f);
        for (int64_t i = 0; i < keys; i += W) {
          V x = nothing;
          if (any && total != 0) {
            x = load(s + i) - top;
            x = logs ? x - log_total : exp_of_difference<C>(x) * inverse;
            if (!logs && row.weighted) x *= load(m.f + i);
          }
          store(to + i, x, int(min_of(W, keys - i)));
        }
      }
    }
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
