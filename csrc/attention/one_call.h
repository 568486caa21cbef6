// The part of fastrnn._C that is about plain attention in one call.
#pragma once

#include <pybind11/pybind11.h>

namespace fastrnn {

void bind_attention_in_one_call(pybind11::module_& m);

}  // namespace fastrnn
