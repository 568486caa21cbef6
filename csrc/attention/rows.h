// What happens to one query's scores, whatever the score: cap, mask, range, and the factors on
// the weights after the softmax (dropout, Gaussian).
#pragma once

#include "../math.h"
#include "../product.h"
#include "philox.h"
#include "types.h"

namespace fastrnn {
namespace FASTRNN_ISA {

// Queries and keys of a block. Keys come in whole 64s, as the random bits of dropout do.
constexpr int64_t kQueries = 128, kKeys = 128;

// Up to so many queries a key is read too seldom for being packed first: one step of a decoder.
constexpr int64_t kFewQueries = 4;

template <class T>
inline T* at(const Heads& x, int64_t b, int64_t h, int64_t t = 0) {
  return static_cast<T*>(x.data) + b * x.b + h * x.h + t * x.t;
}
template <class T>
inline T& at(const PerQuery& x, int64_t b, int64_t h, int64_t t) {
  return static_cast<T*>(x.data)[b * x.b + h * x.h + t * x.t];
}

// v with its lanes i and i ^ kBit exchanged.
template <int kBit, class V, int... I>
inline V swap_lanes(V v, Sequence<I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(v, v, (I ^ kBit)...);
#else
  using Lanes = decltype(v == v);
  return __builtin_shuffle(v, Lanes{(I ^ kBit)...});
#endif
}

// All lanes taken together, in every lane: pairs, pairs of pairs, and so on.
template <class C, int kBit = kLanes<C> / 2, class Take>
inline Vec<C> all_lanes(Vec<C> v, Take&& take) {
  if constexpr (kBit == 0) {
    return v;
  } else {
    const Vec<C> other = swap_lanes<kBit>(v, typename MakeSequence<kLanes<C>>::type{});
    return all_lanes<C, kBit / 2>(take(v, other), take);
  }
}
template <class C>
inline C sum_lanes(Vec<C> v) {
  return all_lanes<C>(v, [](Vec<C> a, Vec<C> b) { return a + b; })[0];
}
template <class C>
inline C max_lanes(Vec<C> v) {
  return all_lanes<C>(v, [](Vec<C> a, Vec<C> b) { return a > b ? a : b; })[0];
}

// The sum of each row's lanes, row i's in lane i; what is in the rows is lost.
template <class C, int kBit = 1>
inline __attribute__((always_inline)) Vec<C> sums_of_rows(Vec<C>* rows) {
  constexpr int W = kLanes<C>;
  if constexpr (kBit == W) {
    return rows[0];
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < W; i += 2 * kBit) {
      const Vec<C> a = rows[i], b = rows[i + kBit];
      rows[i] = exchange<kBit, false>(a, b, typename MakeSequence<W>::type{}) +
                exchange<kBit, true>(a, b, typename MakeSequence<W>::type{});
    }
    return sums_of_rows<C, 2 * kBit>(rows);
  }
}

// e^x for x at most a little above zero, as in a softmax: what would be denormal is zero. The
// general one, in ../math.h, costs half as much again, and a call.
template <class C>
inline __attribute__((always_inline)) Vec<C> exp_of_difference(Vec<C> x) {
  constexpr C kLowest = sizeof(C) == 4 ? C(-87.3) : C(-708.3);
  Vec<C> n;
  typename VecOf<C>::ints bits;
  const Vec<C> e = reduced_expm1<C>(x, n, bits) + 1;
  return x < kLowest ? Vec<C>{} : e * power_of_two<C>(bits);
}

template <class C>
inline Vec<C> lane_numbers() {
  Vec<C> v;
  for (int i = 0; i < kLanes<C>; ++i) v[i] = C(i);
  return v;
}

template <class C>
struct BytesOf;
template <>
struct BytesOf<float> {
  using type = uint8_t __attribute__((vector_size(kLanes<float>)));
};
template <>
struct BytesOf<double> {
  using type = uint8_t __attribute__((vector_size(kLanes<double>)));
};

// The bytes of a bool mask as lanes, all bits set where true.
template <class C>
inline typename VecOf<C>::ints load_bools(const uint8_t* p, int n) {
  using Ints = typename VecOf<C>::ints;
  typename BytesOf<C>::type bytes{};
  if (__builtin_expect(n == kLanes<C>, 1))
    __builtin_memcpy(&bytes, p, sizeof bytes);  // of a size that is known: no call
  else
    __builtin_memcpy(&bytes, p, size_t(n));
  return __builtin_convertvector(bytes, Ints) != 0;
}

// One query: the keys it sees and what applies to its scores.
template <class S>
struct Row {
  using C = typename Wide<S>::type;
  using V = Vec<C>;
  using Ints = typename VecOf<C>::ints;
  static constexpr int W = kLanes<C>;
  static constexpr C kInfinity = C(__builtin_inf());

  const AttentionArgs& a;
  int64_t b, h, t, first, last;
  bool masked, weighted;  // whether there is a mask; whether weights have a factor
  C centre = 0, spread = 0;  // of the Gaussian: its centre and 1 / width

  Row(const AttentionArgs& a, int64_t b, int64_t h, int64_t t) : a(a), b(b), h(h), t(t) {
    first = 0, last = a.Tk;
    if (a.first.data) {
      first = max_of(0, at<int32_t>(a.first, b, h, t));
      last = min_of(a.Tk, at<int32_t>(a.last, b, h, t));
      if (last < first) first = last = 0;
    }
    masked = a.mask.kind != MaskKind::kNone;
    weighted = a.threshold != 0 || a.centre.data;
    if (a.centre.data) {
      centre = at<C>(a.centre, b, h, t);
      spread = 1 / at<C>(a.width, b, h, t);
    }
  }

  bool sees_all(int64_t k0, int64_t keys) const { return first <= k0 && k0 + keys <= last; }

  // A block of keys or values from k0 on, cut to those that are seen.
  template <class Block>
  Block seen_of(Block block, int64_t k0) const {
    block.from = max_of(block.from, first - k0), block.to = min_of(block.to, last - k0);
    return block;
  }

  // The scores of keys [k0, k0 + keys) at s, in place: scaled, capped, masked, -inf where not
  // seen and in the lanes after them. With `slope`, also the derivative of what the cap did.
  inline V finish_scores(C* s, int64_t k0, int64_t keys, C* slope = nullptr) const {
    V top = broadcast<C>(-kInfinity);
    const C scale = C(a.scale);
    const bool all = sees_all(k0, keys) && keys % W == 0;
    if (!masked && a.softcap == 0 && all) {
      for (int64_t i = 0; i < keys; i += W) {
        const V x = load(s + i) * scale;
        top = x > top ? x : top;
        store(s + i, x);
      }
      return top;
    }
    const V numbers = lane_numbers<C>();
    const C low = C(first - k0), high = C(min_of(last - k0, keys));
    const C cap = C(a.softcap), inverse_cap = C(1 / a.softcap);
    for (int64_t i = 0; i < keys; i += W) {
      V x = load(s + i) * scale;
      if (cap != 0) {
        const V bent = tanh(x * inverse_cap);
        x = bent * cap;
        if (slope) store(slope + i, 1 - bent * bent);
      }
      if (masked) x = mask(x, k0 + i, int(min_of(W, keys - i)));
      if (!all) {
        const V lane = numbers + C(i);
        const Ints seen = (lane >= low) & (lane < high);
        x = seen ? x : broadcast<C>(-kInfinity);
      }
      top = x > top ? x : top;
      store(s + i, x);
    }
    return top;
  }

  // The factors of the weights of keys [k0, k0 + keys), k0 a multiple of 64.
  inline void factors(int64_t k0, int64_t keys, C* f) const {
    alignas(64) uint32_t bits[64];
    const V numbers = lane_numbers<C>();
    for (int64_t i = 0; i < keys; i += W) {
      V x = broadcast<C>(1);
      if (a.centre.data) {
        const V z = distance(numbers, k0 + i) * spread;
        x = exp_of_difference<C>(z * z * C(-0.5));
      }
      if (a.threshold != 0) {
        if (i % 64 == 0)
          random_bits(a.seed, uint32_t((b * a.H + h) % a.drawn_heads), uint32_t(t), uint32_t((k0 + i) / 64), bits);
        C keep[W];
        for (int lane = 0; lane < W; ++lane)
          keep[lane] = bits[i % 64 + lane] >= a.threshold ? C(a.keep_scale) : C(0);
        x *= load(keep);
      }
      store(f + i, x);
    }
  }

  inline V distance(V numbers, int64_t k) const { return numbers + (C(k) - centre); }

 private:
  inline V mask(V x, int64_t k, int n) const {
    const int64_t offset = b * a.mask.b + h * a.mask.h + t * a.mask.q + k * a.mask.k;
    if (a.mask.kind == MaskKind::kBool) {
      const uint8_t* p = static_cast<const uint8_t*>(a.mask.data) + offset;
      const Ints seen = a.mask.k ? load_bools<C>(p, n) : Ints{} - (*p ? 1 : 0);
      return seen ? x : broadcast<C>(-kInfinity);
    }
    const S* p = static_cast<const S*>(a.mask.data) + offset;
    return a.mask.k ? x + load(p, n) : x + to_wide(*p);
  }
};

// The keys that any of the queries [t0, t1) sees, as [first, last), and those that all of them do.
struct KeyRange {
  int64_t first, last;
};
struct KeysSeen {
  KeyRange by_any, by_all;
  // Whether there are keys among [k0, k0 + keys) that only some of the queries see.
  bool partly(int64_t k0, int64_t keys) const { return by_all.first > k0 || by_all.last < k0 + keys; }
};
template <class S>
inline KeysSeen keys_seen(const AttentionArgs& a, int64_t b, int64_t h, int64_t t0, int64_t t1) {
  if (!a.first.data) return {{0, a.Tk}, {0, a.Tk}};
  KeyRange any = {a.Tk, 0}, all = {0, a.Tk};
  for (int64_t t = t0; t < t1; ++t) {
    const Row<S> row(a, b, h, t);
    all = {max_of(all.first, row.first), min_of(all.last, row.last)};
    if (row.first == row.last) continue;
    any = {min_of(any.first, row.first), max_of(any.last, row.last)};
  }
  return {any.first < any.last ? any : KeyRange{0, 0}, all};
}

// Memory for one task, handed out in pieces; with no memory behind it, it counts.
struct Arena {
  char* start;
  size_t used = 0;
  template <class T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(start + used);
    used += (size_t(count) * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
