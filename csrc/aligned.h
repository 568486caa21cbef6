// Memory for vectors: begins at a cache line.
//
// A call's scratch memory is that of the last call: fresh memory costs a page fault every 4 KiB,
// which for the packed weights of a layer comes to more than packing them. So a thread keeps what
// it gave back, 64 MiB at most. From 1 MiB on it lies in large pages, where the system has them:
// of those a second-level cache holds as many as fit, of scattered small ones hardly half.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <vector>

#include "huge_pages.h"

namespace fastrnn {

struct Aligned {
  explicit Aligned(size_t bytes) : Aligned(take(bytes)) {}
  ~Aligned() { give_back(data, size); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  char* data;

 private:
  struct Block {
    char* data;
    size_t size;
  };
  struct Kept {
    std::vector<Block> blocks;
    size_t bytes = 0;
    ~Kept() {
      for (const Block& block : blocks) std::free(block.data);
    }
  };
  static constexpr size_t kMost = size_t(64) << 20, kLarge = size_t(1) << 20,
                          kHugePage = size_t(2) << 20;

  size_t size;

  explicit Aligned(Block block) : data(block.data), size(block.size) {}

  static Kept& kept() {
    thread_local Kept of_thread;
    return of_thread;
  }

  static Block take(size_t bytes) {
    const size_t unit = bytes >= kLarge ? kHugePage : 64;
    // Room for a vector read past the end; and aligned_alloc may return null for nothing.
    const size_t size = (bytes + 64 + unit - 1) / unit * unit;
    std::vector<Block>& blocks = kept().blocks;
    for (size_t i = blocks.size(); i-- > 0;) {
      const Block found = blocks[i];
      if (found.size < size || found.size > 2 * size) continue;
      blocks.erase(blocks.begin() + std::ptrdiff_t(i));
      kept().bytes -= found.size;
      return found;
    }
    char* const data = static_cast<char*>(std::aligned_alloc(unit, size));
    if (data == nullptr) throw std::bad_alloc();
    if (unit == kHugePage) ask_for_huge_pages(int64_t(reinterpret_cast<uintptr_t>(data)), int64_t(size));
    return {data, size};
  }

  static void give_back(char* data, size_t size) {
    Kept& of_thread = kept();
    if (size > kMost) return std::free(data);
    // The longest unused go first.
    while (of_thread.bytes + size > kMost || of_thread.blocks.size() >= 32) {
      of_thread.bytes -= of_thread.blocks.front().size;
      std::free(of_thread.blocks.front().data);
      of_thread.blocks.erase(of_thread.blocks.begin());
    }
    of_thread.blocks.push_back({data, size});
    of_thread.bytes += size;
  }
};

}  // namespace fastrnn
