// Which instruction set's kernels of int8 weights are in use.
#pragma once

#include "types.h"

namespace fastrnn {

// Those that go with the table in use: see dispatch.cpp.
const Int8Table& int8_table();

}  // namespace fastrnn
