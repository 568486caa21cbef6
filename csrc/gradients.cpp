// The scan, and what is to be multiplied with the gates' gradients that it makes. Where those are
// many, a window of time steps after the other, from the last to the first: so they are never whole
// in memory, and are multiplied while they are in the cache. A window's states are those that the
// step before it has left, and what reaches them comes to lie where the initial states' gradients
// will in the end.
//
// How long a window is depends on shapes alone: threads change no bit of any sum.
#include "gradients.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "aligned.h"
#include "dispatch.h"
#include "parallel.h"
#include "types.h"

namespace py = pybind11;

namespace fastrnn {

namespace {

using Addresses = std::vector<int64_t>;
// Of weight_ih, weight_hh, bias_ih, bias_hh and weight_hr; 0 for what is not there.
using OfWeights = std::vector<std::array<int64_t, 5>>;

char* pointer(int64_t address) { return reinterpret_cast<char*>(uintptr_t(address)); }

// A layer's tensors, contiguous. A gradient at 0 is one of zeros where it is given, and is not
// wanted where it is to be written.
struct Tensors {
  int64_t x;
  const OfWeights& weights;
  const Addresses& states;
  int64_t out, reserve, hidden;
  int64_t grad_out;
  const Addresses& grad_finals;
  int64_t grad_x;
  const Addresses& grad_states;
  const OfWeights& grad_weights;
};

struct Sizes {
  int64_t T, B, N, I, H, K;
  bool apart, projected;
};

class LayerBackward {
 public:
  // The products around the scan may be another kind's than the scan.
  LayerBackward(const Kernel& kernel, const Packing& packing, const Packing& products, int64_t size,
                int threads, const Sizes& z, const Tensors& t)
      : kernel(kernel), packing(packing), products(products), size(size), threads(threads), z(z), t(t),
        width(kernel.gates * z.H), window(steps_of_window()) {
    const int64_t rows = window * z.B;
    dgates_x = take(rows * z.N * width);
    dgates_h = z.apart ? take(rows * z.N * width) : dgates_x;
    if (z.projected) dproj = take(rows * z.N * z.K);
    const int64_t most = std::max(z.H, z.K);
    zeros = static_cast<char*>(std::memset(take(most), 0, size_t(most * size)));
    for (const auto& each : t.weights) {
      hh.push_back(pack(packing, pointer(each[1]), z.K, width, 1, z.K));
      if (z.projected) hr.push_back(pack(packing, pointer(each[4]), z.H, z.K, 1, z.H));
    }
    if (t.grad_x) ih = pack_inputs();
  }

  void run() {
    for (int64_t end = z.T; end > 0; end -= window) {
      const int64_t first = std::max<int64_t>(end - window, 0);
      scan(first, end);
      if (t.grad_x) of_input(first, end);
      for (size_t n = 0; n < t.grad_weights.size(); ++n) of_weights(int64_t(n), first, end);
    }
  }

 private:
  const Kernel& kernel;
  const Packing &packing, &products;
  const int64_t size;  // of a number, in bytes
  const int threads;
  const Sizes& z;
  const Tensors& t;
  const int64_t width, window;
  std::vector<std::unique_ptr<Aligned>> memory;
  // Of a window, [rows, N, G*H]: on the input's side, and on the state's where it is another.
  char *dgates_x, *dgates_h, *dproj = nullptr;
  char* zeros;
  std::vector<const void*> hh, hr;
  const void* ih = nullptr;

  // Two directions go through time against each other and have all of it in one window.
  int64_t steps_of_window() const {
    // Up to here the third-level cache holds them, and windows lose (docs/performance.md, 25).
    constexpr int64_t kWhole = 8 * 1024 * 1024;
    // What both cores' second-level caches hold beside weights; and the rows that a weight's
    // gradient takes at once.
    constexpr int64_t kWindow = 1024 * 1024, kRows = 256;
    const int64_t row = width * size;
    if (z.N > 1 || z.T * z.B * row <= kWhole) return z.T;
    const int64_t rows = std::max(kRows, kWindow / row / kRows * kRows);
    return std::min(std::max<int64_t>(rows / z.B, 1), z.T);
  }

  char* take_bytes(size_t bytes) {
    memory.push_back(std::make_unique<Aligned>(bytes));
    return memory.back()->data;
  }
  char* take(int64_t numbers) { return take_bytes(size_t(numbers * size)); }
  // w as a matrix [U, depth], packed.
  const void* pack(const Packing& packing, const void* w, int64_t U, int64_t depth, int64_t step_u,
                   int64_t step_k) {
    char* const packed = take_bytes(packing.bytes(1, U, depth));
    packing.pack(w, 1, U, depth, 0, step_u, step_k, packed);
    return packed;
  }
  // [I, N*G*H]
  const void* pack_inputs() {
    const char* all = pointer(t.weights[0][0]);
    const int64_t each = width * z.I;
    if (z.N > 1) {
      char* const joined = take(z.N * each);
      for (int64_t n = 0; n < z.N; ++n)
        std::memcpy(joined + n * each * size, pointer(t.weights[size_t(n)][0]), size_t(each * size));
      all = joined;
    }
    return pack(products, all, z.I, z.N * width, 1, z.I);
  }

  // The address of the row of a step's first sequence, [T*B, N, each].
  char* at(int64_t tensor, int64_t step, int64_t each) const {
    return pointer(tensor) + step * z.B * z.N * each * size;
  }

  // Steps [first, end).
  void scan(int64_t first, int64_t end) {
    const int64_t steps = end - first, B = z.B, H = z.H, K = z.K, kept = kernel.saved * H;
    std::vector<int64_t> starts(size_t(steps + 1)), active(size_t(steps), B);
    for (int64_t s = 0; s <= steps; ++s) starts[size_t(s)] = s * B;
    const uint8_t reverse[2] = {0, 1};
    ScanArgs a;
    a.T = steps, a.B = B, a.N = z.N, a.H = H, a.K = K;
    a.projected = z.projected;
    a.starts = starts.data(), a.active = active.data(), a.reverse = reverse;
    a.weight_hh = hh.data(), a.weight_hr = hr.data();
    const auto rows = [&](void* data, int64_t each) { return Rows{data, z.N * each, each}; };
    a.out = rows(at(t.out, first, K), K);
    a.reserve = rows(at(t.reserve, first, kept), kept);
    if (z.projected) a.hidden = rows(at(t.hidden, first, H), H);
    a.grad_out = t.grad_out ? rows(at(t.grad_out, first, K), K) : Rows{zeros, 0, 0};
    a.dgates_x = rows(dgates_x, width);
    if (z.apart) a.dgates_h = rows(dgates_h, width);
    a.dproj = rows(dproj, K);
    for (int i = 0; i < kernel.states; ++i) {
      const int64_t each = i == 0 ? K : H;
      const auto state = [&](int64_t address) { return States{pointer(address), each, B * each}; };
      a.states[i] = state(t.states[size_t(i)]);
      // Before a window that is not the first: h among the outputs, the others at the end of what
      // was kept of a step.
      if (first > 0 && i == 0) a.states[i] = {at(t.out, first - 1, K), K, 0};
      if (first > 0 && i > 0)
        a.states[i] = {at(t.reserve, first - 1, kept) + (kernel.saved - kernel.states + i) * H * size,
                       kept, 0};
      a.grad_states[i] = state(t.grad_states[size_t(i)]);
      const int64_t given = t.grad_finals[size_t(i)];
      a.grad_finals[i] = end < z.T ? a.grad_states[i] : given ? state(given) : States{zeros, 0, 0};
    }
    const Aligned scratch(kernel.backward_scratch(a));
    a.scratch = scratch.data;
    fastrnn::run(a, kernel.backward, kernel, packing.width, threads);
  }

  // [rows, I] = dgates [rows, N*G*H] . weight_ih [N*G*H, I]
  void of_input(int64_t first, int64_t end) {
    LinearArgs a;
    a.x = dgates_x, a.x_row = z.N * width;
    a.weight = ih;
    a.out = pointer(t.grad_x) + first * z.B * z.I * size, a.out_row = z.I;
    a.M = z.I, a.K = z.N * width;
    run_linear(a, products, (end - first) * z.B, threads);
  }

  void of_weights(int64_t n, int64_t first, int64_t end) {
    const int64_t start = first * z.B, count = (end - first) * z.B;
    const auto& into = t.grad_weights[size_t(n)];
    std::vector<const void*> b(static_cast<size_t>(count));
    // weight [M, depth] = factor [rows, N, M]^T . b, whose rows lie where `row` says.
    const auto product = [&](const char* factor, int64_t M, int64_t depth, int64_t weight,
                             int64_t bias, auto&& row) {
      for (int64_t s = 0; s < count; ++s) b[size_t(s)] = row(start + s);
      OuterArgs a;
      a.a = factor + n * M * size, a.a_row = z.N * M;
      a.b = b.data();
      a.out = pointer(weight), a.out_row = depth;
      a.sum = pointer(bias);
      a.S = count, a.M = M, a.K = depth;
      a.more = end < z.T;
      run_outer(a, products, threads);
    };
    product(dgates_x, width, z.I, into[0], into[2],
            [&](int64_t s) { return pointer(t.x) + s * z.I * size; });
    // The state that a step began with: a batch of rows before it, after it where time runs back.
    const int64_t back = n == 0 ? -z.B : z.B, S = z.T * z.B;
    product(dgates_h, width, z.K, into[1], into[3], [&](int64_t s) {
      const int64_t row = s + back;
      return row < 0 || row >= S ? pointer(t.states[0]) + (n * z.B + s % z.B) * z.K * size
                                 : pointer(t.out) + (row * z.N + n) * z.K * size;
    });
    if (z.projected)
      product(dproj, z.K, z.H, into[4], 0,
              [&](int64_t s) { return pointer(t.hidden) + (s * z.N + n) * z.H * size; });
  }
};

void layer_backward(const std::string& cell, int kind, int kind_of_products, int threads,
                    const std::array<int64_t, 6>& sizes, bool apart, int64_t x,
                    const OfWeights& weights, const Addresses& states, int64_t out,
                    const std::array<int64_t, 2>& saved, int64_t grad_out,
                    const Addresses& grad_finals, int64_t grad_x, const Addresses& grad_states,
                    const OfWeights& grad_weights) {
  const auto [T, B, N, I, H, K] = sizes;
  kind = kind_of(cell_id(cell), kind);
  const Kernel& kernel = table().kernels[cell_id(cell)][kind];
  const Packing &packing = table().packing[kind],
                &products = table().packing[kind_of(cell_id(cell), kind_of_products)];
  const size_t count = size_t(kernel.states);
  if (kernel.layer == nullptr || products.linear == nullptr || T < 1 || B < 1 ||
      int64_t(weights.size()) != N || states.size() != count || grad_finals.size() != count ||
      grad_states.size() != count || (!grad_weights.empty() && int64_t(grad_weights.size()) != N))
    throw std::invalid_argument("not a layer of that cell");
  const py::gil_scoped_release release;
  const Sizes z{T, B, N, I, H, K, apart, weights[0][4] != 0};
  const Tensors t{x,        weights,     states, out,         saved[0],    saved[1],
                  grad_out, grad_finals, grad_x, grad_states, grad_weights};
  LayerBackward(kernel, packing, products, kKindBytes[kind], threads, z, t).run();
}

}  // namespace

void bind_gradients(py::module_& m) {
  m.def("layer_backward", &layer_backward, "A layer's gradients, of all it was given.");
}

}  // namespace fastrnn
