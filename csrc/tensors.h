// Reads tensors of torch from their Python objects: the extension is built without torch.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>

namespace fastrnn {

// A tensor of which address, dtype and shape tell all: a plain contiguous one on the CPU.
struct Plain {
  char* data = nullptr;
  int dtype = -1;  // as in DType
  int rank = 0;
  int64_t shape[3] = {};

  // Whether `object` is one, of at most three dimensions.
  bool read(PyObject* object);
  // The same, of this dtype and shape.
  bool read(PyObject* object, int of_dtype, std::initializer_list<int64_t> of_shape);
};

// input.new_empty(shape)
pybind11::object new_empty(PyObject* input, std::initializer_list<int64_t> shape);

}  // namespace fastrnn
