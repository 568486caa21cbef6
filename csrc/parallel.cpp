#include "parallel.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "aligned.h"
#include "denormals.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastrnn {

// Threads meet here every step, a few hundred nanoseconds apart: spin. A machine with
// fewer free cores than threads must not burn its time slices: after a while, yield.
//
// Each member counts its arrivals in a cache line of its own and watches the others':
// one transfer between cores, where a common counter and a signal take three.
struct alignas(64) Arrivals {
  std::atomic<unsigned> count{0};
};
struct Barrier {
  std::vector<Arrivals> members;
};

namespace {

constexpr int kSpins = 64;  // one to three microseconds; a step's imbalance is below one

// Waking a team costs some microseconds; in operations of one core:
constexpr double kOneThread = 4e5;

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void wait(Barrier* barrier, int member) {
  std::atomic<unsigned>& own = barrier->members[size_t(member)].count;
  const unsigned arrived = own.load(std::memory_order_relaxed) + 1;
  own.store(arrived, std::memory_order_release);
  for (const Arrivals& other : barrier->members) {
    // Another may already be one meeting ahead, never more.
    for (int spins = 0; int(other.count.load(std::memory_order_acquire) - arrived) < 0; ++spins) {
      if (spins < kSpins)
        pause();
      else
        sched_yield();
    }
  }
}

Plan make_plan(const ScanArgs& a, const Kernel& kernel, int width, int threads) {
  Plan plan;
  const double rows = double(a.starts[a.T]);
  const int gates = kernel.gates;
  // Without a product: some operations for each function of a gate.
  const double per_unit = kernel.recurrent ? 2.0 * double(a.K) : 20.0;
  const double per_row = per_unit * gates * double(a.H);
  if (threads < 2 || rows * per_row * double(a.N) < kOneThread) return plan;
  plan.recurrences = int(std::min<int64_t>(a.N, threads));
  const int each = threads / plan.recurrences;
  if (each < 2) return plan;

  // Splitting rows needs no barrier, but every core streams all weights; splitting units
  // streams each weight once, a core's share staying in its own cache, for a barrier a
  // step (0.1 us, at times 0.6) and an exchange. So units where the stream is the bound: below
  // 4 rows a core, or below 13 where the weights fill more than half of a second-level cache;
  // and only where a step is long against the barrier.
  constexpr double kCachedWeights = 128 * 1024;  // numbers: half a MiB of float32
  constexpr double kShortest = 1.2e4;            // operations of a core: 0.25 us of the stream
  const double weights = double(gates) * double(a.H) * double(a.K);
  const int64_t enough_rows = (weights > kCachedWeights ? 13 : 4) * each;
  const double per_step = per_row * double(std::max<int64_t>(a.B, 1)) / each;
  const int64_t blocks = (a.H + width - 1) / width;
  const bool units = kernel.recurrent && !a.projected && a.B < enough_rows && blocks >= each &&
                     per_step >= kShortest;
  if (units)
    plan.units = each;
  else
    plan.rows = int(std::min<int64_t>(a.B, each));
  return plan;
}

namespace {

// Where the i-th of `parts` begins. Rows are cut so that the parts have as many steps.
std::vector<int64_t> cut_rows(const ScanArgs& a, int parts) {
  std::vector<int64_t> lengths(size_t(a.B), 0), cuts{0};
  for (int64_t t = 0; t < a.T; ++t)
    if (a.active[t] > 0) ++lengths[size_t(a.active[t] - 1)];
  for (int64_t b = a.B - 1; b > 0; --b) lengths[size_t(b - 1)] += lengths[size_t(b)];
  int64_t total = 0, done = 0;
  for (const int64_t length : lengths) total += length;
  for (int64_t b = 0; b < a.B && int(cuts.size()) < parts; ++b) {
    done += lengths[size_t(b)];
    if (done * parts >= total * int64_t(cuts.size())) cuts.push_back(b + 1);
  }
  while (int(cuts.size()) < parts) cuts.push_back(a.B);
  cuts.push_back(a.B);
  return cuts;
}

// A plan with what its threads need: the cuts between rows, and the barriers.
struct Split {
  const ScanArgs& args;
  const Plan plan;
  const int64_t blocks;
  std::vector<int64_t> rows;
  std::vector<Barrier> barriers;

  Split(const ScanArgs& args, const Kernel& kernel, int width, int threads)
      : args(args), plan(make_plan(args, kernel, width, threads)),
        blocks((args.H + width - 1) / width) {
    if (plan.threads() == 1) return;
    rows = cut_rows(args, plan.rows);
    barriers = std::vector<Barrier>(size_t(plan.recurrences * plan.rows));
    for (Barrier& barrier : barriers) barrier.members = std::vector<Arrivals>(size_t(plan.units));
  }

  // The runtime may grant fewer threads than asked for; a barrier would then wait for
  // ever, so the first does all.
  Slice whole() const { return {0, args.N, 0, args.B, 0, blocks, nullptr, 0, 1}; }

  int unit(int id) const { return id % plan.units; }
  int row(int id) const { return id / plan.units % plan.rows; }
  int recurrence(int id) const { return id / plan.units / plan.rows; }
  // Of the threads that differ in their rows only.
  int meeting(int id) const { return recurrence(id) * plan.units + unit(id); }

  Slice slice(int id) {
    if (plan.threads() == 1) return whole();
    const int64_t unit_ = unit(id), row_ = row(id), recurrence_ = recurrence(id);
    return {
        args.N * recurrence_ / plan.recurrences,
        args.N * (recurrence_ + 1) / plan.recurrences,
        rows[size_t(row_)],
        rows[size_t(row_) + 1],
        blocks * unit_ / plan.units,
        blocks * (unit_ + 1) / plan.units,
        plan.units > 1 ? &barriers[size_t(recurrence_ * plan.rows + row_)] : nullptr,
        int(unit_),
        plan.units,
    };
  }
};

// Runs body(member, members) on so many threads, or on as many as the runtime grants.
template <class Body>
void team(int threads, const Body& body) {
  if (threads == 1) {
    const FlushDenormals flush;
    return body(0, 1);
  }
#pragma omp parallel num_threads(threads)
  {
    const FlushDenormals flush;
    body(int64_t(omp_get_thread_num()), int64_t(omp_get_num_threads()));
  }
}

// How many threads for work that can be cut into so many pieces.
int threads_for(double operations, int64_t pieces, int threads) {
  if (operations < kOneThread) return 1;
  return int(std::max<int64_t>(1, std::min<int64_t>(threads, pieces)));
}

}  // namespace

void run(const ScanArgs& args, Entry entry, const Kernel& kernel, int width, int threads) {
  Split split(args, kernel, width, threads);
  team(split.plan.threads(), [&](int64_t id, int64_t count) {
    if (count == split.plan.threads())
      entry(args, split.slice(int(id)));
    else if (id == 0)
      entry(args, split.whole());
  });
}

void run_layer(LayerArgs& args, const Kernel& kernel, int width, int threads) {
  Split split(args.scan, kernel, width, threads);
  const LayerBytes bytes = kernel.layer_bytes(args);
  const size_t chunk = (bytes.chunk + 63) / 64 * 64;
  const Aligned packed(bytes.packed), scratch(bytes.scratch);
  const Aligned chunks(chunk * size_t(split.plan.threads()));
  args.packed = packed.data, args.scan.scratch = scratch.data;
  const int sharing = split.plan.rows;

  std::vector<Barrier> packs(size_t(split.plan.recurrences * split.plan.units));
  for (Barrier& barrier : packs) barrier.members = std::vector<Arrivals>(size_t(sharing));

  team(split.plan.threads(), [&](int64_t id, int64_t count) {
    const bool alone = count < split.plan.threads();
    if (alone && id > 0) return;
    const Slice slice = alone ? split.whole() : split.slice(int(id));
    // Who owns units packs them, whence they lie in the right cache; who owns rows, a share.
    const int row = alone ? 0 : split.row(int(id)), shares = alone ? 1 : sharing;
    const int64_t each = slice.u1 - slice.u0;
    for (int64_t n = slice.n0; n < slice.n1; ++n)
      kernel.layer_pack(args, n, slice.u0 + each * row / shares,
                        slice.u0 + each * (row + 1) / shares);
    if (shares > 1) wait(&packs[size_t(split.meeting(int(id)))], row);
    kernel.layer(args, slice, chunks.data + chunk * size_t(id));
  });
}

void run_step(const StepArgs& args, const Kernel& kernel, int width, int threads) {
  const double operations =
      2.0 * double(kernel.gates) * double(args.H) * double(args.I + args.H) * double(args.B);
  const int64_t blocks = (args.H + width - 1) / width;
  team(threads_for(operations, blocks, threads), [&](int64_t id, int64_t count) {
    kernel.step(args, blocks * id / count, blocks * (id + 1) / count);
  });
}

void run_linear(const LinearArgs& args, const Packing& packing, int64_t rows, int threads) {
  const double operations = 2.0 * double(rows) * double(args.M) * double(args.K);
  const int parts = threads_for(operations, rows, threads);
  const size_t each = packing.linear_scratch ? (packing.linear_scratch(args) + 63) / 64 * 64 : 0;
  const Aligned scratch(each * size_t(parts));
  team(parts, [&](int64_t id, int64_t count) {
    LinearArgs own = args;
    own.scratch = scratch.data + each * size_t(id);
    packing.linear(own, rows * id / count, rows * (id + 1) / count);
  });
}

void run_outer(const OuterArgs& args, const Packing& packing, int threads) {
  const double operations = 2.0 * double(args.S) * double(args.M) * double(args.K);
  const int64_t blocks = (args.M + packing.width - 1) / packing.width;
  const int parts = threads_for(operations, blocks, threads);
  const size_t bytes = (packing.outer_scratch(args) + 63) / 64 * 64;
  const Aligned scratch(bytes * size_t(parts));
  team(parts, [&](int64_t id, int64_t count) {
    packing.outer(args, blocks * id / count * packing.width,
                  std::min(args.M, blocks * (id + 1) / count * packing.width),
                  scratch.data + bytes * size_t(id));
  });
}

}  // namespace fastrnn
