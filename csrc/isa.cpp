// All kernels of one instruction set. Compiled once for each, with FASTRNN_ISA naming
// the set and its namespace. No STL here: a function of it, compiled with these
// machine flags, could be the copy that the linker keeps for everybody.
#include "linear.h"
#include "scan.h"

#define FASTRNN_STRING_(x) #x
#define FASTRNN_STRING(x) FASTRNN_STRING_(x)

namespace fastrnn {
namespace FASTRNN_ISA {

template <class Cell, class S>
constexpr Kernel kernel() {
  return {&Forward<Cell, S>::entry, &Backward<Cell, S>::entry,
          &Forward<Cell, S>::bytes, &Backward<Cell, S>::bytes,
          Cell::kGates,             1 + Cell::kExtra,
          Cell::kSaved};
}

template <class S>
constexpr Packing packing(void (*product)(const LinearArgs&, int64_t, int64_t) = nullptr) {
  return {kLanes<typename Wide<S>::type>, &packed_bytes<S>, &pack<S>, product};
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
    {packing<float>(&linear<float>), packing<double>(&linear<double>), packing<bfloat16>(),
     packing<float16>()},
    &attention,
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
