// Layers and cells with int8 weights, from torch's tensors to torch's tensors in one call.
#pragma once

#include <pybind11/pybind11.h>

namespace fastrnn {

void bind_int8(pybind11::module_& m);

}  // namespace fastrnn
