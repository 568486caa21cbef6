// Fresh memory comes a page at a time, at the price of a fault each; results of many
// megabytes are better served by large pages, where the system gives them on request.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastrnn {

inline void ask_for_huge_pages(int64_t start, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr int64_t kHuge = int64_t(1) << 21;
  const int64_t first = (start + kHuge - 1) / kHuge * kHuge;
  const int64_t last = (start + bytes) / kHuge * kHuge;
  // A refusal costs speed only.
  if (last > first)
    (void)madvise(reinterpret_cast<void*>(uintptr_t(first)), size_t(last - first), MADV_HUGEPAGE);
#else
  (void)start, (void)bytes;
#endif
}

}  // namespace fastrnn
