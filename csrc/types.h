// What the bindings, the dispatcher and the kernels of each instruction set agree on.
// Plain data only: this header is compiled with different machine flags, and nothing
// in it may become a function that the linker could take from the wrong object.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/types.h"

namespace fastrnn {

enum class DType : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

// [rows, N, X]: X contiguous, strides in elements. data == nullptr means "not wanted".
struct Rows {
  void* data = nullptr;
  int64_t row = 0;
  int64_t n = 0;
};

// [N, B, X]: X contiguous, strides in elements.
struct States {
  void* data = nullptr;
  int64_t b = 0;
  int64_t n = 0;
};

// A weight matrix [G*U, K] as the user has it: any strides.
struct Weight {
  const void* data = nullptr;
  int64_t row = 0;
  int64_t column = 0;
};

constexpr int kMaxStates = 4;

enum class ResetTo : int { kZero = 0, kInitial = 1, kGiven = 2 };

// One scan, forward or backward. Letters as in fastrnn/reference.py.
struct ScanArgs {
  int64_t T = 0, B = 0, N = 0, H = 0;
  int64_t K = 0;           // width of h: P with a projection, else H
  bool projected = false;
  bool save = false;       // forward: write reserve (and hidden)

  const int64_t* starts = nullptr;  // [T+1] first row of each step
  const int64_t* active = nullptr;  // [T] sequences that reach it, descending
  const uint8_t* reverse = nullptr; // [N]

  // Per recurrence, packed by the same instruction set's `pack`; a bias as a matrix of depth 1.
  const void* const* weight_hh = nullptr;
  const void* const* weight_second = nullptr;  // of the last gates, where their product is apart
  const void* const* weight_hr = nullptr;
  const void* const* bias_hh = nullptr;  // or nullptr
  const void* const* params = nullptr;   // as biases of kParams gates; where the cell has any

  // Hidden: what enters the last product, h before the projection or a second product's operand.
  Rows gates_x, out, reserve, hidden;
  States states[kMaxStates], finals[kMaxStates];

  // What is asked for beside (fastrnn/options.py); none of it unless `options`.
  bool options = false;
  const int64_t* columns = nullptr;  // [B] where the b-th longest sequence lies; nullptr: at b
  Rows reset;                        // bytes [S, N, 1]
  ResetTo reset_to = ResetTo::kZero;
  Rows reset_states[kMaxStates];
  States dropout;                    // of h before the product
  bool zoned = false;
  Rows zoneout[kMaxStates];          // bytes; or else the part that is kept:
  double zoneout_p[kMaxStates] = {};
  double gate_clip = 0, cell_clip = 0, proj_clip = 0, grad_clip = 0;  // or 0; the last backward only
  Rows others[kMaxStates];           // the states beside h at each step; backward: their gradients

  // Backward only.
  Rows grad_resets[kMaxStates];
  Rows grad_out, dgates_x, dgates_h, dproj;
  States grad_finals[kMaxStates], grad_states[kMaxStates];
  States grad_params;  // [N, B, kParams*H], in the type of accumulation: of each sequence

  char* scratch = nullptr;  // scratch_bytes() of it, 64-byte aligned
};

// A spin barrier among the threads that share a recurrence's units (parallel.cpp).
struct Barrier;
void wait(Barrier* barrier, int member);

// A product of rows [S, K] with a matrix [M, K], packed.
struct LinearArgs {
  const void* x = nullptr;
  int64_t x_row = 0;
  const void* weight = nullptr;
  const void* bias = nullptr;  // packed as a matrix of depth 1, or nullptr
  void* out = nullptr;
  int64_t out_row = 0;
  int64_t M = 0, K = 0;
  char* scratch = nullptr;  // linear_scratch() bytes of the thread's own, where that is asked for
};

// One step of one recurrence, without a projection: weights [G*H, I] and [G*H, H], contiguous.
struct StepArgs {
  int64_t B = 0, I = 0, H = 0;
  const void* x = nullptr;  // [B, I], contiguous
  const void* weight_ih = nullptr;
  const void* weight_hh = nullptr;
  const void* bias_ih = nullptr;  // or nullptr, as bias_hh
  const void* bias_hh = nullptr;
  void* out = nullptr;
  int64_t out_row = 0;
  States states[kMaxStates], finals[kMaxStates];
};

// The sum over rows of the outer products of a [S, M] and b [S, K], in the type of both.
struct OuterArgs {
  const void* a = nullptr;
  int64_t a_row = 0;
  const void* const* b = nullptr;  // each of the S rows
  void* out = nullptr;             // [M, K]
  int64_t out_row = 0;
  void* sum = nullptr;             // [M], of a alone; or nullptr
  int64_t S = 0, M = 0, K = 0;
  bool more = false;  // to be added to what is in `out` and `sum`
};

// A recurrence's weights as torch has them, contiguous: [G*H, I], [G*H, K], [G*H], [G*H], [P, H].
struct LayerWeights {
  const void* ih = nullptr;
  const void* hh = nullptr;
  const void* bias_ih = nullptr;  // or nullptr, as the rest
  const void* bias_hh = nullptr;
  const void* hr = nullptr;
};

// A layer forwards, nothing saved: of `scan` all but the weights and the gates' input side.
struct LayerArgs {
  ScanArgs scan;
  int64_t I = 0;
  const void* x = nullptr;  // [S, I], contiguous
  const LayerWeights* weights = nullptr;  // [N]
  char* packed = nullptr;   // 64-byte aligned memory for them
};

// What it needs: for the packed weights, for each thread's chunk, and for the scan.
struct LayerBytes {
  size_t packed, chunk, scratch;
};

// What one thread does: recurrences, batch rows and blocks of units.
struct Slice {
  int64_t n0, n1, b0, b1, u0, u1;
  Barrier* barrier;  // nullptr where no other thread works on the same rows
  int member;        // this thread among those of the barrier,
  int members;       // of which there are so many
};

// The functions of one cell and dtype.
struct Kernel {
  void (*forward)(const ScanArgs&, const Slice&);
  void (*backward)(const ScanArgs&, const Slice&);
  // Blocks of units [u0, u1) of a single step; nullptr for cells beyond the defaults.
  void (*step)(const StepArgs&, int64_t u0, int64_t u1);
  // A part of a layer, whose weights were packed: all blocks of units [u0, u1) that it is about.
  void (*layer)(const LayerArgs&, const Slice&, char* chunk);
  void (*layer_pack)(const LayerArgs&, int64_t n, int64_t u0, int64_t u1);
  LayerBytes (*layer_bytes)(const LayerArgs&);
  size_t (*forward_scratch)(const ScanArgs&);
  size_t (*backward_scratch)(const ScanArgs&);
  int gates, states, saved, params, second;
  bool recurrent;
};

// The functions of one dtype that no cell changes.
struct Packing {
  // Units in a block, and bytes of a matrix of G gates, U units and depth K.
  int width;
  size_t (*bytes)(int64_t G, int64_t U, int64_t K);
  // packed[block][k][g][lane] = w[g*step_g + unit*step_u + k*step_k]; see product.h for pairs
  void (*pack)(const void* w, int64_t G, int64_t U, int64_t K, int64_t step_g, int64_t step_u,
               int64_t step_k, void* packed);
  // The same of biases, in the type of sums, with the bytes of a matrix of depth 1.
  void (*pack_biases)(const void* w, int64_t G, int64_t U, int64_t step_g, void* packed);
  // The products around the scan; nullptr for types stored narrower than they are summed.
  // Rows [r0, r1) of a product.
  void (*linear)(const LinearArgs&, int64_t r0, int64_t r1);
  // Rows [m0, m1) of a weight's gradient, with outer_scratch bytes of memory.
  void (*outer)(const OuterArgs&, int64_t m0, int64_t m1, char* scratch);
  size_t (*outer_scratch)(const OuterArgs&);
  size_t (*linear_scratch)(const LinearArgs&);  // nullptr: none
};

constexpr int kNumDTypes = 4;
// Kernels are one kind a dtype, and three more: of float32 whose products multiply one, two or three
// terms of bfloat16 (split.h), where that is faster; a set of instructions may lack them.
constexpr int kMostTerms = 3, kOneTerm = kNumDTypes, kNumKinds = kNumDTypes + kMostTerms;
// Bytes of a number of each kind.
constexpr int64_t kKindBytes[kNumKinds] = {4, 8, 2, 2, 4, 4, 4};

enum CellId : int {
#define CELL(name, type) k_##name,
#include "cells/cells.def"
#undef CELL
  kNumCells
};

// Everything an instruction set offers; a kind that it lacks has no functions.
struct Table {
  const char* name;
  Kernel kernels[kNumCells][kNumKinds];
  Packing packing[kNumKinds];
  const AttentionTable* attention;
};

// What replaces a table's kernels of bfloat16, and of float32 in terms of it, where a processor
// multiplies pairs of them.
struct PairsTable {
  Kernel kernels[kNumCells];
  Kernel in_terms[kNumCells][kMostTerms];  // without functions where a cell has none
  Packing packing, packing_in_terms[kMostTerms];
};

}  // namespace fastrnn
