// What the bindings of attention have in common: the kernel of a score, and running it forwards and
// backwards.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "../aligned.h"
#include "../dispatch.h"
#include "types.h"

namespace fastrnn {

constexpr const char* kScoreNames[] = {
#define SCORE(name, type) #name,
#include "scores.def"
#undef SCORE
};

inline const AttentionKernel& kernel_of(const std::string& score, int kind) {
  for (int id = 0; id < kNumScores; ++id)
    if (score == kScoreNames[id]) return table().attention->kernels[id][kind];
  throw std::invalid_argument("there is no kernel for the score '" + score + "'");
}

inline double operations(const AttentionArgs& a, int products) {
  return 2.0 * products * double(a.B * a.H) * double(a.Tq) * double(a.Tk) *
         double(a.E + a.Ev) / 2;
}

inline void run_forward(const AttentionArgs& a, const AttentionKernel& kernel, int threads) {
  run_tasks(a, kernel.forward, operations(a, 2), threads);
}

// With `wide` the type of accumulation is double.
inline void run_backward(AttentionArgs& a, const AttentionKernel& kernel, bool wide, int threads) {
  // Kept for the next call: the faults of fresh pages cost more than what is written there.
  const int64_t numbers = a.slices > 1 ? a.B * a.H * a.slices * a.Tq * kernel.partial_row(a) : 0;
  const Aligned partial(size_t(numbers) * (wide ? 8 : 4));
  a.partial = partial.data;
  run_tasks(a, kernel.backward, operations(a, 5), threads);
  run_tasks(a, kernel.finish, operations(a, 5), threads);
  if (a.grad_mask) run_tasks(a, kernel.mask_gradient, operations(a, 2), threads);
}

}  // namespace fastrnn
