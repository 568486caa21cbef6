// What the bindings and the attention kernels of each instruction set agree on. Plain data
// only, as in ../types.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastrnn {

// [B, H, T, X]: X contiguous, strides in elements. data == nullptr means "not there".
struct Heads {
  void* data = nullptr;
  int64_t b = 0, h = 0, t = 0;
};

// [B, H, Tq]: a number a query, strides in elements.
struct PerQuery {
  void* data = nullptr;
  int64_t b = 0, h = 0, t = 0;
};

enum class MaskKind : int { kNone = 0, kBool = 1, kNumbers = 2 };

// [B, H, Tq, Tk], broadcast by strides of zero; the last stride is 0 or 1.
struct Mask {
  void* data = nullptr;
  MaskKind kind = MaskKind::kNone;
  int64_t b = 0, h = 0, q = 0, k = 0;
};

// What is returned beside the output, [B, H, Tq, Tk].
enum class Extra : int { kNone = 0, kWeights = 1, kLogProbabilities = 2 };

// One call, forward or backward. Letters as in fastrnn/reference_attention.py; numbers a query
// (lse, centre, width, ...) are in the type of accumulation, tensors in that of storage.
struct AttentionArgs {
  int64_t B = 0, H = 0, Hk = 0, Tq = 0, Tk = 0, E = 0, Ev = 0;
  Heads query, key, value, out;
  Heads vector;  // [B, H, E], t unused
  Mask mask;
  PerQuery first, last;  // int32
  PerQuery centre, width, lse;
  uint64_t seed = 0;
  int64_t drawn_heads = 1;  // heads are numbered modulo this for it
  uint64_t threshold = 0;  // random bits below it drop a weight
  double keep_scale = 1;   // what kept weights are multiplied with
  double scale = 1, softcap = 0;
  Extra extra = Extra::kNone;
  Heads found;  // what `extra` asks for

  // Backward only.
  Heads grad_out, grad_found;
  PerQuery grad_row;  // what is added to the gradient of each score of a query, times its weight
  Heads grad_query, grad_key, grad_value;
  PerQuery grad_centre, grad_width;
  // [B, Hk, slices, H / Hk, Tq, partial row]: each slice of the keys has its own sum of the
  // queries' gradients, so that no two tasks add to one number. Of a single slice the task keeps it.
  void* partial = nullptr;
  int64_t slices = 1;
  void* grad_vector = nullptr;  // [B, H, slices, E], type of accumulation
  void* grad_mask = nullptr;    // [mask's own sizes], type of accumulation
  int64_t mask_B = 1, mask_H = 1, mask_Q = 1, mask_K = 1;
};

// The functions of one score and dtype. A task is independent of all others; `scratch` is its
// thread's, 64-byte aligned.
struct AttentionTasks {
  int64_t (*count)(const AttentionArgs&);
  size_t (*scratch)(const AttentionArgs&);
  void (*run)(const AttentionArgs&, int64_t task, char* scratch);
};

struct AttentionKernel {
  AttentionTasks forward, backward, finish, mask_gradient;
  // Numbers of a partial row.
  int64_t (*partial_row)(const AttentionArgs&);
};

enum ScoreId : int {
#define SCORE(name, type) k_score_##name,
#include "scores.def"
#undef SCORE
  kNumScores
};

// Kernels are one kind a dtype, in the order of DType, and three more: of float32 whose products take
// it in one, two or three terms of bfloat16 (terms.h), where that is faster; elsewhere float32's own.
constexpr int kAttentionKinds = 7;

// What an instruction set offers.
struct AttentionTable {
  AttentionKernel kernels[kNumScores][kAttentionKinds];
};

// All tasks, on so many threads. Which thread runs which task changes no bit.
void run_tasks(const AttentionArgs& args, const AttentionTasks& tasks, double operations,
               int threads);

}  // namespace fastrnn
