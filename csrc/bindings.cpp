// The extension fastrnn._C: reads Python arguments, packs weights, runs a kernel
// without the GIL. Tensors come as addresses and strides; fastrnn/cpp.py has made
// sure that they are what they should be.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <tuple>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "attention/bindings.h"
#include "dispatch.h"
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

struct Aligned {
  explicit Aligned(size_t bytes) {
    // aligned_alloc wants a multiple of the alignment, and may return null for none.
    data = static_cast<char*>(std::aligned_alloc(64, (bytes + 127) / 64 * 64));
    if (data == nullptr) throw std::bad_alloc();
  }
  ~Aligned() { std::free(data); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  char* data;
};

// Holds what ScanArgs points to.
struct Call {
  ScanArgs args;
  const Kernel& kernel;
  const Packing& packing;
  int threads;
  std::vector<int64_t> starts, active;
  std::vector<uint8_t> reverse;
  std::vector<std::unique_ptr<Aligned>> memory;
  std::vector<const void*> weight_hh, weight_hr, bias_hh;

  Call(const std::string& cell, int dtype, int threads, const Shape& shape,
       const std::vector<bool>& reversed)
      : Call(table(), cell_id(cell), dtype, threads) {
    int64_t rows, batch_sizes;
    std::tie(rows, args.T, args.B, args.N, args.H, args.K, batch_sizes) = shape;
    read_steps(rows, address<const int64_t>(batch_sizes));
    reverse.assign(reversed.begin(), reversed.end());
    if (int64_t(reverse.size()) != args.N)
      throw std::invalid_argument("expected a reverse flag for each recurrence");
    args.reverse = reverse.data();
  }

  void pack_weights(const std::vector<Triple>& hh, const std::vector<Triple>& hr, bool forward) {
    const int64_t G = kernel.gates, H = args.H, K = args.K;
    args.projected = !hr.empty();
    for (const Triple& triple : hh) {
      const Weight w = weight(triple);
      weight_hh.push_back(forward ? pack(w.data, G, H, K, H * w.row, w.row, w.column)
                                  : pack(w.data, 1, K, G * H, 0, w.column, w.row));
    }
    for (const Triple& triple : hr) {
      const Weight w = weight(triple);
      weight_hr.push_back(forward ? pack(w.data, 1, K, H, 0, w.row, w.column)
                                  : pack(w.data, 1, H, K, 0, w.column, w.row));
    }
    args.weight_hh = weight_hh.data();
    args.weight_hr = weight_hr.data();
  }

  void pack_biases(const std::vector<int64_t>& biases) {
    for (const int64_t bias : biases)
      bias_hh.push_back(
          pack(address<const void>(bias), kernel.gates, args.H, 1, args.H, 1, 0));
    args.bias_hh = bias_hh.empty() ? nullptr : bias_hh.data();
  }

  void run(Entry entry, size_t scratch_bytes) {
    memory.push_back(std::make_unique<Aligned>(scratch_bytes));
    args.scratch = memory.back()->data;
    fastrnn::run(args, entry, kernel.gates, packing.width, threads);
  }

 private:
  Call(const Table& table, int cell, int dtype, int threads)
      : kernel(table.kernels[cell][dtype]), packing(table.packing[dtype]), threads(threads) {}

  void read_steps(int64_t rows, const int64_t* batch_sizes) {
    int64_t previous = args.B, start = 0;
    for (int64_t t = 0; t < args.T; ++t) {
      const int64_t size = batch_sizes ? batch_sizes[t] : args.B;
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
    args.starts = starts.data();
    args.active = active.data();
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
             const std::vector<Triple>& weight_hr, const std::vector<Triple>& initial,
             const Triple& out, const std::vector<Triple>& finals, const Triple& reserve,
             const Triple& hidden, bool save) {
  py::gil_scoped_release release;
  Call call(cell, dtype, threads, shape, reverse);
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
  call.run(call.kernel.forward, call.kernel.forward_scratch(a));
}

void backward(const std::string& cell, int dtype, int threads, const Shape& shape,
              const std::vector<bool>& reverse, const std::vector<Triple>& weight_hh,
              const std::vector<Triple>& weight_hr, const std::vector<Triple>& initial,
              const Triple& out, const Triple& reserve, const Triple& grad_out,
              const std::vector<Triple>& grad_finals, const Triple& dgates_x,
              const Triple& dgates_h, const std::vector<Triple>& grad_states,
              const Triple& dproj, const Triple& hidden) {
  py::gil_scoped_release release;
  Call call(cell, dtype, threads, shape, reverse);
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
  call.pack_weights(weight_hh, weight_hr, false);
  call.run(call.kernel.backward, call.kernel.backward_scratch(a));
}

// out [S, G*H] = x [S, K] . weight [G*H, K]^T + bias.
void linear(int dtype, int threads, int64_t count, int64_t G, int64_t H, int64_t K, const Triple& x,
            const Triple& weight_, int64_t bias, const Triple& out) {
  py::gil_scoped_release release;
  const Packing& packing = table().packing[dtype];
  const Weight w = weight(weight_);
  LinearArgs a;
  a.x = address<const void>(x[0]), a.x_row = x[1];
  a.out = address<void>(out[0]), a.out_row = out[1];
  a.G = G, a.H = H, a.K = K;
  const Aligned packed(packing.bytes(G, H, K));
  packing.pack(w.data, G, H, K, H * w.row, w.row, w.column, packed.data);
  a.weight = packed.data;
  std::unique_ptr<Aligned> packed_bias;
  if (bias) {
    packed_bias = std::make_unique<Aligned>(packing.bytes(G, H, 1));
    packing.pack(address<const void>(bias), G, H, 1, H, 1, 0, packed_bias->data);
    a.bias = packed_bias->data;
  }
  run_linear(a, packing, count, threads);
}

// Fresh memory comes a page at a time, at the price of a fault each; results of many
// megabytes are better served by large pages, where the system gives them on request.
void ask_for_huge_pages(int64_t start, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kHuge = int64_t(1) << 21;
  const int64_t first = (start + kHuge - 1) / kHuge * kHuge;
  const int64_t last = (start + bytes) / kHuge * kHuge;
  // A refusal costs speed only.
  if (last > first) (void)madvise(address<void>(first), size_t(last - first), MADV_HUGEPAGE);
#else
  (void)start, (void)bytes;
#endif
}

std::vector<std::string> cells() {
  std::vector<std::string> names;
  for (int id = 0; id < kNumCells; ++id) names.push_back(cell_name(id));
  return names;
}

// What each kernel assumes of its cell, to be compared with the CellSpec.
py::dict cell_layout(const std::string& cell) {
  const Kernel& kernel = table().kernels[cell_id(cell)][0];
  py::dict layout;
  layout["gates"] = kernel.gates;
  layout["states"] = kernel.states;
  layout["saved"] = kernel.saved;
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
  const Plan p = make_plan(a, table().kernels[cell_id(cell)][0].gates, table().packing[dtype].width,
                           threads);
  return {p.recurrences, p.rows, p.units};
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "fastrnn's C++ kernels; use them through fastrnn.scan.";
  m.def("forward", &forward);
  m.def("backward", &backward);
  m.def("linear", &linear);
  bind_attention(m);
  m.def("ask_for_huge_pages", &ask_for_huge_pages, "For memory of many megabytes, not yet touched.");
  m.def("cells", &cells, "Names of the cells that have kernels.");
  m.def("cell_layout", &cell_layout, "Numbers of gates, states and saved vectors of a cell.");
  m.def("plan", &plan, "Parts (recurrences, rows, units) a scan is cut into.");
  m.def("isa", [] { return std::string(table().name); }, "The instruction set in use.");
  m.def("isas", &isas, "Instruction sets built and available here, plainest first.");
  m.def("use_isa", &use_isa, "Switches the process to one of isas().");
  m.def("cpu_features", &cpu_features, "What the processor has of what the kernels may use.");
}
