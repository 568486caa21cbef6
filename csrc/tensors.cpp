#include "tensors.h"

#include "dlpack.h"
#include "types.h"

namespace py = pybind11;

namespace fastrnn {

namespace {

PyObject* checked(PyObject* object) {
  if (object == nullptr) throw py::error_already_set();
  return object;
}
py::object owned(PyObject* object) { return py::reinterpret_steal<py::object>(checked(object)); }

// Names and types looked up once; never freed, as an extension's constants are.
struct Torch {
  static PyObject* name(const char* text) { return checked(PyUnicode_InternFromString(text)); }
  static PyObject* object(const char* module, const char* text) {
    return py::object(py::module_::import(module).attr(text)).release().ptr();
  }
  static const dlpack::Api* exchange(PyObject* tensor) {
    const py::object capsule = py::getattr(tensor, "__dlpack_c_exchange_api__", py::none());
    if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return nullptr;
    const auto* api = static_cast<const dlpack::Api*>(
        PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    return api->major == dlpack::kMajor ? api : nullptr;
  }
  PyObject* const dtype = name("dtype");
  PyObject* const shape = name("shape");
  PyObject* const is_cpu = name("is_cpu");
  PyObject* const layout = name("layout");
  PyObject* const stride = name("stride");
  PyObject* const is_neg = name("is_neg");
  PyObject* const data_ptr = name("data_ptr");
  PyObject* const new_empty = name("new_empty");
  PyObject* const strided = object("torch", "strided");
  PyObject* const uint8 = object("torch", "uint8");
  PyObject* const tensor = object("torch", "Tensor");
  PyObject* const parameter = object("torch.nn", "Parameter");
  PyObject* const is_legacy_batched = object("torch._C._functorch", "is_legacy_batchedtensor");
  PyObject* const dtypes[kNumDTypes] = {object("torch", "float32"), object("torch", "float64"),
                                        object("torch", "bfloat16"), object("torch", "float16")};
  const dlpack::Api* const api = exchange(tensor);
};

const Torch& torch() {
  static const Torch* const found = new Torch;
  return *found;
}

bool says(PyObject* answer, PyObject* expected) { return owned(answer).ptr() == expected; }

// By the exchange table: what has no memory of its own is refused by it.
bool view(PyObject* object, bool bytes, Plain& found) {
  dlpack::Tensor t;
  if (torch().api->view(object, &t) != 0) {
    PyErr_Clear();
    return false;
  }
  if (t.device != dlpack::kCpu || t.lanes != 1 || t.rank > Plain::kMostDims)
    return false;
  found.dtype = t.code == dlpack::kBfloat && t.bits == 16  ? int(DType::kBFloat16)
                : t.code != dlpack::kFloat                 ? -1
                : t.bits == 32                             ? int(DType::kFloat32)
                : t.bits == 64                             ? int(DType::kFloat64)
                : t.bits == 16                             ? int(DType::kFloat16)
                                                           : -1;
  if (bytes ? t.code != dlpack::kUInt || t.bits != 8 : found.dtype < 0) return false;
  found.rank = t.rank;
  int64_t dense = 1;
  for (int i = t.rank - 1; i >= 0; --i) {
    found.shape[i] = t.shape[i];
    if (t.shape[i] == 0) return false;
    found.stride[i] = t.strides ? t.strides[i] : dense;
    dense *= t.shape[i];
  }
  found.data = static_cast<char*>(t.data);
  if (found.data) found.data += t.byte_offset;
  return true;
}

// By the attributes, for a torch without the table.
bool ask(PyObject* object, bool bytes, Plain& found) {
  const Torch& t = torch();
  const py::object dtype = owned(PyObject_GetAttr(object, t.dtype));
  found.dtype = -1;
  for (int i = 0; i < kNumDTypes; ++i)
    if (dtype.ptr() == t.dtypes[i]) found.dtype = i;
  if ((bytes ? dtype.ptr() != t.uint8 : found.dtype < 0) ||
      !says(PyObject_GetAttr(object, t.is_cpu), Py_True) ||
      !says(PyObject_GetAttr(object, t.layout), t.strided) ||
      !says(PyObject_CallOneArg(t.is_legacy_batched, object), Py_False))
    return false;
  const py::tuple shape = owned(PyObject_GetAttr(object, t.shape));
  const py::tuple stride = owned(PyObject_CallMethodNoArgs(object, t.stride));
  found.rank = int(shape.size());
  if (found.rank > Plain::kMostDims) return false;
  for (int i = 0; i < found.rank; ++i) {
    found.shape[i] = shape[size_t(i)].cast<int64_t>();
    found.stride[i] = stride[size_t(i)].cast<int64_t>();
    if (found.shape[i] == 0) return false;
  }
  const py::object address = owned(PyObject_CallMethodNoArgs(object, t.data_ptr));
  found.data = reinterpret_cast<char*>(address.cast<uintptr_t>());
  return true;
}

}  // namespace

bool Plain::read_any(PyObject* object, bool bytes) {
  const Torch& t = torch();
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  if (type != t.tensor && type != t.parameter) return false;
  if (!(t.api ? view(object, bytes, *this) : ask(object, bytes, *this))) return false;
  // Some tensors have numbers but no memory: zeros never written, a storage that was freed.
  if (data == nullptr) return false;
  return says(PyObject_CallMethodNoArgs(object, t.is_neg), Py_False);
}

bool Plain::read(PyObject* object) { return read_any(object, false); }

bool Plain::read_bytes(PyObject* object, int64_t count) {
  if (!read_any(object, true) || !contiguous()) return false;
  int64_t found = 1;
  for (int i = 0; i < rank; ++i) found *= shape[i];
  return found == count;
}

bool Plain::read(PyObject* object, int of_dtype, std::initializer_list<int64_t> of_shape) {
  if (!read(object) || dtype != of_dtype || rank != int(of_shape.size())) return false;
  for (int i = 0; i < rank; ++i)
    if (shape[i] != of_shape.begin()[i]) return false;
  return contiguous();
}

bool Plain::contiguous() const {
  int64_t dense = 1;
  for (int i = rank - 1; i >= 0; --i) {
    if (shape[i] != 1 && stride[i] != dense) return false;
    dense *= shape[i];
  }
  return true;
}

py::object new_empty(PyObject* input, std::initializer_list<int64_t> shape) {
  py::tuple sizes(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) sizes[i] = py::int_(shape.begin()[i]);
  return owned(PyObject_CallMethodOneArg(input, torch().new_empty, sizes.ptr()));
}

}  // namespace fastrnn
