#include "inference.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "aligned.h"
#include "dispatch.h"
#include "huge_pages.h"
#include "parallel.h"
#include "pipeline.h"
#include "tensors.h"
#include "types.h"

namespace py = pybind11;

namespace fastrnn {

namespace {

constexpr int64_t kLarge = int64_t(4) << 20;  // bytes

struct Sizes {
  int64_t T, B, I, H, K;
  int64_t N;  // directions
  bool projected;
};

// What a backward needs (fastrnn/allocate.py), where one is to come: contiguous. A cell may save
// nothing of a step; hidden is there with a projection.
struct Saved {
  bool wanted = false;
  char *reserve = nullptr, *hidden = nullptr;
};

// One layer: tensors contiguous, weights a direction after the other, no initial state (an
// empty one) for zeros.
void run_one(const Kernel& kernel, const Packing& packing, int64_t size, int threads,
             const Sizes& z, const char* x, const LayerWeights* weights, char* const* initial,
             char* out, char* const* finals, const Saved& saved = {}) {
  // A state not given is zero, the same row for all.
  std::unique_ptr<Aligned> zeros;
  if (initial[0] == nullptr) {
    zeros = std::make_unique<Aligned>(size_t(std::max(z.H, z.K) * size));
    std::memset(zeros->data, 0, size_t(std::max(z.H, z.K) * size));
  }
  States states[kMaxStates], ends[kMaxStates];
  for (int i = 0; i < kernel.states; ++i) {
    const int64_t w = i == 0 ? z.K : z.H;
    ends[i] = {finals[i], w, z.B * w};
    states[i] = zeros ? States{zeros->data, 0, 0} : States{initial[i], w, z.B * w};
  }

  if (z.T == 1 && !z.projected && !saved.wanted) {
    for (int64_t n = 0; n < z.N; ++n) {
      StepArgs a;
      a.B = z.B, a.I = z.I, a.H = z.H;
      a.x = x;
      a.weight_ih = weights[n].ih, a.weight_hh = weights[n].hh;
      a.bias_ih = weights[n].bias_ih, a.bias_hh = weights[n].bias_hh;
      a.out = out + n * z.H * size, a.out_row = z.N * z.H;
      for (int i = 0; i < kernel.states; ++i) {
        a.states[i] = {static_cast<char*>(states[i].data) + n * states[i].n * size, states[i].b, 0};
        a.finals[i] = {static_cast<char*>(ends[i].data) + n * ends[i].n * size, ends[i].b, 0};
      }
      run_step(a, kernel, packing.width, threads);
    }
    return;
  }

  std::vector<int64_t> starts(size_t(z.T + 1)), active(size_t(z.T), z.B);
  for (int64_t t = 0; t <= z.T; ++t) starts[size_t(t)] = t * z.B;
  const uint8_t reverse[2] = {0, 1};
  LayerArgs args;
  args.I = z.I, args.x = x, args.weights = weights;
  ScanArgs& a = args.scan;
  a.T = z.T, a.B = z.B, a.N = z.N, a.H = z.H, a.K = z.K;
  a.projected = z.projected;
  a.starts = starts.data(), a.active = active.data(), a.reverse = reverse;
  a.out = {out, z.N * z.K, z.K};
  if (saved.wanted) {
    const int64_t kept = kernel.saved * z.H;
    a.save = true;
    a.reserve = {saved.reserve, z.N * kept, kept};
    a.hidden = {saved.hidden, z.N * z.H, z.H};
  }
  for (int i = 0; i < kernel.states; ++i) a.states[i] = states[i], a.finals[i] = ends[i];
  run_layer(args, kernel, packing.width, threads);
}

// Layers [l, ...) of one direction side by side, where that pays; returns how many were run: all that
// `threads` can take, or none. `outs` are theirs, initial and final states those of the first.
int64_t run_side_by_side(const Kernel& kernel, const Packing& packing, int64_t size, int threads,
                         const Sizes& z, int64_t left, const char* x, const LayerWeights* weights,
                         char* const* initial, const std::function<char*()>& next_out,
                         char* const* finals) {
  LayerArgs args;
  ScanArgs& a = args.scan;
  a.T = z.T, a.B = z.B, a.N = z.N, a.H = z.H, a.K = z.K, a.projected = z.projected;
  // Between chunks states pass through memory as they are stored: not where a scan keeps them wider.
  const bool narrow = packing.linear == nullptr;
  if (narrow || left < 2 || threads < 2) return 0;
  std::vector<int64_t> starts(size_t(z.T + 1)), active(size_t(z.T), z.B);
  for (int64_t t = 0; t <= z.T; ++t) starts[size_t(t)] = t * z.B;
  const uint8_t forwards = 0;
  a.starts = starts.data(), a.active = active.data(), a.reverse = &forwards;
  if (!pipeline_pays(a, kernel, packing.width, int(left), threads)) return 0;
  const Aligned zeros(size_t(std::max(z.H, z.K) * size));
  std::memset(zeros.data, 0, size_t(std::max(z.H, z.K) * size));
  args.I = z.I, args.x = x;
  std::vector<LayerArgs> stack;
  for (int64_t l = 0; l < threads; ++l) {
    args.weights = weights + l;
    a.out = {next_out(), z.K, z.K};
    for (int i = 0; i < kernel.states; ++i) {
      const int64_t w = i == 0 ? z.K : z.H, bytes = l * z.B * w * size;
      a.finals[i] = {finals[i] + bytes, w, z.B * w};
      a.states[i] = initial[i] ? States{initial[i] + bytes, w, z.B * w} : States{zeros.data, 0, 0};
    }
    stack.push_back(args);
    args.x = static_cast<const char*>(a.out.data), args.I = z.K;
  }
  const py::gil_scoped_release release;
  run_pipeline(stack, kernel, packing.width, size);
  return threads;
}

// The weights of one recurrence, taken from the front of `left`; false if one is not simple.
bool read_weights(PyObject** left, int dtype, int64_t width, int64_t features, int64_t K,
                  int64_t H, bool bias, bool projected, LayerWeights& into) {
  Plain t;
  if (!t.read(*left++, dtype, {width, features})) return false;
  into.ih = t.data;
  if (!t.read(*left++, dtype, {width, K})) return false;
  into.hh = t.data;
  if (bias) {
    if (!t.read(*left++, dtype, {width})) return false;
    into.bias_ih = t.data;
    if (!t.read(*left++, dtype, {width})) return false;
    into.bias_hh = t.data;
  }
  if (projected) {
    if (!t.read(*left++, dtype, {K, H})) return false;
    into.hr = t.data;
  }
  return true;
}

// A stack of layers, input [T, B, I] and states [layers*N, B, K or H], or one step of a cell,
// input [B, I] and states [B, H]. Returns (output, *final states), for a cell (*states), or
// None if a tensor is not simple or does not fit.
py::object layers(const std::string& cell, int threads, py::handle input, const py::tuple& hx,
                  const py::list& weights, int64_t hidden, int64_t proj, bool bias,
                  int64_t num_layers, int64_t directions, bool step, int kind) {
  Plain x;
  if (!x.read(input.ptr()) || !x.contiguous() || x.rank != (step ? 2 : 3)) return py::none();
  Sizes z;
  z.T = step ? 1 : x.shape[0], z.B = x.shape[x.rank - 2], z.I = x.shape[x.rank - 1];
  z.H = hidden, z.K = proj ? proj : hidden, z.N = directions, z.projected = proj > 0;
  const int id = cell_id(cell);
  // That of float32, where terms may be multiplied.
  kind = kind_of(id, x.dtype == int(DType::kFloat32) ? kind : x.dtype);
  const Kernel& kernel = table().kernels[id][kind];
  if (kernel.layer == nullptr) return py::none();
  const Packing& packing = table().packing[kind];
  const int64_t size = kKindBytes[x.dtype], count = num_layers * directions;
  const int64_t width = kernel.gates * hidden;

  char* initial[kMaxStates] = {};
  if (!hx.empty() && int(hx.size()) != kernel.states) return py::none();
  for (size_t i = 0; i < hx.size(); ++i) {
    Plain t;
    const int64_t w = i == 0 ? z.K : z.H;
    PyObject* const given = PyTuple_GET_ITEM(hx.ptr(), Py_ssize_t(i));
    if (!(step ? t.read(given, x.dtype, {z.B, w}) : t.read(given, x.dtype, {count, z.B, w})))
      return py::none();
    initial[i] = t.data;
  }
  const int64_t each = 2 + 2 * bias + z.projected;
  if (int64_t(weights.size()) != count * each) return py::none();
  std::vector<LayerWeights> found(static_cast<size_t>(count));
  PyObject** const items = PySequence_Fast_ITEMS(weights.ptr());
  for (int64_t i = 0; i < count; ++i) {
    const int64_t features = i < directions ? z.I : directions * z.K;
    if (!read_weights(items + i * each, x.dtype, width, features, z.K, z.H, bias, z.projected,
                      found[size_t(i)]))
      return py::none();
  }

  py::tuple results(size_t(kernel.states + !step));
  char* finals[kMaxStates];
  Plain fresh;
  for (int i = 0; i < kernel.states; ++i) {
    const int64_t w = i == 0 ? z.K : z.H;
    py::object state = step ? new_empty(input.ptr(), {z.B, w})
                            : new_empty(input.ptr(), {count, z.B, w});
    if (!fresh.read(state.ptr())) return py::none();
    finals[i] = fresh.data;
    results[size_t(i + !step)] = std::move(state);
  }
  const char* from = x.data;
  py::object out, before;
  std::vector<py::object> between;
  for (int64_t l = 0; l < num_layers; ++l) {
    char* last = nullptr;
    const int64_t done =
        step ? 0
             : run_side_by_side(
                   kernel, packing, size, threads, z, num_layers - l, from, found.data() + l,
                   initial, [&] {
                     between.push_back(std::move(out));
                     out = new_empty(input.ptr(), {z.T, z.B, z.K});
                     if (!fresh.read(out.ptr())) throw std::runtime_error("no plain tensor to be had");
                     return last = fresh.data;
                   },
                   finals);
    if (done) {
      for (int i = 0; i < kernel.states; ++i) {
        const int64_t bytes = done * z.B * (i == 0 ? z.K : z.H) * size;
        finals[i] += bytes;
        if (initial[i]) initial[i] += bytes;
      }
      from = last, z.I = z.K, l += done - 1;
      continue;
    }
    char* to = finals[0];
    if (!step) {
      before = std::move(out);  // alive while it is read
      out = new_empty(input.ptr(), {z.T, z.B, directions * z.K});
      if (!fresh.read(out.ptr())) return py::none();
      to = fresh.data;
    }
    {
      const py::gil_scoped_release release;
      const int64_t bytes = z.T * z.B * directions * z.K * size;
      if (bytes >= kLarge) ask_for_huge_pages(int64_t(reinterpret_cast<uintptr_t>(to)), bytes);
      run_one(kernel, packing, size, threads, z, from, found.data() + l * directions, initial, to,
              finals);
    }
    for (int i = 0; i < kernel.states; ++i) {
      const int64_t bytes = directions * z.B * (i == 0 ? z.K : z.H) * size;
      finals[i] += bytes;
      if (initial[i]) initial[i] += bytes;
    }
    from = to, z.I = directions * z.K;
  }
  if (!step) results[0] = std::move(out);
  return std::move(results);
}

// One layer, and what its backward needs if `save`, from addresses of contiguous tensors: what cpp.py made
// and looked at. Weights are a direction after the other, in torch's order, 0 for what is not there.
void layer(const std::string& cell, int dtype, int threads,
                  const std::array<int64_t, 6>& sizes, int64_t x,
                  const std::vector<std::array<int64_t, 5>>& weights,
                  const std::vector<int64_t>& states, int64_t out,
                  const std::vector<int64_t>& finals, bool save, const std::array<int64_t, 2>& saved) {
  const auto pointer = [](int64_t address) { return reinterpret_cast<char*>(address); };
  const auto [T, B, N, I, H, K] = sizes;
  const bool projected = weights.at(0)[4] != 0;
  const int kind = kind_of(cell_id(cell), dtype);
  const Kernel& kernel = table().kernels[cell_id(cell)][kind];
  if (kernel.layer == nullptr || int64_t(weights.size()) != N || int(states.size()) != kernel.states ||
      int(finals.size()) != kernel.states)
    throw std::invalid_argument("not a layer of that cell");
  std::vector<LayerWeights> found;
  for (const auto& [ih, hh, bias_ih, bias_hh, hr] : weights)
    found.push_back({pointer(ih), pointer(hh), pointer(bias_ih), pointer(bias_hh), pointer(hr)});
  char *initial[kMaxStates] = {}, *ends[kMaxStates] = {};
  for (int i = 0; i < kernel.states; ++i)
    initial[i] = pointer(states[size_t(i)]), ends[i] = pointer(finals[size_t(i)]);
  const py::gil_scoped_release release;
  run_one(kernel, table().packing[kind], kKindBytes[kind], threads, {T, B, I, H, K, N, projected},
          pointer(x), found.data(), initial, pointer(out), ends,
          {save, pointer(saved[0]), pointer(saved[1])});
}

// Whether a stack of one direction without projections runs its layers side by side.
bool side_by_side(const std::string& cell, int64_t T, int64_t B, int64_t H, int layers, int threads) {
  ScanArgs a;
  a.T = T, a.B = B, a.N = 1, a.H = H, a.K = H;
  const std::vector<int64_t> starts(size_t(T + 1), T * B);
  a.starts = starts.data();
  return pipeline_pays(a, table().kernels[cell_id(cell)][0], table().packing[0].width, layers, threads);
}

}  // namespace

void bind_inference(py::module_& m) {
  m.def("side_by_side", &side_by_side, "Whether a stack's layers run side by side.");
  m.def("layer", &layer, "A layer, and what its backward needs.");
  m.def("layers", &layers, "A stack of layers, or a cell's step; None if it is not that simple.");
}

}  // namespace fastrnn
