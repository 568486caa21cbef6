// Memory for vectors: begins at a cache line.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace fastrnn {

struct Aligned {
  explicit Aligned(size_t bytes) {
    // aligned_alloc wants a multiple of the alignment, and may return null for none.
    data = static_cast<char*>(std::aligned_alloc(64, (bytes + 127) / 64 * 64));
    if (data == nullptr) throw std::bad_alloc();
  }
  ~Aligned() { std::free(data); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  char* data;
};

}  // namespace fastrnn
