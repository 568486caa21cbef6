// Reads tensors of torch from their Python objects: the extension is built without torch.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>

namespace fastrnn {

// A tensor of which address, dtype, shape and strides tell all: a plain one on the CPU, with
// numbers in it.
struct Plain {
  static constexpr int kMostDims = 4;

  char* data = nullptr;
  int dtype = -1;  // as in DType
  int rank = 0;
  int64_t shape[kMostDims] = {}, stride[kMostDims] = {};

  // Whether `object` is one, of at most so many dimensions.
  bool read(PyObject* object);
  // The same, contiguous and of this dtype and shape.
  bool read(PyObject* object, int of_dtype, std::initializer_list<int64_t> of_shape);
  // One of bytes instead, contiguous, so many of them; its dtype stays -1.
  bool read_bytes(PyObject* object, int64_t count);

  // The stride of a dimension of size 1 counts for nothing.
  bool contiguous() const;
  bool last_contiguous() const { return rank > 0 && (stride[rank - 1] == 1 || shape[rank - 1] == 1); }

 private:
  bool read_any(PyObject* object, bool bytes);
};

// input.new_empty(shape)
pybind11::object new_empty(PyObject* input, std::initializer_list<int64_t> shape);

}  // namespace fastrnn
