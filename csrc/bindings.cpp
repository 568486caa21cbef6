// The extension fastrnn._C: reads Python arguments, packs weights, runs a kernel
// without the GIL. Tensors come as addresses and strides; fastrnn/cpp.py has made
// sure that they are what they should be.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "aligned.h"
#include "attention/bindings.h"
#include "attention/one_call.h"
#include "dispatch.h"
#include "gradients.h"
#include "huge_pages.h"
#include "inference.h"
#include "int8/bindings.h"
#include "parallel.h"
#include "types.h"

namespace py = pybind11;

namespace {

using namespace fastrnn;

using Triple = std::array<int64_t, 3>;  // address and two strides
using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;

template <class T>
T* address(int64_t value) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(value));
}

Rows rows(const Triple& t) { return {address<void>(t[0]), t[1], t[2]}; }
States states(const Triple& t) { return {address<void>(t[0]), t[1], t[2]}; }
Weight weight(const Triple& t) { return {address<const void>(t[0]), t[1], t[2]}; }

// What is asked for beside: the address of lengths; resets, to what, and the states; dropout;
// zoneout's masks, or the parts; the bounds (fastrnn/options.py), 0 for none; the states of all
// steps, or their gradients; the gradients of the states of resets.
using Options =
    std::tuple<int64_t, Triple, int, std::vector<Triple>, Triple, std::vector<Triple>,
               std::vector<double>, std::array<double, 4>, std::vector<Triple>, std::vector<Triple>>;

// Where each step's rows begin, and how many sequences reach it, the longest first.
struct StepRows {
  std::vector<int64_t> starts, active;
  std::vector<int64_t> columns;  // where these sequences lie; empty: in this order

  StepRows(int64_t T, int64_t B, int64_t rows, const int64_t* batch_sizes,
           const int64_t* lengths = nullptr) {
    if (lengths) {
      sort(T, B, lengths);
      return;
    }
    int64_t previous = B, start = 0;
    for (int64_t t = 0; t < T; ++t) {
      const int64_t size = batch_sizes ? batch_sizes[t] : B;
      if (size < 0 || size > previous)
        throw std::invalid_argument(
            "batch_sizes should be non-negative, in decreasing order and at most the batch of "
            "hx, got " + std::to_string(size) + " after " + std::to_string(previous));
      active.push_back(previous = size);
      starts.push_back(start);
      start += size;
    }
    starts.push_back(start);
    if (start != rows)
      throw std::invalid_argument("batch_sizes should sum to the number of rows of the input, " +
                                  std::to_string(rows) + ", got " + std::to_string(start));
  }

  int64_t column(int64_t b) const { return columns.empty() ? b : columns[size_t(b)]; }

 private:
  void sort(int64_t T, int64_t B, const int64_t* lengths) {
    std::vector<int64_t> ends(size_t(T + 1), 0);
    for (int64_t b = 0; b < B; ++b) {
      if (lengths[b] < 0 || lengths[b] > T)
        throw std::invalid_argument("lengths should be between 0 and the number of steps, " +
                                    std::to_string(T) + ", got " + std::to_string(lengths[b]));
      ++ends[size_t(lengths[b])];
    }
    columns.resize(size_t(B));
    std::iota(columns.begin(), columns.end(), int64_t(0));
    std::stable_sort(columns.begin(), columns.end(),
                     [&](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
    int64_t left = B;
    for (int64_t t = 0; t <= T; ++t) {
      starts.push_back(t * B);
      left -= ends[size_t(t)];
      if (t < T) active.push_back(left);
    }
  }
};

// Holds what ScanArgs points to.
struct Call {
  ScanArgs args;
  const Kernel& kernel;
  const Packing& packing;
  int threads;
  int64_t size;  // of a number, in bytes
  StepRows steps;
  std::vector<uint8_t> reverse;
  std::vector<std::unique_ptr<Aligned>> memory;
  std::vector<const void*> weight_hh, weight_second, weight_hr, bias_hh, params;

  Call(const std::string& cell, int kind, int threads, const Shape& shape,
       const std::vector<bool>& reversed, const std::optional<Options>& options = {})
      : kernel(table().kernels[cell_id(cell)][kind_of(cell_id(cell), kind)]),
        packing(table().packing[kind_of(cell_id(cell), kind)]),
        threads(threads),
        size(kKindBytes[kind]),
        steps(std::get<1>(shape), std::get<2>(shape), std::get<0>(shape),
              address<const int64_t>(std::get<6>(shape)),
              address<const int64_t>(options ? std::get<0>(*options) : 0)),
        reverse(reversed.begin(), reversed.end()) {
    std::tie(std::ignore, args.T, args.B, args.N, args.H, args.K, std::ignore) = shape;
    args.starts = steps.starts.data();
    args.active = steps.active.data();
    if (int64_t(reverse.size()) != args.N)
      throw std::invalid_argument("expected a reverse flag for each recurrence");
    args.reverse = reverse.data();
    if (options) read_options(*options);
  }

  void pack_weights(const std::vector<Triple>& hh, const std::vector<Triple>& hr, bool forward) {
    const int64_t H = args.H, K = args.K, first = kernel.gates - kernel.second;
    args.projected = !hr.empty();
    auto gates = [&](const Weight& w, int64_t from, int64_t G) {
      const void* data = static_cast<const char*>(w.data) + from * H * w.row * size;
      return forward ? pack(data, G, H, K, H * w.row, w.row, w.column)
                     : pack(data, 1, K, G * H, 0, w.column, w.row);
    };
    for (const Triple& triple : hh) {
      weight_hh.push_back(gates(weight(triple), 0, first));
      if (kernel.second) weight_second.push_back(gates(weight(triple), first, kernel.second));
    }
    args.weight_second = weight_second.data();
    for (const Triple& triple : hr) {
      const Weight w = weight(triple);
      weight_hr.push_back(forward ? pack(w.data, 1, K, H, 0, w.row, w.column)
                                  : pack(w.data, 1, H, K, 0, w.column, w.row));
    }
    args.weight_hh = weight_hh.data();
    args.weight_hr = weight_hr.data();
  }

  void pack_biases(const std::vector<int64_t>& biases) {
    for (const int64_t bias : biases) bias_hh.push_back(pack_bias(bias, kernel.gates));
    args.bias_hh = bias_hh.empty() ? nullptr : bias_hh.data();
  }

  // Each recurrence's are one after the other, kParams times H of them.
  void pack_params(const std::vector<int64_t>& given) {
    if (given.size() != (kernel.params ? reverse.size() : 0))
      throw std::invalid_argument("expected a cell's parameters for each recurrence");
    for (const int64_t each : given)
      params.push_back(pack_bias(each, kernel.params));
    args.params = params.data();
  }

  void run(Entry entry, size_t scratch_bytes) {
    memory.push_back(std::make_unique<Aligned>(scratch_bytes));
    args.scratch = memory.back()->data;
    fastrnn::run(args, entry, kernel, packing.width, threads);
  }

 private:
  void read_options(const Options& given) {
    const auto& [lengths, reset, to, states_of_reset, dropout, zoneout, parts, bounds, others,
                 of_resets] = given;
    args.options = true;
    if (!steps.columns.empty()) args.columns = steps.columns.data();
    args.reset = rows(reset);
    args.reset_to = ResetTo(to);
    args.dropout = states(dropout);
    args.zoned = !zoneout.empty() || !parts.empty();
    args.cell_clip = bounds[0], args.proj_clip = bounds[1];
    args.gate_clip = bounds[2], args.grad_clip = bounds[3];
    read_rows(states_of_reset, 0, args.reset_states);
    read_rows(zoneout, 0, args.zoneout);
    std::copy(parts.begin(), parts.end(), args.zoneout_p);
    read_rows(others, 1, args.others);
    read_rows(of_resets, 0, args.grad_resets);
  }
  // None, or one for each of the states from `first` on.
  void read_rows(const std::vector<Triple>& given, int first, Rows* into) {
    if (!given.empty() && int(given.size()) != kernel.states - first)
      throw std::invalid_argument("wrong number of states");
    for (size_t i = 0; i < given.size(); ++i) into[i] = rows(given[i]);
  }

  const void* pack_bias(int64_t bias, int64_t G) {
    memory.push_back(std::make_unique<Aligned>(packing.bytes(G, args.H, 1)));
    packing.pack_biases(address<const void>(bias), G, args.H, args.H, memory.back()->data);
    return memory.back()->data;
  }
  const void* pack(const void* w, int64_t G, int64_t U, int64_t K, int64_t step_g, int64_t step_u,
                   int64_t step_k) {
    memory.push_back(std::make_unique<Aligned>(packing.bytes(G, U, K)));
    packing.pack(w, G, U, K, step_g, step_u, step_k, memory.back()->data);
    return memory.back()->data;
  }
};

void read_states(const std::vector<Triple>& given, int count, States* into) {
  if (int(given.size()) != count) throw std::invalid_argument("wrong number of states");
  for (int i = 0; i < count; ++i) into[i] = states(given[size_t(i)]);
}

void forward(const std::string& cell, int dtype, int threads, const Shape& shape,
             const std::vector<bool>& reverse, const Triple& gates_x,
             const std::vector<Triple>& weight_hh, const std::vector<int64_t>& bias_hh,
             const std::vector<Triple>& weight_hr, const std::vector<int64_t>& params,
             const std::vector<Triple>& initial, const Triple& out,
             const std::vector<Triple>& finals, const Triple& reserve, const Triple& hidden,
             const std::optional<Options>& options, bool save) {
  py::gil_scoped_release release;
  Call call(cell, dtype, threads, shape, reverse, options);
  ScanArgs& a = call.args;
  a.gates_x = rows(gates_x);
  a.out = rows(out);
  a.reserve = rows(reserve);
  a.hidden = rows(hidden);
  a.save = save;
  read_states(initial, call.kernel.states, a.states);
  read_states(finals, call.kernel.states, a.finals);
  call.pack_weights(weight_hh, weight_hr, true);
  call.pack_biases(bias_hh);
  call.pack_params(params);
  call.run(call.kernel.forward, call.kernel.forward_scratch(a));
}

void backward(const std::string& cell, int dtype, int threads, const Shape& shape,
              const std::vector<bool>& reverse, const std::vector<Triple>& weight_hh,
              const std::vector<Triple>& weight_hr, const std::vector<int64_t>& params,
              const std::vector<Triple>& initial, const Triple& out, const Triple& reserve,
              const Triple& grad_out,
              const std::vector<Triple>& grad_finals, const Triple& dgates_x,
              const Triple& dgates_h, const std::vector<Triple>& grad_states,
              const Triple& grad_params, const Triple& dproj, const Triple& hidden,
              const std::optional<Options>& options) {
  py::gil_scoped_release release;
  Call call(cell, dtype, threads, shape, reverse, options);
  ScanArgs& a = call.args;
  a.out = rows(out);
  a.reserve = rows(reserve);
  a.grad_out = rows(grad_out);
  a.dgates_x = rows(dgates_x);
  a.dgates_h = rows(dgates_h);
  a.dproj = rows(dproj);
  a.hidden = rows(hidden);
  read_states(initial, call.kernel.states, a.states);
  read_states(grad_finals, call.kernel.states, a.grad_finals);
  read_states(grad_states, call.kernel.states, a.grad_states);
  a.grad_params = states(grad_params);
  call.pack_weights(weight_hh, weight_hr, false);
  call.pack_params(params);
  call.run(call.kernel.backward, call.kernel.backward_scratch(a));
}

// out [S, M] = x [S, K] . weight [M, K]^T + bias.
void linear(int kind, int threads, int64_t count, int64_t M, int64_t K, const Triple& x,
            const Triple& weight_, int64_t bias, const Triple& out) {
  const Packing& packing = packing_of(kind);
  if (packing.linear == nullptr) throw std::invalid_argument("no such product for this dtype");
  const Weight w = weight(weight_);
  LinearArgs a;
  a.x = address<const void>(x[0]), a.x_row = x[1];
  a.out = address<void>(out[0]), a.out_row = out[1];
  a.M = M, a.K = K;
  const Aligned packed(packing.bytes(1, M, K));
  packing.pack(w.data, 1, M, K, 0, w.row, w.column, packed.data);
  a.weight = packed.data;
  std::unique_ptr<Aligned> packed_bias;
  if (bias) {
    packed_bias = std::make_unique<Aligned>(packing.bytes(1, M, 1));
    packing.pack_biases(address<const void>(bias), 1, M, M, packed_bias->data);
    a.bias = packed_bias->data;
  }
  run_linear(a, packing, count, threads);
}

// What a row of h is when it comes from no step.
struct Resets {
  const uint8_t* flags = nullptr;  // [S], `flag_row` apart
  int64_t flag_row = 0;
  ResetTo to = ResetTo::kZero;
  const char* given = nullptr;
  int64_t given_row = 0;
};

// The rows that each row's state came from: h of the step met before it, the initial one, or what
// it was reset to. Rows past a sequence's end, whose gradients are zero, get zeros.
std::vector<const void*> previous_rows(const StepRows& steps, bool reverse, const char* h,
                                       int64_t h_row, const char* h_0,
                                       int64_t h_0_row, const char* zeros, const Resets& resets) {
  const int64_t T = int64_t(steps.active.size());
  std::vector<const void*> rows(size_t(steps.starts.back()), zeros);
  for (int64_t t = 0; t < T; ++t) {
    const int64_t before = reverse ? t + 1 : t - 1;
    const int64_t there = before < 0 || before >= T ? 0 : steps.active[size_t(before)];
    for (int64_t b = 0; b < steps.active[size_t(t)]; ++b) {
      const int64_t column = steps.column(b), row = steps.starts[size_t(t)] + column;
      const char* first = h_0 + column * h_0_row;
      const char*& from = reinterpret_cast<const char*&>(rows[size_t(row)]);
      from = b < there ? h + (steps.starts[size_t(before)] + column) * h_row : first;
      if (resets.flags && resets.flags[row * resets.flag_row])
        from = resets.to == ResetTo::kZero      ? zeros
               : resets.to == ResetTo::kInitial ? first
                                                : resets.given + row * resets.given_row;
    }
  }
  return rows;
}

// Gradients of a product's weight, out [M, K] = a [S, M]^T . b [S, K], and bias, sum [M].
void outer(int kind, int threads, OuterArgs a, const std::vector<const void*>& b,
           const Triple& a_, const Triple& out, int64_t sum) {
  a.a = address<const void>(a_[0]), a.a_row = a_[1];
  a.b = b.data();
  a.out = address<void>(out[0]), a.out_row = out[1];
  a.sum = address<void>(sum);
  run_outer(a, packing_of(kind), threads);
}

void outer_of_rows(int kind, int threads, int64_t S, int64_t M, int64_t K, const Triple& a,
                   const Triple& b, const Triple& out, int64_t sum) {
  py::gil_scoped_release release;
  std::vector<const void*> rows;
  for (int64_t s = 0; s < S; ++s)
    rows.push_back(address<const char>(b[0]) + s * b[1] * kKindBytes[kind]);
  OuterArgs args;
  args.S = S, args.M = M, args.K = K;
  outer(kind, threads, args, rows, a, out, sum);
}

// b is the state that each step began with.
void outer_of_states(int kind, int threads, const Shape& shape, bool reverse, int64_t M,
                     const Triple& a, const Triple& h, const Triple& h_0, const Triple& out,
                     int64_t sum, int64_t lengths, const Triple& reset, int reset_to,
                     const Triple& given) {
  py::gil_scoped_release release;
  OuterArgs args;
  int64_t T, B, batch_sizes;
  std::tie(args.S, T, B, std::ignore, std::ignore, args.K, batch_sizes) = shape;
  args.M = M;
  const StepRows steps(T, B, args.S, address<const int64_t>(batch_sizes),
                       address<const int64_t>(lengths));
  const int64_t size = kKindBytes[kind];
  const std::vector<char> zeros(size_t(args.K * size), 0);
  const Resets resets{address<const uint8_t>(reset[0]), reset[1], ResetTo(reset_to),
                      address<const char>(given[0]), given[1] * size};
  outer(kind, threads, args,
        previous_rows(steps, reverse, address<const char>(h[0]), h[1] * size,
                      address<const char>(h_0[0]), h_0[1] * size, zeros.data(), resets),
        a, out, sum);
}

std::vector<std::string> cells() {
  std::vector<std::string> names;
  for (int id = 0; id < kNumCells; ++id) names.push_back(cell_name(id));
  return names;
}

bool splits() { return table().packing[kNumKinds - 1].pack != nullptr; }

// What each kernel assumes of its cell, to be compared with the CellSpec.
py::dict cell_layout(const std::string& cell) {
  const Kernel& kernel = table().kernels[cell_id(cell)][0];
  py::dict layout;
  layout["gates"] = kernel.gates;
  layout["states"] = kernel.states;
  layout["saved"] = kernel.saved;
  layout["params"] = kernel.params;
  layout["second"] = kernel.second;
  layout["recurrent"] = kernel.recurrent;
  return layout;
}

// The plan for dense sequences, as (recurrences, rows, units) each is cut into.
std::tuple<int, int, int> plan(const std::string& cell, int dtype, int64_t T, int64_t B, int64_t N,
                               int64_t H, int threads) {
  const int64_t starts_end = T * B;
  std::vector<int64_t> starts(size_t(T + 1), starts_end);
  ScanArgs a;
  a.T = T, a.B = B, a.N = N, a.H = H, a.K = H;
  a.starts = starts.data();
  const Plan p = make_plan(a, table().kernels[cell_id(cell)][0], table().packing[dtype].width, threads);
  return {p.recurrences, p.rows, p.units};
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "fastrnn's C++ kernels; use them through fastrnn.scan.";
  m.def("forward", &forward);
  m.def("backward", &backward);
  m.def("linear", &linear, py::call_guard<py::gil_scoped_release>());
  m.def("outer_of_rows", &outer_of_rows);
  m.def("outer_of_states", &outer_of_states);
  bind_attention(m);
  fastrnn::bind_attention_in_one_call(m);
  bind_gradients(m);
  bind_inference(m);
  bind_int8(m);
  m.def("ask_for_huge_pages", &ask_for_huge_pages, "For memory of many megabytes, not yet touched.");
  m.def("cells", &cells, "Names of the cells that have kernels.");
  m.def("cell_layout", &cell_layout, "What a kernel assumes of its cell, as its CellSpec tells it.");
  m.def("plan", &plan, "Parts (recurrences, rows, units) a scan is cut into.");
  m.def("isa", [] { return std::string(table().name); }, "The instruction set in use.");
  m.def("splits", &splits, "Whether that set multiplies float32 in terms, and not only rounded.");
  m.def("isas", &isas, "Instruction sets built and available here, plainest first.");
  m.def("use_isa", &use_isa, "Switches the process to one of isas().");
  m.def("cpu_features", &cpu_features, "What the processor has of what the kernels may use.");
}
