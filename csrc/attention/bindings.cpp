// Reads the arguments of an attention call and runs its kernel without the GIL. Tensors come as
// addresses and strides; fastrnn/attention_cpp.py has made sure that they are what they should
// be, and every range of keys is cut to the keys there are.
#include "bindings.h"

#include <pybind11/stl.h>

#include <array>
#include <string>
#include <vector>

#include "calls.h"

namespace py = pybind11;

namespace {

using namespace fastrnn;

using Four = std::array<int64_t, 4>;  // address and three strides
using Sizes = std::array<int64_t, 7>;

template <class T>
T* address(int64_t value) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(value));
}
Heads heads(const Four& t) { return {address<void>(t[0]), t[1], t[2], t[3]}; }
PerQuery per_query(const Four& t) { return {address<void>(t[0]), t[1], t[2], t[3]}; }

// What forward and backward have in common.
struct Common {
  Sizes sizes;  // B, H, Hk, Tq, Tk, E, Ev
  std::array<Four, 3> inputs;  // query, key, value
  Four vector;
  int mask_kind;
  std::array<int64_t, 5> mask;       // address and four strides
  std::array<Four, 4> per_query;     // first, last, centre, width
  uint64_t seed;
  int64_t drawn_heads;
  uint64_t threshold;
  double keep_scale, scale, softcap;
  int extra;

  AttentionArgs read() const {
    if (sizes[2] < 1 || sizes[1] % sizes[2]) throw std::invalid_argument("heads do not divide");
    AttentionArgs a;
    a.B = sizes[0], a.H = sizes[1], a.Hk = sizes[2], a.Tq = sizes[3], a.Tk = sizes[4];
    a.E = sizes[5], a.Ev = sizes[6];
    a.query = heads(inputs[0]), a.key = heads(inputs[1]), a.value = heads(inputs[2]);
    a.vector = heads(vector);
    a.mask = {address<void>(mask[0]), MaskKind(mask_kind), mask[1], mask[2], mask[3], mask[4]};
    a.first = ::per_query(per_query[0]), a.last = ::per_query(per_query[1]);
    a.centre = ::per_query(per_query[2]), a.width = ::per_query(per_query[3]);
    a.seed = seed, a.drawn_heads = drawn_heads, a.threshold = threshold, a.keep_scale = keep_scale;
    a.scale = scale, a.softcap = softcap, a.extra = Extra(extra);
    return a;
  }
};

void forward(const std::string& score, int kind, int threads, const Common& common,
             const Four& out, const Four& lse, const Four& found) {
  py::gil_scoped_release release;
  AttentionArgs a = common.read();
  a.out = heads(out), a.lse = per_query(lse), a.found = heads(found);
  run_forward(a, kernel_of(score, kind), threads);
}

void backward(const std::string& score, int kind, int threads, const Common& common,
              const Four& out, const Four& lse, const Four& grad_out, const Four& grad_found,
              const Four& grad_row, const std::array<Four, 3>& grads,
              const std::array<Four, 2>& grads_per_query, int64_t slices, int64_t grad_vector,
              int64_t grad_mask, const std::array<int64_t, 4>& mask_sizes) {
  py::gil_scoped_release release;
  AttentionArgs a = common.read();
  a.out = heads(out), a.lse = per_query(lse);
  a.grad_out = heads(grad_out), a.grad_found = heads(grad_found);
  a.grad_row = per_query(grad_row);
  a.grad_query = heads(grads[0]), a.grad_key = heads(grads[1]), a.grad_value = heads(grads[2]);
  a.grad_centre = per_query(grads_per_query[0]), a.grad_width = per_query(grads_per_query[1]);
  a.slices = slices;
  a.grad_vector = address<void>(grad_vector), a.grad_mask = address<void>(grad_mask);
  a.mask_B = mask_sizes[0], a.mask_H = mask_sizes[1];
  a.mask_Q = mask_sizes[2], a.mask_K = mask_sizes[3];
  run_backward(a, kernel_of(score, kind), kind == int(DType::kFloat64), threads);
}

std::vector<std::string> scores() {
  return std::vector<std::string>(std::begin(kScoreNames), std::end(kScoreNames));
}

// Numbers in a row of `grad_vector`.
int64_t vector_row(const std::string& score, int kind, int64_t width) {
  AttentionArgs a;
  a.E = width;
  return kernel_of(score, kind).partial_row(a);
}

}  // namespace

void bind_attention(py::module_& m) {
  py::class_<Common>(m, "AttentionCall")
      .def(py::init([](const Sizes& sizes, const std::array<Four, 3>& inputs, const Four& vector,
                       int mask_kind, const std::array<int64_t, 5>& mask,
                       const std::array<Four, 4>& per_query, uint64_t seed, int64_t drawn_heads,
                       uint64_t threshold,
                       double keep_scale, double scale, double softcap, int extra) {
        return Common{sizes,     inputs,     vector, mask_kind, mask,  per_query, seed, drawn_heads,
                      threshold, keep_scale, scale,  softcap,   extra};
      }));
  m.def("attention_forward", &forward);
  m.def("attention_backward", &backward);
  m.def("attention_scores", &scores, "Names of the scores that have kernels.");
  m.def("attention_vector_row", &vector_row, "Numbers a slice in the sums of a vector's gradient.");
}
