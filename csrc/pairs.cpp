// What an instruction set with products of bfloat16 pairs does otherwise than AVX-512: the kernels of
// bfloat16, and of float32 rounded to it. With FASTRNN_TILES the products are those of tiles, so fast
// that float32 in two and three terms is multiplied by them, too. The rule of isa.cpp holds here as
// well: no STL.
#if defined(FASTRNN_TILES)
#include "tile_product.h"
#endif
#include "split_products.h"
// After them: it is made of their functions and products.
#include "kernels.h"

namespace fastrnn {
namespace FASTRNN_ISA {

#if defined(FASTRNN_TILES)
constexpr int kTerms = kMostTerms;
#else
constexpr int kTerms = 1;
#endif

template <int P>
constexpr Packing packing_in_terms() {
  Packing found = {};
  if constexpr (P <= kTerms) {
    found = packing<split<P>>();
    found.linear = &SplitLinear<P>::entry;
    found.linear_scratch = &SplitLinear<P>::bytes;
    found.outer = &SplitOuter<P>::entry;
    found.outer_scratch = &SplitOuter<P>::bytes;
  }
  return found;
}

// Of the cells that torch has, and those as simple: each costs seconds of compiling.
template <class Cell, int P>
constexpr Kernel kernel_in_terms() {
  if constexpr (P <= kTerms && Cell::kRecurrent && !Cell::kParams && !Cell::kWholeRow && !Cell::kSecond)
    return kernel<Cell, split<P>, false>();
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
#define CELL(name, type) \
  {kernel_in_terms<type, 1>(), kernel_in_terms<type, 2>(), kernel_in_terms<type, 3>()},
#include "cells/cells.def"
#undef CELL
    },
    packing<bfloat16>(),
    {packing_in_terms<1>(), packing_in_terms<2>(), packing_in_terms<3>()},
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
