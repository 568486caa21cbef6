// The recurrent product: acc[r][g] = sum_k h[r][k] * w[g][unit][k] for a tile of rows
// and blocks of units, with the weights packed so that one stream through memory meets
// all gates of a block: packed[block][k][g][lane].
//
// Every sum runs over k in order in one accumulator, whatever the tile: a row's bits
// depend neither on its neighbours nor on the number of threads.
//
// Bound, per step: 2 G H K B operations, and G H K numbers of weights streamed once for
// each `max_rows` rows. One row is bound by the stream, from three rows on by the FMAs.
#pragma once

#include <cstddef>

#include "vec.h"

namespace fastrnn {
namespace FASTRNN_ISA {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

template <class A, class B>
constexpr bool kSame = false;
template <class A>
constexpr bool kSame<A, A> = true;

// What a product multiplies: numbers of the type that they are summed in, or, where there are
// instructions for it, pairs of bfloat16 that lie side by side.
template <class S>
struct FactorOf {
  using type = typename Wide<S>::type;
};
#if defined(__AVX512BF16__) || defined(FASTRNN_TILES)
template <>
struct FactorOf<bfloat16> {
  using type = bfloat16;
};
#endif
template <class S>
using Factor = typename FactorOf<S>::type;

// A factor that is the sum of P numbers of bfloat16 (split.h). They do not lie together: in a row,
// and in a block of packed weights, come the first terms of all numbers, then all second ones, each a
// plane of what a bfloat16's row or block would be.
template <int P>
struct Terms {
  bfloat16 of[P];
};
template <class F>
struct PlaneOf {
  using type = F;
  static constexpr int count = 1;
};
template <int P>
struct PlaneOf<Terms<P>> {
  using type = bfloat16;
  static constexpr int count = P;
};
template <class F>
using Plane = typename PlaneOf<F>::type;
template <class F>
constexpr int kPlanes = PlaneOf<F>::count;
// Rows of terms begin, plane by plane, at a cache line.
template <int P>
constexpr int kLanes<Terms<P>> = kLanes<bfloat16>;

// So many k are met at once; memory for factors holds whole such groups.
template <class F>
constexpr int kEach = kSame<Plane<F>, bfloat16> ? 2 : 1;

// Numbers into a row of factors, whose planes lie `ld` apart (that of terms: split.h).
template <class F>
inline void put_factors(F* row, int64_t, int64_t column, Vec<typename Wide<F>::type> v, int lanes) {
  store(row + column, v, lanes);
}
template <class F, class S>
inline void put_row(F* row, int64_t ld, const S* from, int64_t width) {
  constexpr int W = kLanes<typename Wide<F>::type>;
  for (int64_t u = 0; u < width; u += W) {
    const int lanes = int(min_of(W, width - u));
    put_factors(row, ld, u, load(from + u, lanes), lanes);
  }
}
// The other half of an odd row's last pair.
template <class F>
inline void end_factors(F* row, int64_t ld, int64_t width) {
  if (kEach<F> == 2 && width % 2)
    for (int p = 0; p < kPlanes<F>; ++p) reinterpret_cast<Plane<F>*>(row)[p * ld + width] = {};
}

inline VecF load_bits(const void* p) {
  VecF v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// One vector of weights, a group of k of one row for all lanes, and their product.
template <class F>
struct Factors {
  static inline Vec<F> weight(const F* at) { return load(at); }
  static inline Vec<F> spread(const F* at) { return broadcast(*at); }
  static inline Vec<F> add(Vec<F> sum, Vec<F> weight, Vec<F> row) { return sum + weight * row; }
};
#if defined(__AVX512BF16__)
template <>
struct Factors<bfloat16> {
  static inline VecF weight(const bfloat16* at) { return load_bits(at); }
  static inline VecF spread(const bfloat16* at) {
    int pair;
    __builtin_memcpy(&pair, at, sizeof pair);
    return (VecF)_mm512_set1_epi32(pair);
  }
  static inline VecF add(VecF sum, VecF weight, VecF row) {
    return (VecF)_mm512_dpbf16_ps((__m512)sum, (__m512bh)weight, (__m512bh)row);
  }
};
#endif

// What is held in registers while k runs: R rows, U blocks, and of a block's G gates T at a
// time. A tile must leave room for the fewer of its broadcast rows and its weight vectors, and
// have some ten accumulators, to cover the latency of the FMA.
template <int G_, int T_, int U_, int R_>
struct Tile {
  static constexpr int G = G_, T = T_, U = U_, R = R_;
};

constexpr bool kManyRegisters = kRegisters == 32;
constexpr int kAccumulators = kManyRegisters ? 24 : 12;

// One row: several blocks.
template <int G>
using Line = Tile<G, G, G >= 4 ? 2 : G >= 2 ? 4 : 8, 1>;

// Several rows: the fewer the gates, the more blocks.
template <int G, int U = (G >= 3 ? 1 : G == 2 ? 2 : 4)>
using Several = Tile<G, G, U, (kAccumulators / (G * U) > 8 ? 8 : kAccumulators / (G * U))>;

// From kTallRows on, where there are 16 registers: two weight vectors against six rows take
// half as much of the weight stream, which four against three can only just have from the
// second-level cache.
constexpr int64_t kTallRows = 4;
template <int G>
struct TallOf {
  using type = Tile<G, 2, 1, 6>;
};
template <>
struct TallOf<3> {
  using type = Tile<3, 3, 1, 4>;
};
template <>
struct TallOf<1> {
  using type = Tile<1, 1, 2, 6>;
};

// Gates [g, g + T) of one tile; acc[row][block][gate].
template <class F, class Tile, int T, int R, class C = typename Wide<F>::type>
inline __attribute__((always_inline)) void multiply(const F* w, int64_t block, const F* h,
                                                    int64_t ld, int64_t K, Vec<C>* acc) {
  constexpr int E = kEach<F>, W = kLanes<C> * E, G = Tile::G, U = Tile::U;
  // One prefetch a cache line, 1 KiB ahead.
  constexpr int kAhead = 1024 / sizeof(F), kVectorsPerLine = 64 / kBytes;
  Vec<C> sum[R][U * T];
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
    for (int v = 0; v < U * T; ++v) sum[r][v] = Vec<C>{};
  for (int64_t k = 0; k < K; k += E) {
    const F* at = w + k / E * (G * W);
    Vec<C> weight[U * T];
    if constexpr (R > 1 && R >= U * T) {
      // The weights stay, rows pass.
#pragma GCC unroll 32
      for (int v = 0; v < U * T; ++v) {
        if (v % kVectorsPerLine == 0) __builtin_prefetch(at + v / T * block + v % T * W + kAhead);
        weight[v] = Factors<F>::weight(at + v / T * block + v % T * W);
      }
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) {
        const Vec<C> row = Factors<F>::spread(h + r * ld + k);
#pragma GCC unroll 32
        for (int v = 0; v < U * T; ++v) sum[r][v] = Factors<F>::add(sum[r][v], weight[v], row);
      }
    } else {
#pragma GCC unroll 32
      for (int v = 0; v < U * T; ++v) {
        if (v % kVectorsPerLine == 0) __builtin_prefetch(at + v / T * block + v % T * W + kAhead);
        weight[v] = Factors<F>::weight(at + v / T * block + v % T * W);
#pragma GCC unroll 32
        for (int r = 0; r < R; ++r)
          sum[r][v] = Factors<F>::add(sum[r][v], weight[v], Factors<F>::spread(h + r * ld + k));
      }
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
    for (int v = 0; v < U * T; ++v) acc[(r * U + v / T) * G + v % T] = sum[r][v];
}

// The same, not inlined: shared by all cells of G gates and all storage types.
template <class F, class Tile, int T, int R, class C = typename Wide<F>::type>
__attribute__((noinline)) void multiply_shared(const F* w, int64_t block, const F* h, int64_t ld,
                                               int64_t K, Vec<C>* acc) {
  multiply<F, Tile, T, R>(w, block, h, ld, K, acc);
}

template <class F, class Tile, int R = Tile::R, class C = typename Wide<F>::type>
void multiply_rows(int64_t rows, const F* w, int64_t block, const F* h, int64_t ld, int64_t K,
                   Vec<C>* acc) {
  if constexpr (R > 1) {
    if (rows < R) return multiply_rows<F, Tile, R - 1>(rows, w, block, h, ld, K, acc);
  }
  constexpr int G = Tile::G, T = Tile::T, W = kLanes<C> * kEach<F>;
#pragma GCC unroll 8
  for (int g = 0; g + T <= G; g += T)
    multiply_shared<F, Tile, T, R>(w + g * W, block, h, ld, K, acc + g);
  if constexpr (G % T != 0)
    multiply_shared<F, Tile, G % T, R>(w + (G - G % T) * W, block, h, ld, K, acc + (G - G % T));
}

// Calls epilogue(row, block of units, acc[G]) for rows [r0, r1) and blocks [u0, u1).
template <class F, int G>
struct Product {
  using C = typename Wide<F>::type;
  const F* packed;
  int64_t K;
  const F* h;  // [rows, ld]
  int64_t ld;
  // Blocks from the last to the first. Every other step: what the last step left in the
  // cache is met first, where a cyclic stream would have evicted it just before its turn.
  bool backwards;

  template <class Epilogue>
  inline void run(int64_t r0, int64_t r1, int64_t u0, int64_t u1, Epilogue&& epilogue) const {
    if (r1 - r0 == 1)
      blocks<Line<G>::U>(u0, u1, [&](auto taken, int64_t u) { single<taken>(r0, u, epilogue); });
    else if (r1 - r0 >= kTallRows && !kManyRegisters)
      blocks<TallOf<G>::type::U>(u0, u1, [&](auto taken, int64_t u) {
        many<typename TallOf<G>::type, taken>(r0, r1, u, epilogue);
      });
    else if (r1 > r0)
      blocks<Several<G>::U>(
          u0, u1, [&](auto taken, int64_t u) { many<Several<G>, taken>(r0, r1, u, epilogue); });
  }

 private:
  template <int U>
  struct Count {
    constexpr operator int() const { return U; }
  };

  int64_t block_size() const { return round_up(K, kEach<F>) * G * kLanes<C>; }

  // Calls take(U, u) for groups of U blocks, what remains in groups of half as many.
  template <int U, class Take>
  inline void blocks(int64_t u0, int64_t u1, Take&& take) const {
    const int64_t full = (u1 - u0) / U, rest = u0 + full * U;
    for (int turn = 0; turn < 2; ++turn) {
      if ((turn == 0) != backwards) {
        for (int64_t i = 0; i < full; ++i)
          take(Count<U>{}, u0 + (backwards ? full - 1 - i : i) * U);
      } else if constexpr (U > 1) {
        if (rest < u1) blocks<U / 2>(rest, u1, take);
      }
    }
  }

  // One row: the accumulators stay in registers up to the gate functions.
  template <int U, class Epilogue>
  inline void single(int64_t row, int64_t u, Epilogue&& epilogue) const {
    Vec<C> acc[U * G];
    multiply<F, Tile<G, G, U, 1>, G, 1>(packed + u * block_size(), block_size(), h + row * ld, ld,
                                        K, acc);
    for (int i = 0; i < U; ++i) epilogue(row, u + i, acc + i * G);
  }

  // Many rows, in groups as even as can be; a block's weights serve all groups in turn.
  template <class Shape, int U, class Epilogue>
  inline void many(int64_t r0, int64_t r1, int64_t u, Epilogue&& epilogue) const {
    constexpr int R = Shape::R;
    const int64_t groups = ceil_div(r1 - r0, R);
    Vec<C> acc[R * U * G];
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t first = r0 + (r1 - r0) * group / groups;
      const int64_t last = r0 + (r1 - r0) * (group + 1) / groups;
      multiply_rows<F, Tile<G, Shape::T, U, R>>(last - first, packed + u * block_size(),
                                                block_size(), h + first * ld, ld, K, acc);
      for (int64_t r = first; r < last; ++r)
        for (int i = 0; i < U; ++i) epilogue(r, u + i, acc + ((r - first) * U + i) * G);
    }
  }
};

// What packing moves, of plane p: one factor; a vector of them along k; and pairs of two rows of units.
template <class F, int p, class S>
inline Plane<F> as_factor(S x) {
  if constexpr (sizeof(F) == sizeof(S))
    return x;
  else
    return to_wide(x);
}
template <int p, class S>
inline Vec<typename Wide<S>::type> load_factors(const S* from) {
  if constexpr (kEach<Factor<S>> == 2)
    return load_bits(from);
  else
    return load(from);
}
template <class F>
inline void store_factor(F* to, Vec<typename Wide<F>::type> v) {
  __builtin_memcpy(to, &v, sizeof v);
}
template <int p, class F, class S>
inline void store_pairs(F* to, const S* even, const S* odd) {
  for (int lane = 0; lane < kLanes<typename Wide<S>::type>; ++lane) {
    to[2 * lane] = as_factor<F, p>(even[lane]);
    to[2 * lane + 1] = as_factor<F, p>(odd[lane]);
  }
}

// The planes from p on of one gate of a block: to[k][lane], groups of k `step` apart.
template <class S, int p = 0>
void pack_gate(const S* from, int lanes, int64_t K, int64_t step_u, int64_t step_k, Plane<Factor<S>>* to,
               int64_t step) {
  using C = typename Wide<S>::type;
  using F = Factor<S>;
  constexpr int E = kEach<F>, W = kLanes<C>;
  const int64_t groups = ceil_div(K, E);
  int64_t k = 0;  // of groups
  if (step_u == 1 && E == 1) {
    for (; k < K; ++k) store_factor(to + k * step, load(from + k * step_k, lanes));
  } else if (step_u == 1 && lanes == W) {
    for (; k < K / 2; ++k)
      store_pairs<p>(to + k * step, from + 2 * k * step_k, from + (2 * k + 1) * step_k);
  } else if (step_k == 1) {
    for (; (k + W) * E <= K; k += W) {
      Vec<C> tile[W];
      for (int lane = 0; lane < W; ++lane)
        tile[lane] = lane < lanes ? load_factors<p>(from + lane * step_u + k * E) : Vec<C>{};
      transpose<C>(tile);
      for (int i = 0; i < W; ++i) store_factor(to + (k + i) * step, tile[i]);
    }
  }
  // What neither way took: odd strides and the last columns.
  for (; k < groups; ++k)
    for (int lane = 0; lane < W; ++lane)
      for (int e = 0; e < E; ++e)
        to[k * step + lane * E + e] = lane < lanes && k * E + e < K
                                          ? as_factor<F, p>(from[lane * step_u + (k * E + e) * step_k])
                                          : Plane<F>{};
  if constexpr (p + 1 < kPlanes<F>)
    pack_gate<S, p + 1>(from, lanes, K, step_u, step_k, to + groups * step, step);
}

// packed[block][k][g][lane] = w[g*step_g + unit*step_u + k*step_k], zero past the last unit.
// Of pairs, the lane holds both of k; the one past an odd K is zero. Of terms, a block has its planes.
template <class S>
void pack(const void* source, int64_t G, int64_t U, int64_t K, int64_t step_g, int64_t step_u,
          int64_t step_k, void* target) {
  using F = Factor<S>;
  constexpr int W = kLanes<typename Wide<S>::type>, kVector = W * kEach<F>;
  const S* w = static_cast<const S*>(source);
  Plane<F>* packed = static_cast<Plane<F>*>(target);
  const int64_t step = G * kVector, block_size = kPlanes<F> * ceil_div(K, kEach<F>) * step;
  for (int64_t block = 0; block * W < U; ++block)
    for (int64_t g = 0; g < G; ++g)
      pack_gate<S>(w + g * step_g + block * W * step_u, int(min_of(W, U - block * W)), K, step_u, step_k,
                   packed + block * block_size + g * kVector, step);
}

// packed[block][g][lane] = w[g*step_g + unit], zero past the last unit: biases, in the type of sums.
template <class S>
void pack_biases(const void* source, int64_t G, int64_t U, int64_t step_g, void* target) {
  using C = typename Wide<S>::type;
  constexpr int W = kLanes<C>;
  C* packed = static_cast<C*>(target);
  for (int64_t block = 0; block * W < U; ++block)
    for (int64_t g = 0; g < G; ++g)
      store(packed + (block * G + g) * W, load(static_cast<const S*>(source) + g * step_g + block * W,
                                               int(min_of(W, U - block * W))));
}

template <class S>
size_t packed_bytes(int64_t G, int64_t U, int64_t K) {
  using F = Factor<S>;
  return size_t(round_up(U, kLanes<typename Wide<S>::type>)) * size_t(G) *
         size_t(round_up(K, kEach<F>)) * sizeof(F);
}

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
