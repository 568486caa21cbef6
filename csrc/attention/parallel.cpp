// Tasks of attention on threads: whoever is free takes the next.
#include <omp.h>

#include <atomic>
#include <new>

#include "../aligned.h"
#include "types.h"

namespace fastrnn {

namespace {

// Waking a team costs some microseconds; in operations of one core:
constexpr double kOneThread = 4e5;

}  // namespace

void run_tasks(const AttentionArgs& args, const AttentionTasks& tasks, double operations,
               int threads) {
  const int64_t count = tasks.count(args);
  const size_t bytes = tasks.scratch(args);
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  auto work = [&] {
    try {
      const Aligned scratch(bytes);
      for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < count;)
        tasks.run(args, task, scratch.data);
    } catch (const std::bad_alloc&) {
      failed = true;  // an exception must not leave a parallel region
    }
  };
  if (threads < 2 || count < 2 || operations < kOneThread) {
    work();
  } else {
#pragma omp parallel num_threads(int(count < threads ? count : threads))
    work();
  }
  // One thread with memory does the work of all.
  if (failed && next.load() < count) throw std::bad_alloc();
}

}  // namespace fastrnn
