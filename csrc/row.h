// What a cell that needs a whole row of units at once gets: the row of one sequence at one step.
//
// Rows of C are padded to whole vectors, `ld` apart where there are several; the lanes past H hold
// nothing. Rows of the user's, and those that are kept, have no padding. So all loads and stores
// name their lanes, and sums see only units that there are.
#pragma once

#include "math.h"
#include "types.h"
#include "product.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <class C, class S>
struct RowForward {
  static constexpr int W = kLanes<C>;
  int64_t H, ld;
  const S* x;       // [G*H], input side of the pre-activations
  const C* a;       // [G][ld], recurrent side
  const C* h_prev;  // [ld]
  C* s[kMaxStates]; // [ld] each: the states beside h, to be replaced
  const C* p;       // parameters, packed; see param()
  C* h;             // [ld], to be written
  C* saved;         // [kSaved*H], to be written; nullptr: not wanted
};

template <class C, class S>
struct RowBackward {
  static constexpr int W = kLanes<C>;
  int64_t H, ld;
  const C* saved;               // [kSaved*H]
  const C* h_prev;              // [ld]
  const C* s_prev[kMaxStates];  // [ld] each
  const C* p;                   // parameters, packed
  const C* dh;                  // [ld], all of it
  C* ds[kMaxStates];            // [ld] each, to be replaced by those of the previous step
  C* dx;                        // [G][ld], to be written
  C* da;                        // [G*H], to be written
  C* dh_prev;                   // [ld], to be written: what does not pass the product
  C* dp;                        // [kParams][ld], to be added to
};

// Calls f(unit, lanes) for each block of units.
template <class C, class F>
inline void each_block(int64_t H, F&& f) {
  constexpr int W = kLanes<C>;
  for (int64_t u = 0; u < H; u += W) f(u, int(min_of(W, H - u)));
}

// The m-th of M parameters of the units from `unit` on.
template <class C>
inline Vec<C> param(const C* p, int M, int m, int64_t unit) {
  return load(p + unit * M + m * kLanes<C>);
}

template <class C>
inline C sum_of_lanes(Vec<C> v) {
  C total = 0;
  for (int i = 0; i < kLanes<C>; ++i) total += v[i];
  return total;
}

// Mean and 1 / sqrt(variance + eps) of G rows of H numbers; at(g, unit, lanes) reads them, zero
// past the last lane. The variance is that of the differences: no cancellation.
template <class C>
struct Moments {
  C mean, scale;

  // A sum for each row, so that no addition waits for the one before it.
  template <int G, class At>
  static inline Moments of(int64_t H, At&& at) {
    const C count = C(G) * C(H);
    Vec<C> sums[G] = {}, squares[G] = {};
    each_block<C>(H, [&](int64_t u, int lanes) {
      for (int g = 0; g < G; ++g) sums[g] += at(g, u, lanes);
    });
    const C mean = total(sums) / count;
    each_block<C>(H, [&](int64_t u, int lanes) {
      for (int g = 0; g < G; ++g) {
        const Vec<C> d = first_lanes<C>(at(g, u, lanes) - mean, lanes);
        squares[g] += d * d;
      }
    });
    const C variance = total(squares) / count;
    return {mean, C(1) / C(__builtin_sqrt(variance + C(kEps)))};
  }

  inline Vec<C> operator()(Vec<C> x) const { return (x - mean) * scale; }

  static constexpr double kEps = 1e-5;  // torch's

  template <int G>
  static inline C total(const Vec<C> (&sums)[G]) {
    Vec<C> sum = sums[0];
    for (int g = 1; g < G; ++g) sum += sums[g];
    return sum_of_lanes<C>(sum);
  }

  // v with zeros past the first lanes.
  template <class D>
  static inline Vec<D> first_lanes(Vec<D> v, int lanes) {
    if (lanes == kLanes<D>) return v;
    for (int i = lanes; i < kLanes<D>; ++i) v[i] = 0;
    return v;
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
