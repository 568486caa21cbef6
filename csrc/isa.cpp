// All kernels of one instruction set. Compiled once for each, with FASTRNN_ISA naming
// the set and its namespace. No STL here: a function of it, compiled with these
// machine flags, could be the copy that the linker keeps for everybody.
#include "kernels.h"

#define FASTRNN_STRING_(x) #x
#define FASTRNN_STRING(x) FASTRNN_STRING_(x)

namespace fastrnn {
namespace FASTRNN_ISA {

extern const AttentionTable attention;  // attention/isa.cpp

// The order is that of DType; there are no pairs of bfloat16 for the kinds after it.
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
