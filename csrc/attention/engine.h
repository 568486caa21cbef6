// The kernels of each score and dtype, for the table of an instruction set. A score is a struct
// template over the storage type S:
//   Score(args, arena, backward): takes its memory from the arena;
//   set_head(args, b, h); set_queries(block, backward); set_keys(block, backward): what
//   follows is about these;
//   scores(queries, keys, s): s[queries][kKeys], without the scale;
//   backward(queries, keys, ds, dq, dq_step, dk): adds to sums of the queries and the keys;
//   backward_of(r, first, last, ds, dq, dk): the same for one query and the keys it sees, where
//   a tile holds numbers that are not finite;
//   finish(row): makes a gradient of such a sum's row;
//   kScoresOfFew, scores_of_few(queries, keys, s): whether it can do without packing, and that;
//   grad_vector(to): adds what the last `backward` brings the vector.
#pragma once

#include "mask_gradient.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <template <class> class Score, class S>
constexpr AttentionKernel attention_kernel() {
  using F = AttentionForward<Score, S>;
  using B = AttentionBackward<Score, S>;
  using M = MaskGradient<Score, S>;
  return {{&F::count, &F::scratch, &F::run},
          {&B::count, &B::scratch, &B::run},
          {&B::finish_count, &B::finish_scratch, &B::finish},
          {&M::count, &M::scratch, &M::run},
          &B::partial_row};
}

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
