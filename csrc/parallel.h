// How a scan is split over threads, and the running of it.
#pragma once

#include "types.h"

namespace fastrnn {

// Recurrences, batch rows and blocks of units are each cut in so many parts; a thread
// gets one part of each. Only parts of units must meet at a barrier, every step.
struct Plan {
  int recurrences = 1, rows = 1, units = 1;
  int threads() const { return recurrences * rows * units; }
};

// Pure: the decision for at most `threads` threads, blocks of `width` units.
Plan make_plan(const ScanArgs& args, const Kernel& kernel, int width, int threads);

using Entry = void (*)(const ScanArgs&, const Slice&);
void run(const ScanArgs& args, Entry entry, const Kernel& kernel, int width, int threads);

// A layer's forward: packing, input product and scan; fills in its memory.
void run_layer(LayerArgs& args, const Kernel& kernel, int width, int threads);

// A single step, its units cut evenly.
void run_step(const StepArgs& args, const Kernel& kernel, int width, int threads);

// The rows of a product, cut evenly.
void run_linear(const LinearArgs& args, const Packing& packing, int64_t rows, int threads);

// A weight's gradient, its rows cut evenly.
void run_outer(const OuterArgs& args, const Packing& packing, int threads);

}  // namespace fastrnn
