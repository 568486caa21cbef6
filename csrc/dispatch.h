// Which instruction set's kernels are in use.
#pragma once

#include <string>
#include <vector>

#include "types.h"

namespace fastrnn {

// The table in use: the best this processor runs, capped by FASTRNN_ISA.
const Table& table();

// Names of the sets that were built and that this processor runs, plainest first.
std::vector<std::string> isas();

// Switches to one of `isas()` for the whole process; throws std::invalid_argument.
void use_isa(const std::string& name);

// What the processor has of what any of the sets uses.
std::vector<std::string> cpu_features();

// The kind whose kernels and packed weights serve a cell, and the products by themselves: float32's own
// where there are none in terms.
int kind_of(int cell, int kind);
const Packing& packing_of(int kind);

const char* cell_name(int id);
int cell_id(const std::string& name);  // throws std::invalid_argument

}  // namespace fastrnn
