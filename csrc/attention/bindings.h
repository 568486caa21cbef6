// The part of fastrnn._C that is about attention.
#pragma once

#include <pybind11/pybind11.h>

void bind_attention(pybind11::module_& m);
