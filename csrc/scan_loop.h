// What the time loops of both directions share: where rows lie, memory, a thread's slice, and what
// options make of a state.
//
// A thread works on a Slice: some recurrences, batch rows and blocks of units. Where
// threads share rows and split units, h (forward) or the gates' gradients (backward)
// are exchanged through a double buffer with one barrier a step.
#pragma once

#include "clips.h"
#include "math.h"
#include "product.h"
#include "row.h"
#include "types.h"

// After math.h: cells use its functions.
#include "cells/cells.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <class S>
inline S* at(const Rows& rows, int64_t row, int64_t n) {
  return static_cast<S*>(rows.data) + row * rows.row + n * rows.n;
}
template <class S>
inline S* at(const States& states, int64_t b, int64_t n) {
  return static_cast<S*>(states.data) + b * states.b + n * states.n;
}

// Steps in the order in which a recurrence meets them.
struct Steps {
  const ScanArgs& a;
  bool reverse;
  int64_t time(int64_t p) const { return reverse ? a.T - 1 - p : p; }
  // Sequences present at the p-th step met; none before the first and after the last.
  int64_t active(int64_t p) const { return p < 0 || p >= a.T ? 0 : a.active[time(p)]; }
};

// Rows of numbers in the type of accumulation, each row a whole number of vectors.
template <class C>
struct Buffer {
  C* data = nullptr;
  int64_t ld = 0;
  C* row(int64_t r) const { return data + r * ld; }
};

// Rows that enter a product: as they are summed, and again as the product reads them where that
// is narrower, or in terms.
template <class C, class F>
struct Operand : Buffer<C> {
  Buffer<F> narrow;
  static constexpr bool kNarrow = !kSame<F, C>;

  const F* factors() const {
    if constexpr (kNarrow)
      return narrow.data;
    else
      return this->data;
  }
  int64_t factors_ld() const { return kNarrow ? narrow.ld : this->ld; }
  void put(int64_t r, int64_t column, Vec<C> v, int lanes) const {
    store(this->row(r) + column, v, lanes);
    if constexpr (kNarrow) put_factors(narrow.row(r), narrow.ld, column, v, lanes);
  }
  // The same for a row that was written otherwise.
  void narrow_row(int64_t r, int64_t width) const {
    if constexpr (kNarrow) {
      put_row(narrow.row(r), narrow.ld, this->row(r), width);
      end_row(r, width);
    }
  }
  // The other half of an odd row's last pair; it is never written again.
  void end_row(int64_t r, int64_t width) const {
    if constexpr (kNarrow) end_factors(narrow.row(r), narrow.ld, width);
  }
};

// Deals out scratch memory; with no memory, only counts it.
struct Arena {
  char* base;
  size_t used = 0;
  template <class C>
  Buffer<C> take(int64_t rows, int64_t width) {
    Buffer<C> buffer;
    buffer.ld = round_up(width, kLanes<C>);
    if (base) buffer.data = reinterpret_cast<C*>(base + used);
    used += size_t(round_up(rows * buffer.ld * int64_t(sizeof(C)), 64));
    return buffer;
  }
  template <class C, class F>
  Operand<C, F> take_operand(int64_t rows, int64_t width) {
    Operand<C, F> operand;
    static_cast<Buffer<C>&>(operand) = take<C>(rows, width);
    if constexpr (Operand<C, F>::kNarrow) operand.narrow = take<F>(rows, width + 1);
    return operand;
  }
};

template <class C, class S>
inline void copy_row(C* to, const S* from, int64_t width) {
  constexpr int W = kLanes<C>;
  for (int64_t u = 0; u < width; u += W)
    store(to + u, load(from + u, int(min_of(W, width - u))), W);
}
template <class C, class S>
inline void write_row(S* to, const C* from, int64_t width) {
  constexpr int W = kLanes<C>;
  for (int64_t u = 0; u < width; u += W)
    store(to + u, load(from + u, W), int(min_of(W, width - u)));
}

// The same from a row that has no room past its end.
template <class C, class S>
inline void write_row_unpadded(S* to, const C* from, int64_t width) {
  constexpr int W = kLanes<C>;
  for (int64_t u = 0; u < width; u += W) {
    const int lanes = int(min_of(W, width - u));
    store(to + u, load(from + u, lanes), lanes);
  }
}

// What both directions in time share: the slice, and how many units a block really has.
template <class Cell, class S>
struct Loop {
  using C = typename Wide<S>::type;
  using V = Vec<C>;
  using F = Factor<S>;
  using Operands = Operand<C, F>;
  static constexpr int W = kLanes<C>;
  static constexpr int G = Cell::kGates;
  static constexpr int X = Cell::kExtra;
  static constexpr int M = Cell::kParams;
  static constexpr int G2 = Cell::kSecond, G1 = G - G2;  // gates of the second and of the first product
  // Arrays of no elements are not C++.
  static constexpr int kExtraSlots = X ? X : 1, kSavedSlots = Cell::kSaved ? Cell::kSaved : 1,
                       kParamSlots = M ? M : 1;

  const ScanArgs& a;
  const Slice& slice;

  int lanes(int64_t u, int64_t width) const { return int(min_of(W, width - u * W)); }
  int64_t blocks_of(int64_t width) const { return ceil_div(width, W); }
  void join() const {
    if (slice.barrier) wait(slice.barrier, slice.member);
  }
  // The parameters of a block of units.
  void load_params(int64_t n, int64_t u, V* p) const {
    if constexpr (M > 0)
      for (int m = 0; m < M; ++m) p[m] = param(static_cast<const C*>(a.params[n]), M, m, u * W);
  }
  // Calls f(b) for whole rows [r0, r1), dealt out among the threads that share them.
  template <class F>
  void whole_rows(int64_t r0, int64_t r1, F&& f) const {
    for (int64_t b = r0 + slice.member; b < r1; b += slice.members) f(b);
  }
  // Where the b-th longest sequence lies in the batch, and its row at the p-th step met.
  int64_t column(int64_t b) const { return a.columns ? a.columns[b] : b; }
  int64_t row(const Steps& steps, int64_t p, int64_t b) const {
    return a.starts[steps.time(p)] + column(b);
  }
  bool is_reset(int64_t row, int64_t n) const {
    return a.reset.data && *at<uint8_t>(a.reset, row, n);
  }
  // What the i-th state of a sequence is reset to, units from u*W.
  V reset_value(int i, int64_t row, int64_t b, int64_t n, int64_t u, int count) const {
    if (a.reset_to == ResetTo::kZero) return V{};
    const S* from = a.reset_to == ResetTo::kInitial ? at<S>(a.states[i], column(b), n)
                                                    : at<S>(a.reset_states[i], row, n);
    return load(from + u * W, count);
  }
  // The part of the i-th state that zoneout keeps.
  V kept(int i, int64_t row, int64_t n, int64_t u, int count) const {
    if (!a.zoneout[i].data) return broadcast(C(a.zoneout_p[i]));
    const uint8_t* mask = at<uint8_t>(a.zoneout[i], row, n) + u * W;
    C part[W] = {};
    for (int lane = 0; lane < count; ++lane) part[lane] = C(mask[lane] != 0);
    return load(part);
  }
  // Whether a step's own numbers are bounded; then what was kept of it ends in the marks of units,
  // and where the projection is bounded, in those of its results.
  bool clipped() const { return a.gate_clip > 0 || a.cell_clip > 0; }
  int64_t marks_at() const {
    return (Cell::kSaved + (a.zoned ? X + !a.projected : 0)) * a.H;
  }
  int64_t proj_marks_at() const { return marks_at() + (clipped() ? a.H : 0); }
  int64_t kept_width() const {
    return proj_marks_at() + (a.projected && a.proj_clip > 0 ? a.K : 0);
  }
  Clipping<C> bounds(V marks = V{}) const { return {C(a.gate_clip), C(a.cell_clip), marks}; }
  // Calls f(b) for the rows [r0, r1) of which this thread has written a step's states: their
  // blocks of units from own_from() to own_to().
  template <class F>
  void own(int64_t r0, int64_t r1, F&& f) const {
    if constexpr (Cell::kWholeRow)
      whole_rows(r0, r1, f);
    else
      for (int64_t b = r0; b < r1; ++b) f(b);
  }
  int64_t own_from() const { return Cell::kWholeRow ? 0 : slice.u0; }
  int64_t own_to(int64_t width) const {
    return Cell::kWholeRow || a.projected ? blocks_of(width) : slice.u1;
  }
  // Zeros where a sequence has ended, [rows, N, width].
  template <class Number = S>
  void clear_ends(const Rows& rows, int64_t n, int64_t width) const {
    if (!rows.data || !a.columns || slice.u0 != 0) return;
    for (int64_t t = 0; t < a.T; ++t)
      for (int64_t b = max_of(slice.b0, a.active[t]); b < slice.b1; ++b) {
        Number* to = at<Number>(rows, a.starts[t] + column(b), n);
        for (int64_t u = 0; u < width; u += W) store(to + u, V{}, int(min_of(W, width - u)));
      }
  }
  // The part of rows [from, to) that is this thread's.
  int64_t first_row(int64_t from) const { return max_of(from, slice.b0); }
  int64_t last_row(int64_t to) const { return min_of(to, slice.b1); }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
