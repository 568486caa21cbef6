// All attention kernels of one instruction set, as ../isa.cpp has those of the scans; the same
// rules hold here.
#include "engine.h"

namespace fastrnn {
namespace FASTRNN_ISA {

#if defined(FASTRNN_TILES)
template <int P>
using InTerms = in_terms<P>;
#else
template <int P>
using InTerms = float;
#endif

extern const AttentionTable attention;
const AttentionTable attention = {{
#define SCORE(name, type)                                                   \
  {attention_kernel<type, float>(),      attention_kernel<type, double>(),     \
   attention_kernel<type, bfloat16>(),   attention_kernel<type, float16>(),    \
   attention_kernel<type, InTerms<1>>(), attention_kernel<type, InTerms<2>>(), \
   attention_kernel<type, InTerms<3>>()},
#include "scores.def"
#undef SCORE
}};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
