#include "dispatch.h"

#include <cstring>

#include "../dispatch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fastrnn {

#define ISA(name)              \
  namespace name {             \
  extern const Int8Table int8; \
  }
ISA(baseline)
#if defined(FASTRNN_HAS_AVX2)
ISA(avx2)
#endif
#if defined(FASTRNN_HAS_AVX512)
ISA(avx512)
#endif
#if defined(FASTRNN_HAS_AVX512VNNI)
ISA(avx512vnni)
#endif
#undef ISA

namespace {

#if defined(FASTRNN_HAS_AVX512VNNI)
bool has_vnni() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c >> 11 & 1);
}
#endif

// Products of bytes are no instruction set of their own here: all processors with bfloat16 pairs
// have them, so they go with `avx512bf16` and what lies beyond, and with `avx512` where that is
// the best there is. A cap of `avx512` therefore does without them on most machines.
const Int8Table& find(const char* name) {
#if defined(FASTRNN_HAS_AVX512)
#if defined(FASTRNN_HAS_AVX512VNNI)
  static const bool vnni = has_vnni();
  if (vnni && (std::strcmp(name, "avx512bf16") == 0 || std::strcmp(name, "amx") == 0 ||
               (std::strcmp(name, "avx512") == 0 && isas().back() == "avx512")))
    return avx512vnni::int8;
#endif
  if (std::strncmp(name, "avx512", 6) == 0 || std::strcmp(name, "amx") == 0) return avx512::int8;
#endif
#if defined(FASTRNN_HAS_AVX2)
  if (std::strcmp(name, "avx2") == 0) return avx2::int8;
#endif
  (void)name;
  return baseline::int8;
}

}  // namespace

const Int8Table& int8_table() { return find(table().name); }

}  // namespace fastrnn
