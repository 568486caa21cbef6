// Threads that share a layer's units meet at every step; a thread for each layer meets its neighbour
// once a chunk of steps. All work but for the first and the last chunk, so that two layers of T
// steps take the time of one of T + chunk on one thread. A row's bits are the same either way.
//
// So it is done where units would be split, and nowhere else: rows split need no meeting, and what
// is best left to one thread is so short that two would lose on a busy machine. Nor where weights
// outgrow half of a second-level cache: split units then take half of them each.
#include "pipeline.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>

#include "aligned.h"
#include "denormals.h"
#include "parallel.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastrnn {

namespace {

// Steps of a layer that are done.
struct alignas(64) Progress {
  std::atomic<int64_t> steps{0};
};

int64_t chunk_of(int64_t T) { return std::clamp<int64_t>(T / 12, 4, 16); }

void wait_for(const Progress& of, int64_t steps) {
  for (int spins = 0; of.steps.load(std::memory_order_acquire) < steps; ++spins) {
    if (spins < 64) {
#if defined(__x86_64__)
      _mm_pause();
#endif
    } else {
      sched_yield();  // as the barrier in parallel.cpp
    }
  }
}

void run_chunks(LayerArgs args, const Kernel& kernel, int width, int64_t size,
                const Progress* below, Progress& own) {
  ScanArgs& a = args.scan;
  const int64_t T = a.T, each = chunk_of(T), blocks = (a.H + width - 1) / width;
  a.T = std::min(each, T);
  const LayerBytes bytes = kernel.layer_bytes(args);
  const Aligned packed(bytes.packed), scratch(bytes.scratch), chunk(bytes.chunk);
  args.packed = packed.data, a.scratch = scratch.data;
  kernel.layer_pack(args, 0, 0, blocks);
  const Slice whole{0, 1, 0, a.B, 0, blocks, nullptr, 0, 1};
  const char* const x = static_cast<const char*>(args.x);
  char* const out = static_cast<char*>(a.out.data);
  for (int64_t t = 0; t < T; t += each) {
    a.T = std::min(each, T - t);
    if (below) wait_for(*below, t + a.T);
    args.x = x + t * a.B * args.I * size;
    a.out.data = out + t * a.B * a.K * size;
    kernel.layer(args, whole, chunk.data);
    // From where this chunk ended.
    for (int i = 0; i < kernel.states; ++i) a.states[i] = a.finals[i];
    own.steps.store(t + a.T, std::memory_order_release);
  }
}

}  // namespace

bool pipeline_pays(const ScanArgs& a, const Kernel& kernel, int width, int layers, int threads) {
  constexpr double kCachedWeights = 128 * 1024;  // numbers, as in parallel.cpp
  constexpr int64_t kShortest = 24;
  if (threads < 2 || layers < threads || a.N != 1 || a.T < kShortest) return false;
  return double(kernel.gates) * double(a.H) * double(a.K) <= kCachedWeights &&
         make_plan(a, kernel, width, threads).units == threads;
}

void run_pipeline(std::vector<LayerArgs>& stack, const Kernel& kernel, int width, int64_t size) {
  std::vector<Progress> done(stack.size());
  const auto run = [&](size_t l) {
    const FlushDenormals flush;
    run_chunks(stack[l], kernel, width, size, l ? &done[l - 1] : nullptr, done[l]);
  };
#pragma omp parallel num_threads(int(stack.size()))
  {
    const size_t id = size_t(omp_get_thread_num());
    // The runtime may grant fewer threads than asked for; the first then does all.
    if (size_t(omp_get_num_threads()) == stack.size())
      run(id);
    else if (id == 0)
      for (size_t l = 0; l < stack.size(); ++l) run(l);
  }
}

}  // namespace fastrnn
