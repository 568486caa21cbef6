// All cells. A cell is a struct of static members on vectors of units, V:
//   kGates, kExtra (states beside h), kSaved (vectors kept for the backward, the new
//   extra states last), kApart (a gate keeps its two sides apart), kReadsH (h_{t-1} is
//   used outside the recurrent product; such a cell cannot be projected), kReadsOut
//   (the backward wants h_t).
//   forward(x, a, h_prev, s, h, saved): x and a are the input and the recurrent side
//   of the pre-activations; s holds the extra states, replaced by the new ones.
//   backward(saved, h, h_prev, s_prev, dh, ds, dx, da, dh_prev): ds holds the extra
//   states' gradients, replaced by those of the previous step; dx and da receive the
//   pre-activations' gradients (da only where kApart); dh_prev the direct part of
//   h_{t-1}'s (only where kReadsH).
//   Both get as a last argument the bounds of what happens in a step (clips.h), and set them:
//   gate(g, x) of a pre-activation, cell(c) of the cell state, and in the backward
//   gate_gradient(g, dx) and cell_gradient(dc) of what has arrived there.
// Beyond the defaults below:
//   kParams: numbers a unit beside weights and biases, as peepholes, in the order of the
//   CellSpec's params and each of them gate by gate. forward gets them as a last argument p;
//   backward as p and then dp, to which it adds their gradients.
//   kRecurrent = false: no recurrent product; a is the recurrent bias alone.
//   kWholeRow: a unit's result depends on its row, as with layer normalisation. forward and
//   backward get a whole row of one sequence (row.h) in place of vectors of units.
//   kSecond: of so many gates, the last, the recurrent product is of an operand that the others
//   make. first(x, a, h_in, saved, operand) comes before that product, second(x, a, h_prev,
//   saved, h) after it; saved stays from one to the other, and h_in is h_prev as it enters the
//   products, after dropout. backward_second(saved, h_prev, dh, dx) writes the last gates' dx,
//   backward_first(saved, h_prev, h_in, dh, doperand, dx, dh_prev, dh_in, operand) the others',
//   the gradients of both, and once more the operand.
#pragma once

#include "../clips.h"

namespace fastrnn {
namespace FASTRNN_ISA {

struct CellDefaults {
  static constexpr int kParams = 0, kSecond = 0;
  static constexpr bool kRecurrent = true, kWholeRow = false;
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn

#include "coupled.h"
#include "gru.h"
#include "gru_reset_before.h"
#include "indrnn.h"
#include "layer_norm.h"
#include "light_gru.h"
#include "lstm.h"
#include "minimal.h"
#include "peephole.h"
#include "rnn.h"
#include "slstm.h"
