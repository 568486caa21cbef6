// score(q, k) = sum_e vector_e tanh(q_e + k_e)
//
// The [Tq, Tk, E] numbers tanh(..) exist one vector at a time: forward and backward compute
// them anew. Bound: tanh, of which there is one a pair and e in each pass over a tile.
//
// Where a block's numbers allow it, tanh(q + k) = 1 - 2 / (1 + e^2q e^2k): the exponentials
// belong to queries and keys alone, and two terms share one reciprocal,
//   w1 / x1 + w2 / x2 = (w1 x2 + w2 x1) / (x1 x2).
// x1 x2 must not overflow, so max|q| + max|k| < 22 (float); and where all of a block's tanh are
// small, 1 - 2 r would lose their last digits, so from 1/4 on.
//
// A sum's rounding grows with its length, and that of w r with the sum of w besides: sums over
// kSome numbers e each, which for the pairs are w - 2 w r again before they are added up.
#pragma once

#include "pack.h"
#include "rows.h"

namespace fastrnn {
namespace FASTRNN_ISA {

inline VecD reciprocal(VecD x) { return 1 / x; }
inline VecF reciprocal(VecF x) {
#if defined(__AVX512F__)
  // 14 bits, and twice as many after one step of Newton's.
  const VecF y = (VecF)_mm512_rcp14_ps((__m512)x);
  return y * (2 - x * y);
#else
  return 1 / x;
#endif
}

template <class S>
struct Additive {
  using C = typename Wide<S>::type;
  using V = Vec<C>;
  static constexpr int W = kLanes<C>;
  static constexpr bool kScoresOfFew = false;  // keys are used as often as there are e
  static constexpr C kPairsFrom = C(0.25), kPairsTo = sizeof(C) == 4 ? C(22) : C(176);
  static constexpr int64_t kSome = 16;

  const int64_t E, padded;     // E in whole vectors; padding has vector_e = 0
  C* vector;                   // [padded]
  C *query, *key;              // [q][padded]; [padded][kKeys]: numbers
  C *query_exp, *key_exp;      // the same of e^2x
  C *key_rows, *key_rows_exp;  // [k][padded], for the backward
  C* total;                    // [padded]: sum of ds tanh
  C* some;                     // sums of vector over kSome numbers
  C query_top = 0, key_top = 0;

  Additive(const AttentionArgs& a, Arena& arena, bool backward)
      : E(a.E), padded(round_up(a.E, W)) {
    vector = arena.take<C>(padded);
    query = arena.take<C>(kQueries * padded);
    query_exp = arena.take<C>(kQueries * padded);
    key = arena.take<C>(padded * kKeys);
    key_exp = arena.take<C>(padded * kKeys);
    some = arena.take<C>(ceil_div(padded, kSome));
    if (!backward) return;
    key_rows = arena.take<C>(kKeys * padded);
    key_rows_exp = arena.take<C>(kKeys * padded);
    total = arena.take<C>(padded);
  }

  void set_head(const AttentionArgs& a, int64_t b, int64_t h) {
    const S* v = at<S>(a.vector, b, h);
    for (int64_t e = 0; e < padded; ++e) vector[e] = e < E ? to_wide(v[e]) : C(0);
    for (int64_t e0 = 0; e0 < padded; e0 += kSome) {
      C& sum = some[e0 / kSome] = 0;
      for (int64_t e = e0; e < min_of(e0 + kSome, padded); ++e) sum += vector[e];
    }
  }
  void set_queries(const RowBlock<S>& block, bool) {
    copy_rows(block, query, padded);
    query_top = exponentials(query, query_exp, block.count * padded);
  }
  void set_keys(const RowBlock<S>& block, bool backward) {
    copy_columns(block, padded, key, kKeys);
    const int64_t columns = round_up(block.count, W);
    key_top = 0;
    for (int64_t e = 0; e < padded; ++e) {
      const C top = exponentials(key + e * kKeys, key_exp + e * kKeys, columns);
      key_top = top > key_top ? top : key_top;
    }
    if (!backward) return;
    copy_rows(block, key_rows, padded);
    exponentials(key_rows, key_rows_exp, block.count * padded);
  }

  void scores(int64_t queries, int64_t keys, C* s) {
    const bool paired = pairs();
    int64_t r = 0;
    for (; r + 4 <= queries; r += 4) score_rows<4>(paired, r, keys, s);
    for (; r < queries; ++r) score_rows<1>(paired, r, keys, s);
  }

  // dq_e += sum_k ds (1 - tanh^2), likewise dk_e; `finish` multiplies with vector_e.
  void backward(int64_t queries, int64_t keys, const C* ds, C* dq, int64_t dq_step, C* dk) {
    if (pairs())
      backward_blocks<true>(queries, keys, ds, dq, dq_step, dk);
    else
      backward_blocks<false>(queries, keys, ds, dq, dq_step, dk);
  }
  // The same of query r and keys [first, last) alone.
  void backward_of(int64_t r, int64_t first, int64_t last, const C* ds, C* dq, C* dk) {
    for (int64_t e = 0; e < padded; e += W) {
      V sums = V{};
      backward_rows<false, 1>(r, first, last, e, ds - r * kKeys, dq - r * padded, padded, dk, sums);
      store(total + e, sums);
    }
  }
  void finish(C* row) const {
    for (int64_t e = 0; e < padded; e += W) store(row + e, load(row + e) * load(vector + e));
  }
  // Adds sum ds tanh.
  void grad_vector(C* to) const {
    for (int64_t e = 0; e < padded; e += W) store(to + e, load(to + e) + load(total + e));
  }

 private:
  bool pairs() const {
    const C reach = query_top + key_top;
    return reach > kPairsFrom && reach < kPairsTo;
  }

  // e^2x of `count` numbers; returns the largest |x|.
  static C exponentials(const C* x, C* e, int64_t count) {
    V top = V{};
    for (int64_t i = 0; i < count; i += W) {
      const V v = load(x + i), size = v < 0 ? -v : v;
      top = size > top ? size : top;
      store(e + i, exp(v + v));
    }
    return max_lanes<C>(top);
  }

  template <int R>
  inline void score_rows(bool paired, int64_t r, int64_t keys, C* s) {
    for (int64_t k = 0; k < keys; k += W) {
      V sums[R];
      for (int i = 0; i < R; ++i) sums[i] = V{};
      for (int64_t e0 = 0; e0 < padded; e0 += kSome) {
        const int64_t e1 = min_of(e0 + kSome, padded);
        V acc[R];
        for (int i = 0; i < R; ++i) acc[i] = V{};
        if (paired) {
          const C* q = query_exp + r * padded;
          for (int64_t e = e0; e < e1; e += 2) {
            const V k1 = load(key_exp + e * kKeys + k), k2 = load(key_exp + (e + 1) * kKeys + k);
            const V w1 = broadcast<C>(vector[e]), w2 = broadcast<C>(vector[e + 1]);
#pragma GCC unroll 4
            for (int i = 0; i < R; ++i) {
              const V x1 = k1 * q[i * padded + e] + 1, x2 = k2 * q[i * padded + e + 1] + 1;
              acc[i] += (w1 * x2 + w2 * x1) * reciprocal(x1 * x2);
            }
          }
          for (int i = 0; i < R; ++i) acc[i] = some[e0 / kSome] - 2 * acc[i];
        } else {
          const C* q = query + r * padded;
          for (int64_t e = e0; e < e1; ++e) {
            const V ke = load(key + e * kKeys + k);
#pragma GCC unroll 4
            for (int i = 0; i < R; ++i) acc[i] += tanh(ke + q[i * padded + e]) * vector[e];
          }
        }
        for (int i = 0; i < R; ++i) sums[i] += acc[i];
      }
      for (int i = 0; i < R; ++i) store(s + (r + i) * kKeys + k, sums[i]);
    }
  }

  template <bool kPaired>
  void backward_blocks(int64_t queries, int64_t keys, const C* ds, C* dq, int64_t dq_step, C* dk) {
    // Sums over many pairs go by way of sums over few, for rounding grows with a sum's length.
    C all = 0;
    for (int64_t r = 0; r < queries; ++r) {
      C row = 0;
      for (int64_t k = 0; k < keys; ++k) row += ds[r * kKeys + k];
      all += row;
    }
    for (int64_t e = 0; e < padded; e += W) {
      V sums = V{};  // of ds r where paired, else of ds tanh
      int64_t r = 0;
      for (; r + 4 <= queries; r += 4) backward_rows<kPaired, 4>(r, 0, keys, e, ds, dq, dq_step, dk, sums);
      for (; r < queries; ++r) backward_rows<kPaired, 1>(r, 0, keys, e, ds, dq, dq_step, dk, sums);
      store(total + e, kPaired ? all - 2 * sums : sums);
    }
  }

  template <bool kPaired, int R>
  inline void backward_rows(int64_t r, int64_t k, int64_t keys, int64_t e, const C* ds, C* dq,
                            int64_t dq_step, C* dk, V& sums) {
    V q[R], acc[R], some = V{};
    for (int i = 0; i < R; ++i) {
      q[i] = load((kPaired ? query_exp : query) + (r + i) * padded + e);
      acc[i] = V{};
    }
    const C* from = (kPaired ? key_rows_exp : key_rows) + e;
    const C* d = ds + r * kKeys;
    if constexpr (kPaired) {
      for (; k + 2 <= keys; k += 2) {
        const V k1 = load(from + k * padded), k2 = load(from + (k + 1) * padded);
        V sum1 = V{}, sum2 = V{};
#pragma GCC unroll 4
        for (int i = 0; i < R; ++i) {
          const V e1 = k1 * q[i], e2 = k2 * q[i], x1 = e1 + 1, x2 = e2 + 1;
          const V both = reciprocal(x1 * x2);
          const V r1 = both * x2, r2 = both * x1;
          const V ds1 = r1 * d[i * kKeys + k], ds2 = r2 * d[i * kKeys + k + 1];
          // 1 - r is e r: without the difference, which loses the digits of a small one.
          const V u1 = ds1 * (e1 * r1), u2 = ds2 * (e2 * r2);
          some += ds1 + ds2;
          acc[i] += u1 + u2;
          sum1 += u1, sum2 += u2;
        }
        store(dk + k * padded + e, load(dk + k * padded + e) + 4 * sum1);
        store(dk + (k + 1) * padded + e, load(dk + (k + 1) * padded + e) + 4 * sum2);
      }
    }
    for (; k < keys; ++k) {
      const V ke = load(from + k * padded);
      V sum1 = V{};
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) {
        const C g = d[i * kKeys + k];
        if constexpr (kPaired) {
          const V e1 = ke * q[i], r1 = reciprocal(e1 + 1), ds1 = r1 * g, u = ds1 * (e1 * r1);
          some += ds1, acc[i] += u, sum1 += u;
        } else {
          const V y = tanh(ke + q[i]), u = g - y * y * g;
          some += y * g, acc[i] += u, sum1 += u;
        }
      }
      store(dk + k * padded + e, load(dk + k * padded + e) + (kPaired ? 4 : 1) * sum1);
    }
    sums += some;
    for (int i = 0; i < R; ++i) {
      C* to = dq + (r + i) * dq_step + e;
      store(to, load(to) + (kPaired ? 4 : 1) * acc[i]);
    }
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
