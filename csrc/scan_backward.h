// The time loop backwards, over any cell and storage type.
#pragma once

#include "scan_loop.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <class Cell, class S>
struct Backward : Loop<Cell, S> {
  using Base = Loop<Cell, S>;
  using typename Base::C;
  using typename Base::V;
  using Base::a, Base::slice, Base::W, Base::G, Base::X, Base::M;

  struct Scratch {
    Buffer<C> dgates[2];  // recurrent side, as the rows of weight_hh
    Buffer<C> dh;         // what reaches h_{t-1} past the product; at first, h_n's gradient
    Buffer<C> dextra[Base::kExtraSlots];
    Buffer<C> dproj;  // h's gradient before the projection's product
    Buffer<C> dparams;  // the parameters', summed over the steps: M rows a sequence
    Buffer<C> rows;     // what a cell that needs whole rows gets: those below
    Buffer<C> dsecond;  // the gates' of a second product
    Buffer<C> past;     // what zoneout lets past a cell with a second product
    Buffer<C> dinitial[1 + Base::kExtraSlots];  // the initial states', by resets
  };
  // Of `rows`: dh, h_prev, the extra states before the step, the G gates' gradients, and what
  // zoneout lets past the cell of dh and the extra states' gradients.
  static constexpr int kRowOfH = 1, kRowOfStates = 2, kRowOfGates = 2 + Loop<Cell, S>::X,
                       kRowOfPast = kRowOfGates + Loop<Cell, S>::G,
                       kRows = kRowOfPast + 1 + Loop<Cell, S>::X;

  static Scratch scratch(const ScanArgs& a, Arena& arena) {
    Scratch s;
    for (auto& dgates : s.dgates) dgates = arena.take<C>(a.B, Base::G1 * a.H);
    if (Cell::kSecond) s.dsecond = arena.take<C>(a.B, Base::G2 * a.H);
    if (Cell::kSecond && a.zoned) s.past = arena.take<C>(a.B, a.H);
    s.dh = arena.take<C>(a.B, a.K);
    for (int x = 0; x < X; ++x) s.dextra[x] = arena.take<C>(a.B, a.H);
    if (a.projected) s.dproj = arena.take<C>(a.B, a.K);
    if (M > 0) s.dparams = arena.take<C>(a.B * M, a.H);
    if (Cell::kWholeRow) s.rows = arena.take<C>(a.B * kRows, a.H);
    if (a.reset.data && a.reset_to == ResetTo::kInitial)
      for (int i = 0; i <= X; ++i) s.dinitial[i] = arena.take<C>(a.B, i ? a.H : a.K);
    return s;
  }

  static size_t bytes(const ScanArgs& a) {
    Arena arena{nullptr};
    scratch(a, arena);
    return arena.used * size_t(a.N);
  }

  static void entry(const ScanArgs& a, const Slice& slice) {
    Arena arena{a.scratch};
    Arena counter{nullptr};
    scratch(a, counter);
    arena.used = counter.used * size_t(slice.n0);
    for (int64_t n = slice.n0; n < slice.n1; ++n) {
      const Scratch s = scratch(a, arena);
      Backward{{a, slice}}.run(n, s);
    }
  }

  void run(int64_t n, const Scratch& s) const {
    const Steps steps{a, a.reverse[n] != 0};
    if (slice.u0 == 0) {
      for (int64_t b = slice.b0; b < slice.b1; ++b) {
        copy_row(s.dh.row(b), at<S>(a.grad_finals[0], this->column(b), n), a.K);
        for (int x = 0; x < X; ++x)
          copy_row(s.dextra[x].row(b), at<S>(a.grad_finals[1 + x], this->column(b), n), a.H);
        for (int64_t m = 0; m < M; ++m)
          for (int64_t u = 0; u < s.dparams.ld; u += W) store(s.dparams.row(b * M + m) + u, V{});
        for (const auto& sum : s.dinitial)
          for (int64_t u = 0; u < sum.ld; u += W) store(sum.row(b) + u, V{});
        // A sequence of no steps: its final state is its initial one.
        if (b >= steps.active(0) && b >= steps.active(a.T - 1)) {
          write_row(at<S>(a.grad_states[0], this->column(b), n), s.dh.row(b), a.K);
          for (int x = 0; x < X; ++x)
            write_row(at<S>(a.grad_states[1 + x], this->column(b), n), s.dextra[x].row(b), a.H);
        }
      }
    }
    this->join();
    this->clear_ends(a.dgates_x, n, G * a.H);
    if constexpr (Cell::kApart) this->clear_ends(a.dgates_h, n, G * a.H);
    if (a.projected) this->clear_ends(a.dproj, n, a.K);
    if constexpr (Cell::kSecond > 0) this->clear_ends(a.hidden, n, a.H);
    // One step more than there are: the last leads to the initial states.
    for (int64_t p = a.T - 1; p >= -1; --p) {
      step(n, s, steps, p);
      this->join();
    }
    if (M > 0 && slice.u0 == 0)
      for (int64_t b = slice.b0; b < slice.b1; ++b)
        for (int64_t m = 0; m < M; ++m)
          write_row(at<C>(a.grad_params, this->column(b), n) + m * a.H, s.dparams.row(b * M + m), a.H);
  }

  // The p-th step met. Of the sequences at the step met after it (they bring gradients
  // to multiply) some were not yet there at this one, so it is their initial state
  // they lead to; others end here, and have nothing to multiply.
  void step(int64_t n, const Scratch& s, const Steps& steps, int64_t p) const {
    const int64_t here = steps.active(p), later = steps.active(p + 1);
    const int64_t both = min_of(here, later);
    const Buffer<C>& dgates = s.dgates[(p + 1) & 1];
    const Product<C, 1> product{Cell::kRecurrent ? static_cast<const C*>(a.weight_hh[n]) : nullptr,
                                Base::G1 * a.H, dgates.data, dgates.ld, (p & 1) != 0};
    const int64_t u0 = slice.u0, u1 = a.projected ? this->blocks_of(a.K) : slice.u1;

    auto initial = [&](int64_t b, int64_t u, V* sums) {
      V dh = arriving(n, s, steps, p, b, u, sums[0]);
      if (s.dinitial[0].data) dh += load(s.dinitial[0].row(b) + u * W);
      store(at<S>(a.grad_states[0], this->column(b), n) + u * W, dh, this->lanes(u, a.K));
      if (!a.projected) initial_extra(n, s, b, u);
    };
    multiply(product, this->first_row(here), this->last_row(later), u0, u1, initial);

    if (a.projected) {
      for (int64_t b = this->first_row(here); b < this->last_row(later); ++b)
        for (int64_t u = 0; u < this->blocks_of(a.H); ++u) initial_extra(n, s, b, u);
      if (p < 0) return;
      const int64_t row = a.starts[steps.time(p)];
      auto arrive = [&](int64_t b, int64_t u, V* sums) {
        const int count = this->lanes(u, a.K);
        V dh = arriving(n, s, steps, p, b, u, sums[0]) +
               load(at<S>(a.grad_out, row + this->column(b), n) + u * W, count);
        V past{};
        if (a.zoned) {
          past = dh * this->kept(0, row + this->column(b), n, u, count);
          dh -= past;
        }
        if (a.proj_clip > 0)
          dh = Clipping<C>{0, 0, load(at<C>(a.reserve, row + this->column(b), n) +
                                          this->proj_marks_at() + u * W, count)}
                   .gate_gradient(0, dh);
        store(s.dh.row(b) + u * W, past);
        store(s.dproj.row(b) + u * W, dh);
        store(at<S>(a.dproj, row + this->column(b), n) + u * W, dh, count);
      };
      product.run(this->first_row(0), this->last_row(both), u0, u1, arrive);
      without_product(this->first_row(later), this->last_row(here), u0, u1, arrive);
      const Product<C, 1> project{static_cast<const C*>(a.weight_hr[n]), a.K, s.dproj.data,
                                  s.dproj.ld, (p & 1) != 0};
      project.run(this->first_row(0), this->last_row(here), 0, this->blocks_of(a.H),
                  [&](int64_t b, int64_t u, V* sums) {
        if constexpr (!Cell::kWholeRow && !Cell::kSecond) cell(n, s, steps, p, b, u, sums[0]);
      });
      return;
    }
    if (p < 0) return;
    const int64_t row = a.starts[steps.time(p)];
    auto arrive = [&](int64_t b, int64_t u, V* sums) {
      const V dh = arriving(n, s, steps, p, b, u, sums[0]) +
                   load(at<S>(a.grad_out, row + this->column(b), n) + u * W, this->lanes(u, a.K));
      if constexpr (Cell::kWholeRow)
        store(s.rows.row(b * kRows) + u * W, dh);
      else if constexpr (Cell::kSecond > 0)
        after_second(n, s, steps, p, b, u, dh);
      else
        cell(n, s, steps, p, b, u, dh);
    };
    multiply(product, this->first_row(0), this->last_row(both), u0, u1, arrive);
    without_product(this->first_row(later), this->last_row(here), u0, u1, arrive);
    if constexpr (Cell::kWholeRow) {
      this->join();
      this->whole_rows(slice.b0, this->last_row(here),
                       [&](int64_t b) { whole_row(n, s, steps, p, b); });
    }
    if constexpr (Cell::kSecond > 0) {
      this->join();
      const Product<C, 1> second{static_cast<const C*>(a.weight_second[n]), Base::G2 * a.H,
                                 s.dsecond.data, s.dsecond.ld, (p & 1) != 0};
      second.run(this->first_row(0), this->last_row(here), u0, u1,
                 [&](int64_t b, int64_t u, V* sums) { before_second(n, s, steps, p, b, u, sums[0]); });
    }
  }

  // What the step met after the p-th brings to h's gradient, past and through its product.
  V arriving(int64_t n, const Scratch& s, const Steps& steps, int64_t p, int64_t b, int64_t u,
             V through) const {
    const V past = load(s.dh.row(b) + u * W);
    if (!a.options) return through + past;
    const int count = this->lanes(u, a.K);
    if (a.dropout.data)
      through = through * load(at<S>(a.dropout, this->column(b), n) + u * W, count);
    const V dh = through + past;
    if (b >= steps.active(p + 1)) return dh;
    const int64_t next = this->row(steps, p + 1, b);
    if (!this->is_reset(next, n)) return dh;
    give(s, 0, next, b, n, u, count, dh);
    return V{};
  }

  // A gradient of the i-th state before a step goes to what it was reset to.
  void give(const Scratch& s, int i, int64_t row, int64_t b, int64_t n, int64_t u, int count,
            V grad) const {
    if (a.reset_to == ResetTo::kInitial) {
      C* sum = s.dinitial[i].row(b) + u * W;
      store(sum, load(sum) + grad);
    } else if (a.reset_to == ResetTo::kGiven) {
      store(at<S>(a.grad_resets[i], row, n) + u * W, grad, count);
    }
  }

  // What a cell with a second product kept of a step, and the h before it.
  V load_step(int64_t n, const Steps& steps, int64_t p, int64_t b, int64_t u, V* saved) const {
    const int count = this->lanes(u, a.H);
    const int64_t row = this->row(steps, p, b), unit = u * W;
    const C* kept = at<C>(a.reserve, row, n) + unit;
    for (int i = 0; i < Cell::kSaved; ++i) saved[i] = load(kept + i * a.H, count);
    if (this->is_reset(row, n)) return this->reset_value(0, row, b, n, u, count);
    if (b >= steps.active(p - 1)) return load(at<S>(a.states[0], this->column(b), n) + unit, count);
    return load(at<S>(a.out, this->row(steps, p - 1, b), n) + unit, count);
  }

  // Backward of what comes after the second product: h's gradient waits until before_second.
  void after_second(int64_t n, const Scratch& s, const Steps& steps, int64_t p, int64_t b,
                    int64_t u, V dh) const {
    const int count = this->lanes(u, a.H);
    const int64_t unit = u * W;
    V saved[Base::kSavedSlots], dx[G];
    const V h_prev = load_step(n, steps, p, b, u, saved);
    const int64_t row = this->row(steps, p, b);
    if (a.zoned) {
      const V past = dh * this->kept(0, row, n, u, count);
      store(s.past.row(b) + unit, past);
      dh -= past;
    }
    if (this->clipped())
      Cell::backward_second(saved, h_prev, dh, dx, marked(n, row, u, count));
    else
      Cell::backward_second(saved, h_prev, dh, dx);
    limit_gradients(dx + Base::G1, Base::G2);
    store(s.dh.row(b) + unit, dh);
    S* dx_row = at<S>(a.dgates_x, row, n) + unit;
    for (int g = Base::G1; g < G; ++g) {
      store(dx_row + g * a.H, dx[g], count);
      store(s.dsecond.row(b) + (g - Base::G1) * a.H + unit, dx[g], count);
    }
  }

  void before_second(int64_t n, const Scratch& s, const Steps& steps, int64_t p, int64_t b,
                     int64_t u, V doperand) const {
    const int count = this->lanes(u, a.H);
    const int64_t unit = u * W, row = this->row(steps, p, b);
    V saved[Base::kSavedSlots], dx[G], dh_prev{}, dh_in{}, operand{}, mask{};
    const V h_prev = load_step(n, steps, p, b, u, saved);
    mask += 1;
    if (a.dropout.data) mask = load(at<S>(a.dropout, this->column(b), n) + unit, count);
    const V h_in = h_prev * mask, dh = load(s.dh.row(b) + unit);
    if (this->clipped())
      Cell::backward_first(saved, h_prev, h_in, dh, doperand, dx, dh_prev, dh_in, operand,
                           marked(n, row, u, count));
    else
      Cell::backward_first(saved, h_prev, h_in, dh, doperand, dx, dh_prev, dh_in, operand);
    dh_prev += dh_in * mask;
    limit_gradients(dx, Base::G1);
    if (a.zoned) dh_prev += load(s.past.row(b) + unit);
    for (int g = 0; g < Base::G1; ++g) {
      store(at<S>(a.dgates_x, row, n) + g * a.H + unit, dx[g], count);
      store(s.dgates[p & 1].row(b) + g * a.H + unit, dx[g], count);
    }
    store(s.dh.row(b) + unit, dh_prev);
    store(at<S>(a.hidden, row, n) + unit, operand, count);
  }

  template <class Epilogue>
  void multiply(const Product<C, 1>& product, int64_t r0, int64_t r1, int64_t u0, int64_t u1,
                Epilogue&& epilogue) const {
    if constexpr (Cell::kRecurrent)
      product.run(r0, r1, u0, u1, epilogue);
    else
      without_product(r0, r1, u0, u1, epilogue);
  }

  template <class Epilogue>
  void without_product(int64_t r0, int64_t r1, int64_t u0, int64_t u1, Epilogue&& epilogue) const {
    V zero{};
    for (int64_t b = r0; b < r1; ++b)
      for (int64_t u = u0; u < u1; ++u) epilogue(b, u, &zero);
  }

  void initial_extra(int64_t n, const Scratch& s, int64_t b, int64_t u) const {
    for (int x = 0; x < X; ++x) {
      V grad = load(s.dextra[x].row(b) + u * W);
      if (s.dinitial[1 + x].data) grad += load(s.dinitial[1 + x].row(b) + u * W);
      store(at<S>(a.grad_states[1 + x], this->column(b), n) + u * W, grad, this->lanes(u, a.H));
    }
  }

  // One cell's backward for one row and block of units, given h's whole gradient.
  __attribute__((noinline)) void cell(int64_t n, const Scratch& s, const Steps& steps, int64_t p,
                                      int64_t b, int64_t u, V dh) const {
    const int64_t H = a.H, unit = u * W;
    const int count = this->lanes(u, H);
    const int64_t row = this->row(steps, p, b);
    const bool first = b >= steps.active(p - 1);
    const int64_t before = first ? 0 : this->row(steps, p - 1, b);

    V saved[Base::kSavedSlots], s_prev[Base::kExtraSlots], ds[Base::kExtraSlots], dx[G], da[G];
    V h{}, h_prev{}, dh_prev{}, past{}, past_extra[Base::kExtraSlots] = {};
    const C* kept = at<C>(a.reserve, row, n) + unit;
    for (int i = 0; i < Cell::kSaved; ++i) saved[i] = load(kept + i * H, count);
    const bool reset = this->is_reset(row, n);
    for (int x = 0; x < X; ++x) {
      if (reset)
        s_prev[x] = this->reset_value(1 + x, row, b, n, u, count);
      else if (first)
        s_prev[x] = load(at<S>(a.states[1 + x], this->column(b), n) + unit, count);
      else
        s_prev[x] = load(at<C>(a.reserve, before, n) + kept_state(x) * H + unit, count);
      ds[x] = load(s.dextra[x].row(b) + unit);
      if (a.others[x].data) ds[x] += load(at<S>(a.others[x], row, n) + unit, count);
      if (a.zoned) {
        past_extra[x] = ds[x] * this->kept(1 + x, row, n, u, count);
        ds[x] -= past_extra[x];
      }
    }
    if (a.zoned && !a.projected) {
      past = dh * this->kept(0, row, n, u, count);
      dh -= past;
    }
    if constexpr (Cell::kReadsOut)
      h = a.zoned && !a.projected
              ? load(kept + (Cell::kSaved + X) * H, count)
              : load(at<S>(a.projected ? a.hidden : a.out, row, n) + unit, count);
    if constexpr (Cell::kReadsH) {
      if (reset)
        h_prev = this->reset_value(0, row, b, n, u, count);
      else
        h_prev = load((first ? at<S>(a.states[0], this->column(b), n) : at<S>(a.out, before, n)) + unit,
                      count);
    }

    auto backward = [&](auto&& clips) {
      if constexpr (M > 0) {
        V of_cell[M], dparams[M];
        this->load_params(n, u, of_cell);
        for (int m = 0; m < M; ++m) dparams[m] = load(s.dparams.row(b * M + m) + unit);
        Cell::backward(saved, h, h_prev, s_prev, dh, ds, dx, da, dh_prev, of_cell, dparams, clips);
        for (int m = 0; m < M; ++m) store(s.dparams.row(b * M + m) + unit, dparams[m]);
      } else {
        Cell::backward(saved, h, h_prev, s_prev, dh, ds, dx, da, dh_prev, clips);
      }
    };
    if (this->clipped())
      backward(marked(n, row, u, count));
    else
      backward(Unclipped{});

    limit_gradients(dx, G);
    if constexpr (Cell::kApart) limit_gradients(da, G);
    S* dx_row = at<S>(a.dgates_x, row, n) + unit;
    C* exchange = s.dgates[p & 1].row(b) + unit;
    for (int g = 0; g < G; ++g) {
      const V recurrent = Cell::kApart ? da[g] : dx[g];
      store(dx_row + g * H, dx[g], count);
      store(exchange + g * H, recurrent, count);
      if constexpr (Cell::kApart)
        store(at<S>(a.dgates_h, row, n) + unit + g * H, recurrent, count);
    }
    for (int x = 0; x < X; ++x) {
      V grad = ds[x];
      if (a.options) grad += past_extra[x];
      if (reset) {
        give(s, 1 + x, row, b, n, u, count, grad);
        grad = V{};
      }
      store(s.dextra[x].row(b) + unit, grad);
    }
    if (!a.projected) store(s.dh.row(b) + unit, dh_prev + past);
  }

  void limit_gradients(V* gates, int count) const {
    if (!(a.grad_clip > 0)) return;
    for (int g = 0; g < count; ++g) gates[g] = limit(gates[g], broadcast(C(a.grad_clip)));
  }
  // The bounds of a block of units, and which of them the forward reached.
  Clipping<C> marked(int64_t n, int64_t row, int64_t u, int count) const {
    return this->bounds(load(at<C>(a.reserve, row, n) + this->marks_at() + u * W, count));
  }

  // Where the x-th state beside h lies in what was kept of a step, in vectors of H.
  int64_t kept_state(int x) const { return Cell::kSaved + (a.zoned ? 0 : -X) + x; }

  // The same for a whole row, whose h's gradient lies in `rows`.
  void whole_row(int64_t n, const Scratch& s, const Steps& steps, int64_t p, int64_t b) const {
    const int64_t H = a.H, row = this->row(steps, p, b);
    const bool first = b >= steps.active(p - 1);
    const int64_t before = first ? 0 : this->row(steps, p - 1, b);
    C* rows = s.rows.row(b * kRows);
    const int64_t ld = s.rows.ld;
    const C* kept = at<C>(a.reserve, row, n);
    C* h_prev = rows + kRowOfH * ld;
    if constexpr (Cell::kReadsH)
      copy_row(h_prev, first ? at<S>(a.states[0], this->column(b), n) : at<S>(a.out, before, n), H);
    const bool reset = this->is_reset(row, n);
    auto put_reset = [&](int i, C* to) {
      for (int64_t u = 0; u < this->blocks_of(H); ++u)
        store(to + u * W, this->reset_value(i, row, b, n, u, this->lanes(u, H)));
    };
    if (reset && Cell::kReadsH) put_reset(0, h_prev);
    RowBackward<C, S> r{H,      ld, kept, h_prev, {}, static_cast<const C*>(a.params[n]),
                        rows,   {}, rows + kRowOfGates * ld,
                        s.dgates[p & 1].row(b), s.dh.row(b), s.dparams.row(b * M)};
    for (int x = 0; x < X; ++x) {
      C* state = rows + (kRowOfStates + x) * ld;
      if (reset)
        put_reset(1 + x, state);
      else if (first)
        copy_row(state, at<S>(a.states[1 + x], this->column(b), n), H);
      else
        copy_row(state, at<C>(a.reserve, before, n) + kept_state(x) * H, H);
      r.s_prev[x] = state;
      r.ds[x] = s.dextra[x].row(b);
      if (a.others[x].data)
        for (int64_t u = 0; u < this->blocks_of(H); ++u)
          store(r.ds[x] + u * W, load(r.ds[x] + u * W) + load(at<S>(a.others[x], row, n) + u * W,
                                                              this->lanes(u, H)));
    }
    // Of the i-th state's gradient zoneout lets a part past the cell.
    auto split = [&](int i, C* grad, C* past) {
      for (int64_t u = 0; u < this->blocks_of(H); ++u) {
        const V all = load(grad + u * W);
        const V part = all * this->kept(i, row, n, u, this->lanes(u, H));
        store(past + u * W, part);
        store(grad + u * W, all - part);
      }
    };
    auto add = [&](C* to, const C* from) {
      for (int64_t u = 0; u < this->blocks_of(H); ++u)
        store(to + u * W, load(to + u * W) + load(from + u * W));
    };
    C* const past = rows + kRowOfPast * ld;
    if (a.zoned) {
      split(0, rows, past);
      for (int x = 0; x < X; ++x) split(1 + x, r.ds[x], past + (1 + x) * ld);
    }
    if (this->clipped())
      Cell::backward(r, RowClipping<C>{C(a.gate_clip), C(a.cell_clip), nullptr,
                                       kept + this->marks_at()});
    else
      Cell::backward(r);
    if (a.zoned) {
      add(r.dh_prev, past);
      for (int x = 0; x < X; ++x) add(r.ds[x], past + (1 + x) * ld);
    }
    if (a.grad_clip > 0) {
      for (int64_t i = 0; i < G * ld; i += W) {
        V grad = load(r.dx + i);
        limit_gradients(&grad, 1);
        store(r.dx + i, grad);
      }
      each_block<C>(G * H, [&](int64_t i, int lanes) {
        V grad = load(r.da + i, lanes);
        limit_gradients(&grad, 1);
        store(r.da + i, grad, lanes);
      });
    }
    if (reset)
      for (int x = 0; x < X; ++x)
        for (int64_t u = 0; u < this->blocks_of(H); ++u) {
          give(s, 1 + x, row, b, n, u, this->lanes(u, H), load(r.ds[x] + u * W));
          store(r.ds[x] + u * W, V{});
        }
    S* dx_row = at<S>(a.dgates_x, row, n);
    for (int g = 0; g < G; ++g) write_row(dx_row + g * H, r.dx + g * ld, H);
    if constexpr (Cell::kApart) {
      S* da_row = at<S>(a.dgates_h, row, n);
      for (int g = 0; g < G; ++g) write_row_unpadded(da_row + g * H, r.da + g * H, H);
    }
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
