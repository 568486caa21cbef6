#include "bindings.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "../aligned.h"
#include "../dispatch.h"
#include "../parallel.h"
#include "../tensors.h"
#include "dispatch.h"

namespace py = pybind11;

namespace fastrnn {

namespace {

constexpr int kFloat32 = int(DType::kFloat32);

const Int8Kernel* kernel_of(int cell) {
  const Int8Table& found = int8_table();
  return cell == k_lstm       ? &found.lstm
         : cell == k_gru      ? &found.gru
         : cell == k_rnn_tanh ? &found.rnn_tanh
         : cell == k_rnn_relu ? &found.rnn_relu
                              : nullptr;
}

int64_t packed_bytes(int64_t G, int64_t U, int64_t K) {
  const auto up = [](int64_t x, int64_t to) { return (x + to - 1) / to * to; };
  return up(U, kUnitsOfBlock) * up(K, kDepthStep) * G;
}

// A matrix from the front of `left`; false if its tensors do not fit.
bool read_matrix(PyObject**& left, int64_t G, int64_t U, int64_t K, Int8Matrix& into) {
  Plain t;
  if (K > kMostDepth || !t.read_bytes(*left++, packed_bytes(G, U, K))) return false;
  into.packed = reinterpret_cast<const uint8_t*>(t.data);
  if (!t.read(*left++, kFloat32, {G * U})) return false;
  into.scales = reinterpret_cast<const float*>(t.data);
  return true;
}

bool read_bias(PyObject**& left, int64_t width, const float*& into) {
  PyObject* const given = *left++;
  if (given == Py_None) return true;
  Plain t;
  if (!t.read(given, kFloat32, {width})) return false;
  into = reinterpret_cast<const float*>(t.data);
  return true;
}

// Each thread with memory of its own.
void enter(const ScanArgs& scan, const Slice& slice, const Int8Kernel& kernel) {
  const Int8Args& args = static_cast<const Int8Args&>(scan);
  const Aligned own(kernel.own_bytes(args));
  kernel.entry(args, slice, own.data);
}
template <Int8Kernel Int8Table::*kMember>
void enter_by(const ScanArgs& scan, const Slice& slice) {
  enter(scan, slice, int8_table().*kMember);
}
Entry entry_of(int cell) {
  return cell == k_lstm       ? &enter_by<&Int8Table::lstm>
         : cell == k_gru      ? &enter_by<&Int8Table::gru>
         : cell == k_rnn_tanh ? &enter_by<&Int8Table::rnn_tanh>
                              : &enter_by<&Int8Table::rnn_relu>;
}

// A stack of layers over input [T, B, I], or over rows [S, I], of batch sequences a step or batch_sizes
// of them, and states [layers*N, B, X], or none for zeros. Tensors of a recurrence: packed and scales of ih and hh, both biases or None,
// packed and scales of hr with a projection. Returns (output as input, N*K wide, *final states), or None
// where a tensor is not float32 or bytes, contiguous, plain and of the right size.
py::object int8_layers(const std::string& cell, int threads, py::handle input, const py::tuple& hx,
                       const py::list& tensors, int64_t hidden, int64_t proj, int64_t num_layers,
                       const std::vector<bool>& reverse, int64_t steps, int64_t batch,
                       std::vector<int64_t> batch_sizes) {
  const int id = cell_id(cell);
  const Int8Kernel* const kernel = kernel_of(id);
  const Kernel& described = table().kernels[id][kFloat32];
  Plain x;
  if (!x.read(input.ptr()) || !x.contiguous() || x.rank < 2 || x.rank > 3 || x.dtype != kFloat32)
    return py::none();
  if (x.rank == 3) steps = x.shape[0], batch = x.shape[1];
  const int64_t total = x.rank == 3 ? steps * batch : x.shape[0];
  if (batch_sizes.empty()) batch_sizes.assign(size_t(steps), batch);
  if (kernel == nullptr || steps < 1 || int64_t(batch_sizes.size()) != steps ||
      batch_sizes[0] > batch)
    return py::none();
  Int8Args a;
  a.T = steps, a.B = batch, a.N = int64_t(reverse.size());
  a.H = hidden, a.K = proj ? proj : hidden, a.projected = proj > 0;
  a.I = x.shape[x.rank - 1];
  std::vector<int64_t> starts{0};
  for (size_t t = 0; t < batch_sizes.size(); ++t) {
    if (batch_sizes[t] < 0 || (t && batch_sizes[t] > batch_sizes[t - 1])) return py::none();
    starts.push_back(starts.back() + batch_sizes[t]);
  }
  if (starts.back() != total) return py::none();
  std::vector<uint8_t> backwards(reverse.begin(), reverse.end());
  a.starts = starts.data(), a.active = batch_sizes.data(), a.reverse = backwards.data();

  const int64_t count = num_layers * a.N, G = described.gates;
  const auto width = [&](int i) { return i == 0 ? a.K : a.H; };
  std::vector<float> zeros;
  if (hx.empty())
    zeros.resize(size_t(std::max(a.H, a.K)));
  else if (int(hx.size()) != described.states)
    return py::none();
  for (int i = 0; i < described.states; ++i) {
    if (hx.empty()) {
      a.states[i] = {zeros.data(), 0, 0};
      continue;
    }
    Plain t;
    if (!t.read(PyTuple_GET_ITEM(hx.ptr(), i), kFloat32, {count, a.B, width(i)})) return py::none();
    a.states[i] = {t.data, width(i), a.B * width(i)};
  }
  const int64_t each = 6 + 2 * a.projected;
  if (int64_t(tensors.size()) != count * each) return py::none();
  std::vector<Int8Weights> weights(static_cast<size_t>(count));
  PyObject** left = PySequence_Fast_ITEMS(tensors.ptr());
  for (int64_t i = 0; i < count; ++i) {
    Int8Weights& w = weights[size_t(i)];
    if (!read_matrix(left, G, a.H, i < a.N ? a.I : a.N * a.K, w.ih) ||
        !read_matrix(left, G, a.H, a.K, w.hh) || !read_bias(left, G * a.H, w.bias_ih) ||
        !read_bias(left, G * a.H, w.bias_hh) ||
        (a.projected && !read_matrix(left, 1, a.K, a.H, w.hr)))
      return py::none();
  }

  py::tuple results(size_t(described.states + 1));
  Plain fresh;
  for (int i = 0; i < described.states; ++i) {
    py::object state = new_empty(input.ptr(), {count, a.B, width(i)});
    if (!fresh.read(state.ptr())) return py::none();
    a.finals[i] = {fresh.data, width(i), a.B * width(i)};
    results[size_t(i + 1)] = std::move(state);
  }
  py::object out, before;
  a.x = reinterpret_cast<const float*>(x.data);
  for (int64_t l = 0; l < num_layers; ++l) {
    before = std::move(out);  // alive while it is read
    out = x.rank == 3 ? new_empty(input.ptr(), {steps, batch, a.N * a.K})
                      : new_empty(input.ptr(), {total, a.N * a.K});
    if (!fresh.read(out.ptr())) return py::none();
    a.weights = weights.data() + l * a.N;
    a.out = {fresh.data, a.N * a.K, a.K};
    {
      const py::gil_scoped_release release;
      const Aligned shared(kernel->shared_bytes(a));
      a.scratch = shared.data;
      run(a, entry_of(id), described, int(kUnitsOfBlock), threads);
    }
    for (int i = 0; i < described.states; ++i) {
      const int64_t numbers = a.N * a.B * width(i);
      a.finals[i].data = static_cast<float*>(a.finals[i].data) + numbers;
      if (!hx.empty()) a.states[i].data = static_cast<float*>(a.states[i].data) + numbers;
    }
    a.x = static_cast<const float*>(a.out.data), a.I = a.N * a.K;
  }
  results[0] = std::move(out);
  return std::move(results);
}

}  // namespace

void bind_int8(py::module_& m) {
  m.def("int8_layers", &int8_layers, "A stack of layers with int8 weights; None if it does not fit.");
}

}  // namespace fastrnn
