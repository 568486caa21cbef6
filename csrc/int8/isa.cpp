// The kernels of int8 weights of one instruction set. The rule of ../isa.cpp holds: no STL.
#include "layer.h"

namespace fastrnn {
namespace FASTRNN_ISA {

namespace {

template <class Cell>
constexpr Int8Kernel int8_kernel() {
  return {&Int8Layer<Cell>::entry, &Int8Layer<Cell>::shared_bytes, &Int8Layer<Cell>::own_bytes};
}

}  // namespace

extern const Int8Table int8;
const Int8Table int8 = {int8_kernel<Lstm>(), int8_kernel<Gru>(), int8_kernel<RnnTanh>(),
                        int8_kernel<RnnRelu>()};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
