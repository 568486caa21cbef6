// A cell's kernels of one storage type, and the packing of its weights, as the dispatcher finds them.
#pragma once

#include "layer.h"
#include "linear.h"
#include "outer.h"
#include "scan_backward.h"
#include "scan_forward.h"
#include "step.h"

namespace fastrnn {
namespace FASTRNN_ISA {

// Without kStep, a single step is left out: some other storage type's serves as well.
template <class Cell, class S, bool kStep = true>
constexpr Kernel kernel() {
  Kernel found = {&Forward<Cell, S>::entry, &Backward<Cell, S>::entry, nullptr, nullptr, nullptr,
                  nullptr, &Forward<Cell, S>::bytes, &Backward<Cell, S>::bytes, Cell::kGates,
                  1 + Cell::kExtra,         Cell::kSaved,              Cell::kParams,
                  Cell::kSecond,            Cell::kRecurrent};
  if constexpr (Cell::kRecurrent && !Cell::kParams && !Cell::kWholeRow && !Cell::kSecond) {
    if constexpr (kStep) found.step = &Step<Cell, S>::entry;
    found.layer = &Layer<Cell, S>::entry;
    found.layer_pack = &Layer<Cell, S>::pack_weights;
    found.layer_bytes = &Layer<Cell, S>::bytes;
  }
  return found;
}

// Types stored narrower than they are summed leave the products around the scan to torch; split.h's
// have their own.
template <class S>
constexpr Packing packing() {
  using C = typename Wide<S>::type;
  Packing found = {kLanes<C>, &packed_bytes<S>, &pack<S>, &pack_biases<S>,
                   nullptr,   nullptr,          nullptr,  nullptr};
  if constexpr (kSame<S, C> && kSame<Factor<S>, C>) {
    found.linear = &linear<C>;
    found.outer = &Outer<C>::entry;
    found.outer_scratch = &Outer<C>::bytes;
  }
  return found;
}

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
