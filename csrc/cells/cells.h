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
#pragma once

#include "gru.h"
#include "lstm.h"
#include "rnn.h"
