// Bounds of numbers within a step, as a cell sets them: of every pre-activation, and of the cell
// state. Where one is reached, no gradient passes.
//
// Which are reached is kept for the backward, a bit each, as one number a unit: to find it from
// what the forward kept, rounded as that is, would be a guess.
#pragma once

#include "vec.h"

namespace fastrnn {
namespace FASTRNN_ISA {

// Within -bound and bound; NaN stays.
template <class V>
inline V limit(V x, V bound) {
  x = x > bound ? bound : x;
  return x < -bound ? -bound : x;
}

// No bounds, at no cost.
struct Unclipped {
  template <class V>
  V gate(int, V x) const {
    return x;
  }
  template <class V>
  V cell(V c) const {
    return c;
  }
  template <class V>
  V gate_gradient(int, V grad) const {
    return grad;
  }
  template <class V>
  V cell_gradient(V grad) const {
    return grad;
  }
  // Of a whole row: those of a block of units, and what they found.
  Unclipped at(int64_t, int) const { return {}; }
  void keep(Unclipped, int64_t, int) const {}
};

// Those of a block of units.
template <class C>
struct Clipping {
  using V = Vec<C>;
  static constexpr int kCell = 1 << 8;  // past the bits of the gates

  C gates, cell_state;  // 0: none
  V marks;              // the forward's result, given to the backward

  V gate(int g, V x) { return limited(x, gates, 1 << g); }
  V cell(V c) { return limited(c, cell_state, kCell); }
  V gate_gradient(int g, V grad) const { return passed(grad, 1 << g); }
  V cell_gradient(V grad) const { return passed(grad, kCell); }

  V limited(V x, C bound, int bit) {
    if (!(bound > 0)) return x;
    const V most = broadcast(bound);
    marks += ((x >= most) | (x <= -most)) ? broadcast(C(bit)) : V{};
    return limit(x, most);
  }
  V passed(V grad, int bit) const {
    using Ints = typename VecOf<C>::ints;
    const Ints reached = __builtin_convertvector(marks, Ints) & bit;
    return reached != 0 ? V{} : grad;
  }
};

// Those of a whole row: of the forward, which writes `found`, or of the backward, which reads
// `known`; [H] each, without padding.
template <class C>
struct RowClipping {
  C gates, cell_state;
  C* found;
  const C* known;

  Clipping<C> at(int64_t u, int lanes) const {
    return {gates, cell_state, known ? load(known + u, lanes) : Vec<C>{}};
  }
  void keep(const Clipping<C>& block, int64_t u, int lanes) const {
    if (found) store(found + u, block.marks, lanes);
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
