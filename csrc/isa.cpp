// All kernels of one instruction set. Compiled once for each, with FASTRNN_ISA naming
// the set and its namespace. No STL here: a function of it, compiled with these
// machine flags, could be the copy that the linker keeps for everybody.
#include "layer.h"
#include "linear.h"
#include "outer.h"
#include "scan_backward.h"
#include "scan_forward.h"
#include "step.h"

#define FASTRNN_STRING_(x) #x
#define FASTRNN_STRING(x) FASTRNN_STRING_(x)

namespace fastrnn {
namespace FASTRNN_ISA {

template <class Cell, class S>
constexpr Kernel kernel() {
  Kernel found = {&Forward<Cell, S>::entry, &Backward<Cell, S>::entry, nullptr, nullptr, nullptr,
                  nullptr, &Forward<Cell, S>::bytes, &Backward<Cell, S>::bytes, Cell::kGates,
                  1 + Cell::kExtra,         Cell::kSaved,              Cell::kParams,
                  Cell::kSecond,            Cell::kRecurrent};
  if constexpr (Cell::kRecurrent && !Cell::kParams && !Cell::kWholeRow && !Cell::kSecond) {
    found.step = &Step<Cell, S>::entry;
    found.layer = &Layer<Cell, S>::entry;
    found.layer_pack = &Layer<Cell, S>::pack_weights;
    found.layer_bytes = &Layer<Cell, S>::bytes;
  }
  return found;
}

// Types stored narrower than they are summed leave the products around the scan to torch.
template <class S>
constexpr Packing packing() {
  using C = typename Wide<S>::type;
  Packing found = {kLanes<C>, &packed_bytes<S>, &pack<S>, nullptr, nullptr, nullptr};
  if constexpr (sizeof(S) == sizeof(C)) {
    found.linear = &linear<C>;
    found.outer = &Outer<C>::entry;
    found.outer_scratch = &Outer<C>::bytes;
  }
  return found;
}

extern const AttentionTable attention;  // attention/isa.cpp

// The order of dtypes is that of DType.
extern const Table table;
const Table table = {
    FASTRNN_STRING(FASTRNN_ISA),
    {
#define CELL(name, type) \
  {kernel<type, float>(), kernel<type, double>(), kernel<type, bfloat16>(), kernel<type, float16>()},
#include "cells/cells.def"
#undef CELL
    },
    {packing<float>(), packing<double>(), packing<bfloat16>(), packing<float16>()},
    &attention,
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
