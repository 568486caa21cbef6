// Reads the arguments of an attention call and runs its kernel without the GIL. Tensors come as
// addresses and strides; fastrnn/attention_cpp.py has made sure that they are what they should
// be, and every range of keys is cut to the keys there are.
#include "bindings.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "../aligned.h"
#include "../dispatch.h"
#include "../tensors.h"

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

constexpr const char* kScoreNames[] = {
#define SCORE(name, type) #name,
#include "scores.def"
#undef SCORE
};

const AttentionKernel& kernel_of(const std::string& score, int dtype) {
  for (int id = 0; id < kNumScores; ++id)
    if (score == kScoreNames[id]) return table().attention->kernels[id][dtype];
  throw std::invalid_argument("there is no kernel for the score '" + score + "'");
}

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

double operations(const AttentionArgs& a, int products) {
  return 2.0 * products * double(a.B * a.H) * double(a.Tq) * double(a.Tk) *
         double(a.E + a.Ev) / 2;
}

void forward(const std::string& score, int dtype, int threads, const Common& common,
             const Four& out, const Four& lse, const Four& found) {
  py::gil_scoped_release release;
  AttentionArgs a = common.read();
  a.out = heads(out), a.lse = per_query(lse), a.found = heads(found);
  run_tasks(a, kernel_of(score, dtype).forward, operations(a, 2), threads);
}

void backward(const std::string& score, int dtype, int threads, const Common& common,
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
  const AttentionKernel& kernel = kernel_of(score, dtype);
  // Kept for the next call: the faults of fresh pages cost more than what is written there.
  const int64_t numbers = slices > 1 ? a.B * a.H * slices * a.Tq * kernel.partial_row(a) : 0;
  const Aligned partial(size_t(numbers) * (dtype == int(DType::kFloat64) ? 8 : 4));
  a.partial = partial.data;
  run_tasks(a, kernel.backward, operations(a, 5), threads);
  run_tasks(a, kernel.finish, operations(a, 5), threads);
  if (a.grad_mask) run_tasks(a, kernel.mask_gradient, operations(a, 2), threads);
}

// [B, H, T, X] of a tensor of three or four dimensions, the first of three being B.
Heads heads(const Plain& t) {
  const bool four = t.rank == 4;
  return {t.data, t.stride[0], four ? t.stride[1] : 0, t.stride[t.rank - 2]};
}

// Dot attention without gradients and options, in one call: the output, or None where the
// tensors are not as plain as that or do not go together, which the general way has words for.
py::object infer(py::handle query, py::handle key, py::handle value, int threads, bool causal,
                 double scale, bool grouped) {
  Plain q, k, v;
  for (const auto& [object, into] : {std::pair(query, &q), std::pair(key, &k), std::pair(value, &v)})
    if (!into->read(object.ptr()) || !into->last_contiguous() || into->dtype != q.dtype)
      return py::none();
  const int dims = q.rank, t = dims - 2, x = dims - 1;
  if (dims < (grouped ? 4 : 3) || k.rank != dims || v.rank != dims) return py::none();
  const int64_t H = dims == 4 ? q.shape[1] : 1, Hk = dims == 4 ? k.shape[1] : 1;
  if (q.shape[0] != k.shape[0] || k.shape[0] != v.shape[0] || k.shape[x] != q.shape[x] ||
      k.shape[t] != v.shape[t] || (dims == 4 && k.shape[1] != v.shape[1]) ||
      (grouped ? H % Hk != 0 : H != Hk))
    return py::none();
  AttentionArgs a;
  a.B = q.shape[0], a.H = H, a.Hk = Hk, a.Tq = q.shape[t], a.Tk = k.shape[t];
  a.E = q.shape[x], a.Ev = v.shape[x];
  a.query = heads(q), a.key = heads(k), a.value = heads(v);
  a.scale = scale, a.keep_scale = 1;
  py::tuple shape(dims);
  for (int i = 0; i < dims; ++i) shape[i] = i == x ? v.shape[x] : q.shape[i];
  py::object out = query.attr("new_empty")(shape);
  Plain o;
  if (!o.read(out.ptr())) return py::none();
  a.out = heads(o);
  {
    py::gil_scoped_release release;
    // The log-sum-exp, which nobody asked for, and the ranges of causality.
    const size_t queries = size_t(a.Tq);
    const Aligned lse(size_t(a.B * a.H) * queries * 8);
    std::vector<int32_t> first, last;
    a.lse = {lse.data, a.H * a.Tq, a.Tq, 1};
    if (causal) {
      first.assign(queries, 0), last.resize(queries);
      for (size_t i = 0; i < queries; ++i) last[i] = int32_t(std::min<int64_t>(int64_t(i) + 1, a.Tk));
      a.first = {first.data(), 0, 0, 1}, a.last = {last.data(), 0, 0, 1};
    }
    run_tasks(a, table().attention->kernels[k_score_dot][q.dtype].forward, operations(a, 2), threads);
  }
  return out;
}

std::vector<std::string> scores() {
  return std::vector<std::string>(std::begin(kScoreNames), std::end(kScoreNames));
}

// Numbers in a row of `grad_vector`.
int64_t vector_row(const std::string& score, int dtype, int64_t width) {
  AttentionArgs a;
  a.E = width;
  return kernel_of(score, dtype).partial_row(a);
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
  m.def("attention_infer", &infer, "Plain dot attention in one call; None if it is not plain.");
  m.def("attention_scores", &scores, "Names of the scores that have kernels.");
  m.def("attention_vector_row", &vector_row, "Numbers a slice in the sums of a vector's gradient.");
}
