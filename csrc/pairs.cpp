// What an instruction set with products of bfloat16 pairs does otherwise than AVX-512: the kernels of
// that one dtype. The rule of isa.cpp holds here too: no STL.
#include "kernels.h"

namespace fastrnn {
namespace FASTRNN_ISA {

extern const PairsTable pairs;
const PairsTable pairs = {
    {
#define CELL(name, type) kernel<type, bfloat16>(),
#include "cells/cells.def"
#undef CELL
    },
    packing<bfloat16>(),
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
