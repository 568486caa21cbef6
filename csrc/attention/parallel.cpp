// Tasks of attention on threads: whoever is free takes the next.
#include <omp.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "types.h"

namespace fastrnn {

namespace {

// Waking a team costs some microseconds; in operations of one core:
constexpr double kOneThread = 4e5;

struct Scratch {
  explicit Scratch(size_t bytes)
      : data(static_cast<char*>(std::aligned_alloc(64, (bytes + 127) / 64 * 64))) {}
  ~Scratch() { std::free(data); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  char* data;
};

}  // namespace

void run_tasks(const AttentionArgs& args, const AttentionTasks& tasks, double operations,
               int threads) {
  const int64_t count = tasks.count(args);
  const size_t bytes = tasks.scratch(args);
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  auto work = [&] {
    const Scratch scratch(bytes);
    if (scratch.data == nullptr) {
      failed = true;  // an exception must not leave a parallel region
      return;
    }
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < count;)
      tasks.run(args, task, scratch.data);
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
