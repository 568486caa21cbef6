// What an instruction set with products of bfloat16 pairs does otherwise than AVX-512: the kernels of
// bfloat16, and of float32 rounded to it. With FASTRNN_TILES the products are those of tiles. The rule
// of isa.cpp holds here too: no STL.
#if defined(FASTRNN_TILES)
#include "tile_product.h"
#endif
#include "rounded_products.h"
// After them: it is made of their functions and products.
#include "kernels.h"

namespace fastrnn {
namespace FASTRNN_ISA {

constexpr Packing rounded_packing() {
  Packing found = packing<rounded>();
  found.linear = &RoundedLinear::entry;
  found.linear_scratch = &RoundedLinear::bytes;
  found.outer = &RoundedOuter::entry;
  found.outer_scratch = &RoundedOuter::bytes;
  return found;
}

// Of the cells that torch has, and those as simple: each costs seconds of compiling.
template <class Cell>
constexpr Kernel rounded_kernel() {
  if constexpr (Cell::kRecurrent && !Cell::kParams && !Cell::kWholeRow && !Cell::kSecond)
    return kernel<Cell, rounded>();
  else
    return {};
}

extern const PairsTable pairs;
const PairsTable pairs = {
    {
#define CELL(name, type) kernel<type, bfloat16>(),
#include "cells/cells.def"
#undef CELL
    },
    {
#define CELL(name, type) rounded_kernel<type>(),
#include "cells/cells.def"
#undef CELL
    },
    packing<bfloat16>(),
    rounded_packing(),
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
