// Reads tensors of torch by their Python attributes: the extension is built without torch.
#pragma once

#include <pybind11/pybind11.h>

namespace fastrnn {

// The addresses of tensors, if their address, dtype and shape tell all about each: plain
// contiguous ones on the CPU. Else None. Reading the attributes here takes half as long as
// in Python, and a single step has ten tensors.
pybind11::object addresses(pybind11::handle dtype, const pybind11::list& tensors,
                           const pybind11::list& shapes);

}  // namespace fastrnn
