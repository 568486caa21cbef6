#include "parallel.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastrnn {

// Threads meet here every step, a few hundred nanoseconds apart: spin. A machine with
// fewer free cores than threads must not burn its time slices: after a while, yield.
struct Barrier {
  int members = 1;
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<unsigned> generation{0};
};

namespace {

constexpr int kSpins = 64;  // one to three microseconds; a step's imbalance is below one

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void wait(Barrier* barrier) {
  const unsigned generation = barrier->generation.load(std::memory_order_acquire);
  if (barrier->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == barrier->members) {
    barrier->arrived.store(0, std::memory_order_relaxed);
    barrier->generation.store(generation + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; barrier->generation.load(std::memory_order_acquire) == generation; ++spins) {
    if (spins < kSpins)
      pause();
    else
      sched_yield();
  }
}

Plan make_plan(const ScanArgs& a, int gates, int width, int threads) {
  Plan plan;
  const double rows = double(a.starts[a.T]);
  const double per_row = 2.0 * gates * double(a.H) * double(a.K);
  // Waking a team costs some microseconds: 4e5 operations of one core.
  if (threads < 2 || rows * per_row * double(a.N) < 4e5) return plan;
  plan.recurrences = int(std::min<int64_t>(a.N, threads));
  const int each = threads / plan.recurrences;
  if (each < 2) return plan;

  // Splitting rows needs no barrier, but every core streams all weights; splitting units
  // streams each weight once, a core's share staying in its own cache, for a barrier a
  // step (0.2 us) and an exchange. So units where the stream is the bound: below 4 rows a
  // core, or below 13 where the weights outgrow the second-level cache; and only where a
  // step is long against the barrier.
  constexpr double kCachedWeights = 256 * 1024;  // numbers: 1 MiB of float32
  const double weights = double(gates) * double(a.H) * double(a.K);
  const int64_t enough_rows = (weights > kCachedWeights ? 13 : 4) * each;
  const double per_step = per_row * double(std::max<int64_t>(a.B, 1)) / each;
  const int64_t blocks = (a.H + width - 1) / width;
  const bool units = !a.projected && a.B < enough_rows && blocks >= each && per_step > 1e4;
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
  const int64_t total = a.starts[a.T];
  int64_t done = 0;
  for (int64_t b = 0; b < a.B && int(cuts.size()) < parts; ++b) {
    done += lengths[size_t(b)];
    if (done * parts >= total * int64_t(cuts.size())) cuts.push_back(b + 1);
  }
  while (int(cuts.size()) < parts) cuts.push_back(a.B);
  cuts.push_back(a.B);
  return cuts;
}

}  // namespace

void run(const ScanArgs& args, Entry entry, int gates, int width, int threads) {
  const Plan plan = make_plan(args, gates, width, threads);
  const int64_t blocks = (args.H + width - 1) / width;
  const Slice whole{0, args.N, 0, args.B, 0, blocks, nullptr};
  if (plan.threads() == 1) return entry(args, whole);

  const std::vector<int64_t> rows = cut_rows(args, plan.rows);
  std::vector<Barrier> barriers(size_t(plan.recurrences * plan.rows));
  for (Barrier& barrier : barriers) barrier.members = plan.units;

#pragma omp parallel num_threads(plan.threads())
  {
    // The runtime may grant fewer threads than asked for; a barrier would then wait for
    // ever, so the first does all.
    if (omp_get_num_threads() < plan.threads()) {
      if (omp_get_thread_num() == 0) entry(args, whole);
    } else {
      const int id = omp_get_thread_num();
      const int unit = id % plan.units;
      const int row = id / plan.units % plan.rows;
      const int recurrence = id / plan.units / plan.rows;
      const Slice slice{
          args.N * recurrence / plan.recurrences,
          args.N * (recurrence + 1) / plan.recurrences,
          rows[size_t(row)],
          rows[size_t(row) + 1],
          blocks * unit / plan.units,
          blocks * (unit + 1) / plan.units,
          plan.units > 1 ? &barriers[size_t(recurrence * plan.rows + row)] : nullptr,
      };
      entry(args, slice);
    }
  }
}

}  // namespace fastrnn
