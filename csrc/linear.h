// out[row][g*H + u] = sum_i x[row][i] * w[g*H + u][i] + bias: the input product of all
// time steps, by the tiles of the recurrent one.
//
// Bound: 2 S G H I operations. Rows go by chunks that stay in the second-level cache
// while every block of weights passes over them once.
#pragma once

#include "product.h"
#include "types.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <class C, int G>
void linear_rows(const LinearArgs& a, int64_t r0, int64_t r1) {
  using V = Vec<C>;
  constexpr int W = kLanes<C>;
  constexpr int64_t kChunkBytes = 256 * 1024;
  const int64_t chunk = max_of(48, kChunkBytes / int64_t(sizeof(C)) / max_of(a.K, 1));
  const C* bias = static_cast<const C*>(a.bias);
  C* out = static_cast<C*>(a.out);
  const Product<C, G> product{static_cast<const C*>(a.weight), a.K, static_cast<const C*>(a.x),
                              a.x_row, false};
  for (int64_t first = r0; first < r1; first += chunk) {
    product.run(first, min_of(r1, first + chunk), 0, ceil_div(a.H, W),
                [&](int64_t row, int64_t u, V* sums) {
                  const int count = int(min_of(W, a.H - u * W));
                  for (int g = 0; g < G; ++g) {
                    if (bias) sums[g] += load(bias + (u * G + g) * W);
                    store(out + row * a.out_row + g * a.H + u * W, sums[g], count);
                  }
                });
  }
}

// Four columns' groups at a time where they can be had, as an LSTM's gates are.
template <class C>
void linear(const LinearArgs& a, int64_t r0, int64_t r1) {
  if (a.G == 4)
    linear_rows<C, 4>(a, r0, r1);
  else if (a.G == 3)
    linear_rows<C, 3>(a, r0, r1);
  else
    linear_rows<C, 1>(a, r0, r1);
}

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
