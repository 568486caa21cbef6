// Reads tensors of torch by their Python attributes: the extension is built without torch.
#pragma once

#include <pybind11/pybind11.h>

namespace fastrnn {

// The addresses of tensors, if their address, dtype and shape tell all about each: plain
// contiguous ones on the CPU. Else None. Reading the attributes here takes half as long as
// in Python, and a single step has ten tensors.
pybind11::object addresses(pybind11::handle dtype, const pybind11::list& tensors,
                           const pybind11::list& shapes);

// A plain tensor on the CPU, of up to four dimensions, whose last is contiguous.
struct Strided {
  void* data = nullptr;
  int dims = 0;
  int64_t size[4], stride[4];
};

// Reads a tensor of that dtype; false if it is not as plain as that, or empty.
bool read_strided(PyObject* tensor, pybind11::handle dtype, Strided& found);

}  // namespace fastrnn
