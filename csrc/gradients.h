// A layer with gradients backwards in one call, from what its forward in one call has saved.
#pragma once

#include <pybind11/pybind11.h>

namespace fastrnn {

void bind_gradients(pybind11::module_& m);

}  // namespace fastrnn
