// Float32 numbers whose products round what they multiply to bfloat16 and sum in float32. To the
// kernels they are one more storage type: everything but the operands of products stays float32.
#pragma once

#include "product.h"

namespace fastrnn {
namespace FASTRNN_ISA {

struct rounded {
  float value;
};
template <>
struct FactorOf<rounded> {
  using type = bfloat16;
};

inline float to_wide(rounded x) { return x.value; }
inline rounded from_wide(float f, rounded*) { return {f}; }
inline VecF load(const rounded* p) { return load(&p->value); }
inline void store(rounded* p, VecF v) { store(&p->value, v); }

// Two vectors of numbers as one of their pairs, each rounded: the even ones in the lower halves.
inline VecF as_pairs(VecF even, VecF odd) {
  using Full = uint32_t __attribute__((vector_size(kBytes)));
  const auto round = [](VecF v) {
    const Full bits = (Full)v;
    return (Full)(v != v ? (IntF)(bits | 0x400000) : (IntF)(bits + 0x7fff + ((bits >> 16) & 1)));
  };
  return (VecF)((round(even) >> 16) | (round(odd) & 0xffff0000));
}

// How packing (product.h) and a layer's input (layer.h) become factors.
template <class F>
inline F as_factor(rounded x) {
  return to_bfloat16(x.value);
}
inline VecF load_factors(const rounded* from) {
  bfloat16 pairs[2 * kLanes<float>];
  store(pairs, load(from));
  store(pairs + kLanes<float>, load(from + kLanes<float>));
  return load_bits(pairs);
}
inline void store_pairs(bfloat16* to, const rounded* even, const rounded* odd) {
  store_factor(to, as_pairs(load(even), load(odd)));
}
inline void copy_row(bfloat16* to, const rounded* from, int64_t width) {
  constexpr int W = kLanes<float>;
  for (int64_t u = 0; u < width; u += W) {
    const int lanes = int(min_of(W, width - u));
    store(to + u, load(from + u, lanes), lanes);
  }
}

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
