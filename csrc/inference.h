// Layers and cells without gradients, from torch's tensors to torch's tensors in one call.
#pragma once

#include <pybind11/pybind11.h>

namespace fastrnn {

void bind_inference(pybind11::module_& m);

}  // namespace fastrnn
