// All attention kernels of one instruction set, as ../isa.cpp has those of the scans; the same
// rules hold here.
#include "engine.h"

namespace fastrnn {
namespace FASTRNN_ISA {

extern const AttentionTable attention;
const AttentionTable attention = {{
#define SCORE(name, type)                                                               \
  {attention_kernel<type, float>(), attention_kernel<type, double>(),                   \
   attention_kernel<type, bfloat16>(), attention_kernel<type, float16>()},
#include "scores.def"
#undef SCORE
}};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
