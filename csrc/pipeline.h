// Layers of a stack side by side, each a chunk of steps behind the one below it.
#pragma once

#include <vector>

#include "types.h"

namespace fastrnn {

// Whether so many layers like this one are better run by as many threads than each by all of them.
// Pure: the decision, see pipeline.cpp.
bool pipeline_pays(const ScanArgs& args, const Kernel& kernel, int width, int layers, int threads);

// The stack, from the lowest layer on, a thread each: one direction, no sequence shorter than others,
// nothing saved. `size` is that of a number, `width` of a block of units.
void run_pipeline(std::vector<LayerArgs>& stack, const Kernel& kernel, int width, int64_t size);

}  // namespace fastrnn
