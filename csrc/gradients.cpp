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

// One layer's backward: tensors are contiguous, and an address of 0 is a gradient of zeros where
// it is given, and one that is not wanted where it is to be written.
struct LayerBackward {
  const Kernel& kernel;
  const Packing& packing;
  const int64_t size;  // of a number, in bytes
  const int threads;
  const int64_t T, B, N, I, H, K;
  const bool apart, projected;
  const int64_t S = T * B, width = kernel.gates * H;
  std::vector<std::unique_ptr<Aligned>> memory = {};
  // The gates' gradients, [S, N, G*H]: on the input's side, and on the state's where it is another.
  // Of the scratch memory, which is that of the last call.
  char* dgates_x = take(S * N * width);
  char* dgates_h = apart ? take(S * N * width) : dgates_x;
  char* dproj = projected ? take(S * N * K) : nullptr;
  char* zeros = take_zeros();

  char* take(int64_t numbers) { return take_bytes(size_t(numbers * size)); }
  char* take_bytes(size_t bytes) {
    memory.push_back(std::make_unique<Aligned>(bytes));
    return memory.back()->data;
  }
  char* take_zeros() {
    const size_t bytes = size_t(std::max(H, K) * size);
    return static_cast<char*>(std::memset(take_bytes(bytes), 0, bytes));
  }
  // w as a matrix [U, K], packed.
  const void* pack(const void* w, int64_t U, int64_t depth, int64_t step_u, int64_t step_k) {
    char* const packed = take_bytes(packing.bytes(1, U, depth));
    packing.pack(w, 1, U, depth, 0, step_u, step_k, packed);
    return packed;
  }

  void scan(const OfWeights& weights, const Addresses& states, int64_t out,
            const std::array<int64_t, 2>& saved, int64_t grad_out, const Addresses& grad_finals,
            const Addresses& grad_states) {
    std::vector<int64_t> starts(size_t(T + 1)), active(size_t(T), B);
    for (int64_t t = 0; t <= T; ++t) starts[size_t(t)] = t * B;
    const uint8_t reverse[2] = {0, 1};
    std::vector<const void*> hh, hr;
    for (const auto& each : weights) {
      hh.push_back(pack(pointer(each[1]), K, width, 1, K));
      if (projected) hr.push_back(pack(pointer(each[4]), H, K, 1, H));
    }
    ScanArgs a;
    a.T = T, a.B = B, a.N = N, a.H = H, a.K = K;
    a.projected = projected;
    a.starts = starts.data(), a.active = active.data(), a.reverse = reverse;
    a.weight_hh = hh.data(), a.weight_hr = hr.data();
    const auto rows = [&](void* data, int64_t each) { return Rows{data, N * each, each}; };
    a.out = rows(pointer(out), K);
    a.reserve = rows(pointer(saved[0]), kernel.saved * H);
    a.hidden = rows(pointer(saved[1]), H);
    a.grad_out = grad_out ? rows(pointer(grad_out), K) : Rows{zeros, 0, 0};
    a.dgates_x = rows(dgates_x, width);
    if (apart) a.dgates_h = rows(dgates_h, width);
    a.dproj = rows(dproj, K);
    for (int i = 0; i < kernel.states; ++i) {
      const int64_t each = i == 0 ? K : H;
      const auto state = [&](int64_t address) { return States{pointer(address), each, B * each}; };
      a.states[i] = state(states[size_t(i)]);
      a.grad_states[i] = state(grad_states[size_t(i)]);
      const int64_t given = grad_finals[size_t(i)];
      a.grad_finals[i] = given ? state(given) : States{zeros, 0, 0};
    }
    a.scratch = take_bytes(kernel.backward_scratch(a));
    run(a, kernel.backward, kernel, packing.width, threads);
  }

  // [S, I] = dgates [S, N*G*H] . weight_ih [N*G*H, I]
  void of_input(const OfWeights& weights, char* grad) {
    const char* all = pointer(weights[0][0]);
    if (N > 1) {
      const int64_t each = width * I;
      char* const joined = take(N * each);
      for (int64_t n = 0; n < N; ++n)
        std::memcpy(joined + n * each * size, pointer(weights[size_t(n)][0]), size_t(each * size));
      all = joined;
    }
    LinearArgs a;
    a.x = dgates_x, a.x_row = N * width;
    a.weight = pack(all, I, N * width, 1, I);
    a.out = grad, a.out_row = I;
    a.M = I, a.K = N * width;
    run_linear(a, packing, S, threads);
  }

  // weight [M, depth] = a [S, N, M]^T . b, of the n-th recurrence, where b's rows are given.
  void of_weight(char* a_, int64_t M, int64_t n, const std::vector<const void*>& b, int64_t depth,
                 int64_t weight, int64_t bias) {
    OuterArgs a;
    a.a = a_ + n * M * size, a.a_row = N * M;
    a.b = b.data();
    a.out = pointer(weight), a.out_row = depth;
    a.sum = pointer(bias);
    a.S = S, a.M = M, a.K = depth;
    run_outer(a, packing, threads);
  }

  void of_weights(int64_t n, int64_t x, int64_t h_0, int64_t out, int64_t hidden,
                  const std::array<int64_t, 5>& into) {
    std::vector<const void*> b(static_cast<size_t>(S));
    const auto each_row = [&](auto&& address) {
      for (int64_t s = 0; s < S; ++s) b[size_t(s)] = address(s);
    };
    each_row([&](int64_t s) { return pointer(x) + s * I * size; });
    of_weight(dgates_x, width, n, b, I, into[0], into[2]);
    // The state that a step began with: a batch of rows before it, after it where time runs back.
    const int64_t back = n == 0 ? -B : B;
    each_row([&](int64_t s) {
      const int64_t row = s + back;
      return row < 0 || row >= S ? pointer(h_0) + (n * B + s % B) * K * size
                                 : pointer(out) + (row * N + n) * K * size;
    });
    of_weight(dgates_h, width, n, b, K, into[1], into[3]);
    if (!projected) return;
    each_row([&](int64_t s) { return pointer(hidden) + (s * N + n) * H * size; });
    of_weight(dproj, K, n, b, H, into[4], 0);
  }
};

void layer_backward(const std::string& cell, int kind, int threads,
                    const std::array<int64_t, 6>& sizes, bool apart, int64_t x,
                    const OfWeights& weights, const Addresses& states, int64_t out,
                    const std::array<int64_t, 2>& saved, int64_t grad_out,
                    const Addresses& grad_finals, int64_t grad_x, const Addresses& grad_states,
                    const OfWeights& grad_weights) {
  const auto [T, B, N, I, H, K] = sizes;
  kind = kind_of(cell_id(cell), kind);
  const Kernel& kernel = table().kernels[cell_id(cell)][kind];
  const Packing& packing = table().packing[kind];
  const size_t count = size_t(kernel.states);
  if (kernel.layer == nullptr || packing.linear == nullptr || int64_t(weights.size()) != N ||
      states.size() != count || grad_finals.size() != count || grad_states.size() != count ||
      (!grad_weights.empty() && int64_t(grad_weights.size()) != N))
    throw std::invalid_argument("not a layer of that cell");
  constexpr int64_t kSizes[kNumKinds] = {4, 8, 2, 2, 4};
  const py::gil_scoped_release release;
  LayerBackward layer{kernel, packing, kSizes[kind], threads, T, B, N, I, H, K, apart,
                      weights[0][4] != 0};
  layer.scan(weights, states, out, saved, grad_out, grad_finals, grad_states);
  if (grad_x) layer.of_input(weights, pointer(grad_x));
  for (size_t n = 0; n < grad_weights.size(); ++n)
    layer.of_weights(int64_t(n), x, states[0], out, saved[1], grad_weights[n]);
}

}  // namespace

void bind_gradients(py::module_& m) {
  m.def("layer_backward", &layer_backward, "A layer's gradients, of all it was given.");
}

}  // namespace fastrnn
