// Attention of plain tensors without masks, windows, dropout and the like: one call forwards and
// one backwards, which look at the tensors themselves and make the results. A step of a decoder
// takes less than the general way needs to bring its arguments into form.
//
// Tensors that are not as plain as that, or do not go together, are answered with None: the
// general way has words for them.
#include "one_call.h"

#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "../tensors.h"
#include "calls.h"

namespace py = pybind11;

namespace fastrnn {
namespace {

// [B, H, T, X] of a tensor of three or four dimensions, the first of three being B.
Heads heads(const Plain& t) {
  const bool four = t.rank == 4;
  return {t.data, t.stride[0], four ? t.stride[1] : 0, t.stride[t.rank - 2]};
}

struct Options {
  std::string score;
  int kind, threads;
  bool causal, grouped;
  double scale;
  std::optional<std::vector<int64_t>> lengths;  // of the keys
  int extra;

  bool wide() const { return kind == int(DType::kFloat64); }
};

// One call's tensors, checked, as the kernels take them.
struct Call {
  AttentionArgs a;
  int rank = 0;
  Plain query, key, value, vector;
  std::vector<int32_t> first, last;

  bool read(py::handle q, py::handle k, py::handle v, py::handle of_score, const Options& options) {
    for (const auto& [object, into] : {std::pair(q, &query), {k, &key}, {v, &value}})
      if (!into->read(object.ptr()) || !into->last_contiguous() || into->dtype != query.dtype)
        return false;
    rank = query.rank;
    const int t = rank - 2, x = rank - 1;
    if (rank < (options.grouped ? 4 : 3) || key.rank != rank || value.rank != rank) return false;
    const int64_t H = rank == 4 ? query.shape[1] : 1, Hk = rank == 4 ? key.shape[1] : 1;
    if (query.shape[0] != key.shape[0] || key.shape[0] != value.shape[0] ||
        key.shape[x] != query.shape[x] || key.shape[t] != value.shape[t] ||
        (rank == 4 && key.shape[1] != value.shape[1]) ||
        (options.grouped ? H % Hk != 0 : H != Hk))
      return false;
    a.B = query.shape[0], a.H = H, a.Hk = Hk, a.Tq = query.shape[t], a.Tk = key.shape[t];
    a.E = query.shape[x], a.Ev = value.shape[x];
    a.query = heads(query), a.key = heads(key), a.value = heads(value);
    a.scale = options.scale, a.keep_scale = 1, a.extra = Extra(options.extra);
    return read_vector(of_score) && set_ranges(options);
  }

  // A tensor with a row of so many numbers for each query.
  bool read_rows(py::handle object, int64_t width, Plain& into) const {
    if (!into.read(object.ptr()) || !into.last_contiguous() || into.rank != rank ||
        into.dtype != query.dtype || into.shape[rank - 1] != width)
      return false;
    for (int i = 0; i < rank - 1; ++i)
      if (into.shape[i] != query.shape[i]) return false;
    return true;
  }

  // The sizes of a result with a row of so many numbers for each query.
  py::tuple with_rows(int64_t width) const {
    py::tuple sizes(rank);
    for (int i = 0; i < rank; ++i) sizes[i] = i == rank - 1 ? width : query.shape[i];
    return sizes;
  }

 private:
  // [E] or [H, E].
  bool read_vector(py::handle object) {
    if (object.is_none()) return true;
    if (!vector.read(object.ptr()) || !vector.contiguous() || vector.dtype != query.dtype ||
        vector.rank < 1 || vector.rank > 2 || vector.shape[vector.rank - 1] != a.E ||
        (vector.rank == 2 && vector.shape[0] != a.H))
      return false;
    a.vector = {vector.data, 0, vector.rank == 2 ? a.E : 0, 0};
    return true;
  }

  // Which keys a query sees: of the first ones, by causality and by the keys' lengths.
  bool set_ranges(const Options& options) {
    if (!options.causal && !options.lengths) return true;
    const int64_t batch = options.lengths ? a.B : 1, queries = options.causal ? a.Tq : 1;
    if (options.lengths && int64_t(options.lengths->size()) != a.B) return false;
    last.reserve(size_t(batch * queries));
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t keys = options.lengths ? (*options.lengths)[size_t(b)] : a.Tk;
      if (keys < 0 || keys > a.Tk) return false;
      for (int64_t i = 0; i < queries; ++i)
        last.push_back(int32_t(options.causal ? std::min(keys, i + 1) : keys));
    }
    first.assign(1, 0);
    a.first = {first.data(), 0, 0, 0};
    a.last = {last.data(), options.lengths ? queries : 0, 0, options.causal};
    return true;
  }
};

// A tensor made like `like`, and where it lies.
py::object made(py::handle like, const py::tuple& sizes, Plain* at) {
  py::object tensor = like.attr("new_empty")(sizes);
  if (!at->read(tensor.ptr())) throw std::runtime_error("torch made another tensor than asked for");
  return tensor;
}

// Output; with `keep` a log-sum-exp of each query in the dtype of `keep`, a tensor; the weights,
// where `options.extra` asks for them. Or None.
py::object forward(py::handle q, py::handle k, py::handle v, py::handle vector,
                   const Options& options, py::handle keep) {
  Call call;
  if (!call.read(q, k, v, vector, options)) return py::none();
  AttentionArgs& a = call.a;
  Plain out, lse, found;
  py::list results;
  results.append(made(q, call.with_rows(a.Ev), &out));
  a.out = heads(out);
  if (!keep.is_none()) {
    results.append(made(keep, py::make_tuple(a.B, a.H, a.Tq), &lse));
    a.lse = {lse.data, a.H * a.Tq, a.Tq, 1};
  }
  if (options.extra) {
    results.append(made(q, call.with_rows(a.Tk), &found));
    a.found = heads(found);
  }
  {
    py::gil_scoped_release release;
    const Aligned nobodys(keep.is_none() ? size_t(a.B * a.H * a.Tq) * 8 : 0);
    if (keep.is_none()) a.lse = {nobodys.data, a.H * a.Tq, a.Tq, 1};
    run_forward(a, kernel_of(options.score, options.kind), options.threads);
  }
  return py::tuple(results);
}

// to[E] or [H, E] = the sum over sequences and slices, and heads where they share the vector.
template <class C>
void sum_vector(const AttentionArgs& a, const C* rows, int64_t step, bool shared, C* to) {
  std::vector<double> sums(size_t((shared ? 1 : a.H) * a.E), 0.0);
  for (int64_t b = 0; b < a.B; ++b)
    for (int64_t h = 0; h < a.H; ++h)
      for (int64_t s = 0; s < a.slices; ++s, rows += step)
        for (int64_t i = 0; i < a.E; ++i) sums[size_t((shared ? 0 : h * a.E) + i)] += double(rows[i]);
  for (size_t i = 0; i < sums.size(); ++i) to[i] = C(sums[i] * a.scale);
}

// Gradients of query, key and value, and of the vector, in the log-sum-exp's dtype, where there is
// one. Or None.
py::object backward(py::handle q, py::handle k, py::handle v, py::handle vector,
                    const Options& options, py::handle out, py::handle lse, py::handle grad_out,
                    py::handle grad_found, py::handle grad_row, int64_t slices) {
  Call call;
  Plain o, l, g, of_found, of_row;
  if (!call.read(q, k, v, vector, options)) return py::none();
  AttentionArgs& a = call.a;
  if (!call.read_rows(out, a.Ev, o) || !call.read_rows(grad_out, a.Ev, g)) return py::none();
  const int of_lse = int(options.wide() ? DType::kFloat64 : DType::kFloat32);
  if (!l.read(lse.ptr(), of_lse, {a.B, a.H, a.Tq})) return py::none();
  a.out = heads(o), a.grad_out = heads(g), a.lse = {l.data, a.H * a.Tq, a.Tq, 1};
  a.extra = Extra::kNone;
  if (!grad_found.is_none()) {
    if (!call.read_rows(grad_found, a.Tk, of_found) ||
        !of_row.read(grad_row.ptr(), of_lse, {a.B, a.H, a.Tq}))
      return py::none();
    a.extra = Extra::kWeights, a.grad_found = heads(of_found);
    a.grad_row = {of_row.data, a.H * a.Tq, a.Tq, 1};
  }
  a.slices = slices;
  py::list results;
  for (const auto& [like, into] : {std::pair(q, &a.grad_query), {k, &a.grad_key}, {v, &a.grad_value}}) {
    Plain grad;
    results.append(made(q, py::tuple(like.attr("shape")), &grad));
    *into = heads(grad);
  }
  Plain of_vector;
  const bool shared = call.vector.rank == 1;
  if (a.vector.data)
    results.append(made(lse, py::tuple(vector.attr("shape")), &of_vector));
  {
    py::gil_scoped_release release;
    const AttentionKernel& kernel = kernel_of(options.score, options.kind);
    const int64_t step = kernel.partial_row(a), rows = a.vector.data ? a.B * a.H * slices : 0;
    const Aligned grad_vector(size_t(rows * step) * (options.wide() ? 8 : 4));
    if (rows) a.grad_vector = grad_vector.data;
    run_backward(a, kernel, options.wide(), options.threads);
    if (rows && options.wide())
      sum_vector(a, reinterpret_cast<const double*>(grad_vector.data), step, shared,
                 reinterpret_cast<double*>(of_vector.data));
    else if (rows)
      sum_vector(a, reinterpret_cast<const float*>(grad_vector.data), step, shared,
                 reinterpret_cast<float*>(of_vector.data));
  }
  return py::tuple(results);
}

}  // namespace
}  // namespace fastrnn

void fastrnn::bind_attention_in_one_call(py::module_& m) {
  py::class_<Options>(m, "AttentionOptions")
      .def(py::init([](const std::string& score, int kind, int threads, bool causal, bool grouped,
                       double scale, std::optional<std::vector<int64_t>> lengths, int extra) {
        return Options{score, kind, threads, causal, grouped, scale, std::move(lengths), extra};
      }));
  m.def("attention_in_one_call", &forward, "Plain attention; None if it is not plain.");
  m.def("attention_gradients_in_one_call", &backward, "Its gradients.");
}
