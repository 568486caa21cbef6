// out[row][m] = sum_k x[row][k] * w[m][k] + bias[m]: the input product of all time steps, and
// its gradient by the input, by the tiles of the recurrent one.
//
// Bound: 2 S M K operations. Rows go by chunks that stay in the second-level cache while every
// block of weights passes over them once.
#pragma once

#include "product.h"
#include "types.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <class C>
void linear(const LinearArgs& a, int64_t r0, int64_t r1) {
  constexpr int W = kLanes<C>;
  constexpr int64_t kChunkBytes = 256 * 1024;
  const int64_t chunk = max_of(48, kChunkBytes / int64_t(sizeof(C)) / max_of(a.K, 1));
  const C* bias = static_cast<const C*>(a.bias);
  C* out = static_cast<C*>(a.out);
  const Product<C, 1> product{static_cast<const C*>(a.weight), a.K, static_cast<const C*>(a.x),
                              a.x_row, false};
  for (int64_t first = r0; first < r1; first += chunk) {
    product.run(first, min_of(r1, first + chunk), 0, ceil_div(a.M, W),
                [&](int64_t row, int64_t u, Vec<C>* sums) {
                  if (bias) sums[0] += load(bias + u * W);
                  store(out + row * a.out_row + u * W, sums[0], int(min_of(W, a.M - u * W)));
                });
  }
}

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
