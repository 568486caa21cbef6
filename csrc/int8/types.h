// What the binding and each instruction set's kernels of int8 weights agree on. Plain data only, as
// in ../types.h.
//
// A matrix [G*U, K] of int8 numbers, each row with a scale of its own, lies as
//   packed[block of 16 units][k / 4][gate][unit][k % 4], a byte 128 + number,
// k padded to a multiple of 16. One layout for all instruction sets: what a module keeps is what the
// kernels read.
#pragma once

#include "../types.h"

namespace fastrnn {

constexpr int64_t kUnitsOfBlock = 16, kDepthStep = 16;
// Sums of 65,536 products of a byte with a number up to 127 fit 32 bits.
constexpr int64_t kMostDepth = int64_t(1) << 16;

struct Int8Matrix {
  const uint8_t* packed = nullptr;
  const float* scales = nullptr;  // [G*U]
};

// Of one recurrence: [G*H, I], [G*H, K], [P, H]; biases [G*H] or nullptr.
struct Int8Weights {
  Int8Matrix ih, hh, hr;
  const float *bias_ih = nullptr, *bias_hh = nullptr;
};

// A layer; of the scan's fields those that a plain float32 forward reads, but the weights and gates_x.
struct Int8Args : ScanArgs {
  int64_t I = 0;
  const float* x = nullptr;  // [S, I], contiguous
  const Int8Weights* weights = nullptr;  // [N]
};

struct Int8Kernel {
  void (*entry)(const Int8Args&, const Slice&, char* own);
  size_t (*shared_bytes)(const Int8Args&);  // ScanArgs::scratch
  size_t (*own_bytes)(const Int8Args&);     // of each thread
};

struct Int8Table {
  Int8Kernel lstm, gru, rnn_tanh, rnn_relu;
};

}  // namespace fastrnn
