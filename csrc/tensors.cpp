#include "tensors.h"

namespace py = pybind11;

namespace fastrnn {

namespace {

PyObject* checked(PyObject* object) {
  if (object == nullptr) throw py::error_already_set();
  return object;
}

// Names and types looked up once; never freed, as an extension's constants are.
struct Torch {
  static PyObject* name(const char* text) { return checked(PyUnicode_InternFromString(text)); }
  static PyObject* object(const char* module, const char* text) {
    return py::object(py::module_::import(module).attr(text)).release().ptr();
  }
  PyObject* const dtype = name("dtype");
  PyObject* const shape = name("shape");
  PyObject* const is_cpu = name("is_cpu");
  PyObject* const layout = name("layout");
  PyObject* const is_contiguous = name("is_contiguous");
  PyObject* const is_neg = name("is_neg");
  PyObject* const data_ptr = name("data_ptr");
  PyObject* const stride = name("stride");
  PyObject* const strided = object("torch", "strided");
  PyObject* const tensor = object("torch", "Tensor");
  PyObject* const parameter = object("torch.nn", "Parameter");
  PyObject* const is_legacy_batched = object("torch._C._functorch", "is_legacy_batchedtensor");
};

Torch& torch() {
  static Torch* const found = new Torch;
  return *found;
}

bool has_shape(PyObject* tensor, py::handle expected) {
  const py::object shape = py::reinterpret_steal<py::object>(
      checked(PyObject_GetAttr(tensor, torch().shape)));
  const int equal = PyObject_RichCompareBool(shape.ptr(), expected.ptr(), Py_EQ);
  if (equal < 0) throw py::error_already_set();
  return equal == 1;
}

bool says(PyObject* answer, PyObject* expected) {
  const py::object owned = py::reinterpret_steal<py::object>(checked(answer));
  return owned.ptr() == expected;
}

// Whether address, dtype, sizes and strides tell all about a tensor.
bool plain(PyObject* tensor, py::handle dtype) {
  Torch& t = torch();
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(tensor));
  return (type == t.tensor || type == t.parameter) &&
         says(PyObject_GetAttr(tensor, t.dtype), dtype.ptr()) &&
         says(PyObject_GetAttr(tensor, t.is_cpu), Py_True) &&
         says(PyObject_GetAttr(tensor, t.layout), t.strided) &&
         says(PyObject_CallMethodNoArgs(tensor, t.is_neg), Py_False) &&
         says(PyObject_CallOneArg(t.is_legacy_batched, tensor), Py_False);
}

bool contiguous(PyObject* tensor) {
  return says(PyObject_CallMethodNoArgs(tensor, torch().is_contiguous), Py_True);
}

// The numbers of a tuple of at most four; how many there are, or -1.
int read_numbers(PyObject* owned, int64_t* to) {
  const py::object tuple = py::reinterpret_steal<py::object>(checked(owned));
  if (!PyTuple_Check(tuple.ptr()) || PyTuple_GET_SIZE(tuple.ptr()) > 4) return -1;
  const int count = int(PyTuple_GET_SIZE(tuple.ptr()));
  for (int i = 0; i < count; ++i) {
    to[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple.ptr(), i));
    if (to[i] == -1 && PyErr_Occurred()) throw py::error_already_set();
  }
  return count;
}

}  // namespace

py::object addresses(py::handle dtype, const py::list& tensors, const py::list& shapes) {
  const size_t count = tensors.size();
  if (shapes.size() != count) return py::none();
  py::list found(count);
  for (size_t i = 0; i < count; ++i) {
    PyObject* const tensor = PyList_GET_ITEM(tensors.ptr(), Py_ssize_t(i));
    if (!plain(tensor, dtype) || !has_shape(tensor, PyList_GET_ITEM(shapes.ptr(), Py_ssize_t(i))) ||
        !contiguous(tensor))
      return py::none();
    const py::object address = py::reinterpret_steal<py::object>(
        checked(PyObject_CallMethodNoArgs(tensor, torch().data_ptr)));
    // Some tensors have numbers but no memory: zeros never written, a storage that was freed.
    if (PyObject_Not(address.ptr())) return py::none();
    found[i] = address;
  }
  return std::move(found);
}

bool read_strided(PyObject* tensor, py::handle dtype, Strided& found) {
  if (!plain(tensor, dtype)) return false;
  found.dims = read_numbers(PyObject_GetAttr(tensor, torch().shape), found.size);
  if (found.dims < 1 ||
      read_numbers(PyObject_CallMethodNoArgs(tensor, torch().stride), found.stride) != found.dims)
    return false;
  for (int i = 0; i < found.dims; ++i)
    if (found.size[i] == 0) return false;
  if (found.stride[found.dims - 1] != 1) return false;
  const py::object address = py::reinterpret_steal<py::object>(
      checked(PyObject_CallMethodNoArgs(tensor, torch().data_ptr)));
  found.data = PyLong_AsVoidPtr(address.ptr());
  if (PyErr_Occurred()) throw py::error_already_set();
  return found.data != nullptr;  // null: numbers without memory
}

}  // namespace fastrnn
