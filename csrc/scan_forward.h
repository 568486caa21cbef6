// The time loop forwards, over any cell and storage type.
#pragma once

#include "scan_loop.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <class Cell, class S>
struct Forward : Loop<Cell, S> {
  using Base = Loop<Cell, S>;
  using typename Base::C;
  using typename Base::V;
  using Base::a, Base::slice, Base::W, Base::G, Base::X, Base::M;

  struct Scratch {
    Buffer<C> h[2], extra[Base::kExtraSlots], hidden;
    Buffer<C> gates;  // recurrent side, where a cell needs whole rows: G of them a sequence
    Buffer<C> operand, kept;  // of a second product, and what lasts until after it
    Buffer<C> masked[2];      // h as it enters the product, where dropout makes it another
    Buffer<C> old[Base::kExtraSlots];  // for zoneout: the states before the step
  };

  static Scratch scratch(const ScanArgs& a, Arena& arena) {
    Scratch s;
    for (auto& h : s.h) h = arena.take<C>(a.B, a.K);
    for (int x = 0; x < X; ++x) s.extra[x] = arena.take<C>(a.B, a.H);
    if (a.projected) s.hidden = arena.take<C>(a.B, a.H);
    if (Cell::kWholeRow) s.gates = arena.take<C>(a.B * G, a.H);
    if (Cell::kSecond) {
      s.operand = arena.take<C>(a.B, a.H);
      s.kept = arena.take<C>(a.B * (Cell::kSaved + 1), a.H);
    }
    if (a.dropout.data)
      for (auto& masked : s.masked) masked = arena.take<C>(a.B, a.K);
    if (a.zoned)
      for (int x = 0; x < X; ++x) s.old[x] = arena.take<C>(a.B, a.H);
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
      Forward{{a, slice}}.run(n, s, [](const Steps&, int64_t) {});
    }
  }

  // Calls before(steps, p) ahead of each step.
  template <class Before>
  void run(int64_t n, const Scratch& s, Before&& before) const {
    const Steps steps{a, a.reverse[n] != 0};
    // The threads of a row share its states: the first of them lays them out.
    if (slice.u0 == 0) {
      for (int64_t b = slice.b0; b < slice.b1; ++b) {
        const S* h_0 = at<S>(a.states[0], this->column(b), n);
        for (const auto& h : s.h) copy_row(h.row(b), h_0, a.K);
        for (int x = 0; x < X; ++x) copy_row(s.extra[x].row(b), at<S>(a.states[1 + x], this->column(b), n), a.H);
      }
    }
    this->join();
    if (a.options) {
      after(n, s, steps, -1);
      this->join();
      this->clear_ends(a.out, n, a.K);
      for (int x = 0; x < X; ++x) this->clear_ends(a.others[x], n, a.H);
      if (a.projected && a.save) this->clear_ends(a.hidden, n, a.H);
      if (a.save) this->template clear_ends<C>(a.reserve, n, this->kept_width());
    }
    for (int64_t p = 0; p < a.T; ++p) {
      before(steps, p);
      if (a.zoned) keep_old(s, steps, p);
      step(n, s, steps, p);
      if (a.options) after(n, s, steps, p);
      this->join();
    }
    if (slice.u0 == 0) {
      for (int64_t b = slice.b0; b < slice.b1; ++b) {
        // Reversed, all sequences end with the last step met; forwards, each at its own length.
        int64_t end = a.T;
        while (end > 0 && steps.active(end - 1) <= b) --end;
        write_row(at<S>(a.finals[0], this->column(b), n), s.h[end & 1].row(b), a.K);
        for (int x = 0; x < X; ++x)
          write_row(at<S>(a.finals[1 + x], this->column(b), n), s.extra[x].row(b), a.H);
      }
    }
  }

  void keep_old(const Scratch& s, const Steps& steps, int64_t p) const {
    this->own(slice.b0, this->last_row(steps.active(p)), [&](int64_t b) {
      for (int x = 0; x < X; ++x)
        for (int64_t u = this->own_from(); u < this->own_to(a.H); ++u)
          store(s.old[x].row(b) + u * W, load(s.extra[x].row(b) + u * W));
    });
  }

  // What happens to the states between the p-th step met and the next. Each thread sees to what
  // it has written itself, so that nobody has to wait for it.
  void after(int64_t n, const Scratch& s, const Steps& steps, int64_t p) const {
    const int64_t here = steps.active(p), later = steps.active(p + 1);
    this->own(slice.b0, this->last_row(max_of(here, later)), [&](int64_t b) {
      const bool written = b < here, more = b < later;
      const int64_t row = written ? this->row(steps, p, b) : 0;
      const int64_t next = more ? this->row(steps, p + 1, b) : 0;
      const bool reset = more && this->is_reset(next, n);
      const bool zoned = a.zoned && written, mask = a.dropout.data && more;
      C* h = s.h[(p + 1) & 1].row(b);
      if (zoned || reset || mask)
        for (int64_t u = this->own_from(); u < this->own_to(a.K); ++u) {
          const int count = this->lanes(u, a.K);
          V value = load(h + u * W);
          if (zoned) {
            const V part = this->kept(0, row, n, u, count);
            if (a.save && !a.projected)
              store(at<C>(a.reserve, row, n) + (Cell::kSaved + X) * a.H + u * W, value, count);
            value = part * load(s.h[p & 1].row(b) + u * W) + (1 - part) * value;
            store(at<S>(a.out, row, n) + u * W, value, count);
          }
          if (reset) value = this->reset_value(0, next, b, n, u, count);
          store(h + u * W, value);
          if (mask)
            store(s.masked[(p + 1) & 1].row(b) + u * W,
                  value * load(at<S>(a.dropout, this->column(b), n) + u * W, count));
        }
      for (int x = 0; x < X; ++x) {
        const bool wanted = a.others[x].data && written;
        if (!(zoned || wanted || reset)) continue;
        C* state = s.extra[x].row(b);
        for (int64_t u = this->own_from(); u < this->own_to(a.H); ++u) {
          const int count = this->lanes(u, a.H);
          V value = load(state + u * W);
          if (zoned) {
            const V part = this->kept(1 + x, row, n, u, count);
            value = part * load(s.old[x].row(b) + u * W) + (1 - part) * value;
            if (a.save) store(at<C>(a.reserve, row, n) + (Cell::kSaved + x) * a.H + u * W, value, count);
          }
          if (wanted) store(at<S>(a.others[x], row, n) + u * W, value, count);
          if (reset) value = this->reset_value(1 + x, next, b, n, u, count);
          store(state + u * W, value);
        }
      }
    });
  }

  // h as it enters the product.
  const Buffer<C>& operand_of(const Scratch& s, int64_t p) const {
    return a.dropout.data ? s.masked[p & 1] : s.h[p & 1];
  }

  void step(int64_t n, const Scratch& s, const Steps& steps, int64_t p) const {
    const int64_t r0 = slice.b0, r1 = this->last_row(steps.active(p));
    const int64_t start = a.starts[steps.time(p)];
    const Buffer<C>& h_prev = s.h[p & 1];
    const Buffer<C>& h_next = s.h[(p + 1) & 1];
    const C* bias = a.bias_hh ? static_cast<const C*>(a.bias_hh[n]) : nullptr;
    const int64_t H = a.H;

    if constexpr (Cell::kWholeRow) {
      product(n, r0, r1, operand_of(s, p), (p & 1) != 0, [&](int64_t b, int64_t u, V* sums) {
        for (int g = 0; g < G; ++g) {
          if (bias) sums[g] += load(bias + (u * G + g) * W);
          store(s.gates.row(b * G + g) + u * W, sums[g]);
        }
      });
      this->join();
      this->whole_rows(r0, r1, [&](int64_t b) {
        C* saved = a.save ? at<C>(a.reserve, start + this->column(b), n) : nullptr;
        RowForward<C, S> row{H, s.gates.ld, at<S>(a.gates_x, start + this->column(b), n), s.gates.row(b * G),
                             h_prev.row(b), {}, static_cast<const C*>(a.params[n]), h_next.row(b),
                             saved};
        for (int i = 0; i < X; ++i) row.s[i] = s.extra[i].row(b);
        if (this->clipped())
          Cell::forward(row, RowClipping<C>{C(a.gate_clip), C(a.cell_clip),
                                            saved ? saved + this->marks_at() : nullptr, nullptr});
        else
          Cell::forward(row);
        write_row(at<S>(a.out, start + this->column(b), n), h_next.row(b), H);
      });
    } else if constexpr (Cell::kSecond > 0) {
      two_products(n, s, steps, p);
    } else {
      units(n, s, steps, p);
    }
  }

  // A step of a cell with a second product.
  void two_products(int64_t n, const Scratch& s, const Steps& steps, int64_t p) const {
    constexpr int G1 = Base::G1, G2 = Base::G2, kSaved = Cell::kSaved;
    const int kept_rows = kSaved + 1;  // what is to be saved, and the marks so far
    const int64_t r0 = slice.b0, r1 = this->last_row(steps.active(p)), H = a.H;
    const int64_t start = a.starts[steps.time(p)];
    const Buffer<C>&h_prev = s.h[p & 1], &h_next = s.h[(p + 1) & 1];
    const C* bias = a.bias_hh ? static_cast<const C*>(a.bias_hh[n]) : nullptr;
    auto load_gates = [&](int64_t b, int64_t u, int from, int to, const V* sums, V* x, V* gates) {
      const S* x_row = at<S>(a.gates_x, start + this->column(b), n) + u * W;
      for (int g = from; g < to; ++g) {
        x[g] = load(x_row + g * H, this->lanes(u, H));
        gates[g] = sums[g - from];
        if (bias) gates[g] += load(bias + (u * G + g) * W);
      }
    };
    const Buffer<C>& entering = operand_of(s, p);
    const Product<C, G1> first{static_cast<const C*>(a.weight_hh[n]), a.K, entering.data,
                               entering.ld, (p & 1) != 0};
    first.run(r0, r1, slice.u0, slice.u1, [&](int64_t b, int64_t u, V* sums) {
      V x[G], gates[G], kept[kSaved] = {}, operand{};
      const V h = load(entering.row(b) + u * W);
      load_gates(b, u, 0, G1, sums, x, gates);
      if (this->clipped()) {
        Clipping<C> clips = this->bounds();
        Cell::first(x, gates, h, kept, operand, clips);
        store(s.kept.row(b * kept_rows + kSaved) + u * W, clips.marks);
      } else {
        Cell::first(x, gates, h, kept, operand);
      }
      store(s.operand.row(b) + u * W, operand);
      for (int i = 0; i < kSaved; ++i) store(s.kept.row(b * kept_rows + i) + u * W, kept[i]);
    });
    this->join();
    const Product<C, G2> second{static_cast<const C*>(a.weight_second[n]), a.K, s.operand.data,
                                s.operand.ld, (p & 1) != 0};
    second.run(r0, r1, slice.u0, slice.u1, [&](int64_t b, int64_t u, V* sums) {
      const int count = this->lanes(u, H);
      V x[G], gates[G], kept[kSaved], h{};
      const V h_old = load(h_prev.row(b) + u * W);
      C* to = a.save ? at<C>(a.reserve, start + this->column(b), n) + u * W : nullptr;
      load_gates(b, u, G1, G, sums, x, gates);
      for (int i = 0; i < kSaved; ++i) kept[i] = load(s.kept.row(b * kept_rows + i) + u * W);
      if (this->clipped()) {
        Clipping<C> clips = this->bounds(load(s.kept.row(b * kept_rows + kSaved) + u * W));
        Cell::second(x, gates, h_old, kept, h, clips);
        if (to) store(to + this->marks_at(), clips.marks, count);
      } else {
        Cell::second(x, gates, h_old, kept, h);
      }
      if (to)
        for (int i = 0; i < kSaved; ++i) store(to + i * H, kept[i], count);
      store(h_next.row(b) + u * W, h);
      store(at<S>(a.out, start + this->column(b), n) + u * W, h, count);
    });
  }

  // A step of a cell that works unit by unit.
  void units(int64_t n, const Scratch& s, const Steps& steps, int64_t p) const {
    const int64_t r0 = slice.b0, r1 = this->last_row(steps.active(p));
    const int64_t start = a.starts[steps.time(p)];
    const Buffer<C>& h_prev = s.h[p & 1];
    const Buffer<C>& h_next = s.h[(p + 1) & 1];
    const C* bias = a.bias_hh ? static_cast<const C*>(a.bias_hh[n]) : nullptr;
    const int64_t H = a.H;

    product(n, r0, r1, operand_of(s, p), (p & 1) != 0, [&](int64_t b, int64_t u, V* sums) {
      const int count = this->lanes(u, H);
      const int64_t unit = u * W;
      const S* x_row = at<S>(a.gates_x, start + this->column(b), n) + unit;
      V x[G], state[Base::kExtraSlots], saved[Base::kSavedSlots], of_cell[Base::kParamSlots], h{},
          h_old{};
      for (int g = 0; g < G; ++g) {
        x[g] = load(x_row + g * H, count);
        if (bias) sums[g] += load(bias + (u * G + g) * W);
      }
      for (int i = 0; i < X; ++i) state[i] = load(s.extra[i].row(b) + unit);
      if constexpr (Cell::kReadsH) h_old = load(h_prev.row(b) + unit);
      if (__builtin_expect(this->clipped(), 0)) {
        // On copies, so that without bounds all of it stays in registers.
        Block block;
        copy(block.x, x, G), copy(block.a, sums, G), copy(block.state, state, X);
        block.h_old = h_old;
        within_bounds(n, start + this->column(b), u, block);
        copy(state, block.state, X), copy(saved, block.saved, Cell::kSaved);
        h = block.h;
      } else if constexpr (M > 0) {
        this->load_params(n, u, of_cell);
        Cell::forward(x, sums, h_old, state, h, saved, of_cell);
      } else {
        Cell::forward(x, sums, h_old, state, h, saved);
      }
      for (int i = 0; i < X; ++i) store(s.extra[i].row(b) + unit, state[i]);
      if (a.save) {
        C* kept = at<C>(a.reserve, start + this->column(b), n) + unit;
        for (int i = 0; i < Cell::kSaved; ++i) store(kept + i * H, saved[i], count);
      }
      if (a.projected) {
        store(s.hidden.row(b) + unit, h);
        if (a.save) store(at<S>(a.hidden, start + this->column(b), n) + unit, h, count);
      } else {
        store(h_next.row(b) + unit, h);
        store(at<S>(a.out, start + this->column(b), n) + unit, h, count);
      }
    });

    if (a.projected) {
      const Product<C, 1> project{static_cast<const C*>(a.weight_hr[n]), H, s.hidden.data,
                                  s.hidden.ld, (p & 1) != 0};
      project.run(r0, r1, 0, this->blocks_of(a.K), [&](int64_t b, int64_t u, V* sums) {
        if (a.proj_clip > 0) {
          Clipping<C> clips{C(a.proj_clip), 0, V{}};
          sums[0] = clips.gate(0, sums[0]);
          if (a.save)
            store(at<C>(a.reserve, start + this->column(b), n) + this->proj_marks_at() + u * W,
                  clips.marks, this->lanes(u, a.K));
        }
        store(h_next.row(b) + u * W, sums[0]);
        store(at<S>(a.out, start + this->column(b), n) + u * W, sums[0], this->lanes(u, a.K));
      });
    }
  }

  struct Block {
    V x[G], a[G], state[Base::kExtraSlots], saved[Base::kSavedSlots], h_old, h;
  };
  static void copy(V* to, const V* from, int count) {
    for (int i = 0; i < count; ++i) to[i] = from[i];
  }

  // A cell's forward for one row and block of units within bounds.
  __attribute__((noinline)) void within_bounds(int64_t n, int64_t row, int64_t u,
                                               Block& block) const {
    Clipping<C> clips = this->bounds();
    if constexpr (M > 0) {
      V of_cell[M];
      this->load_params(n, u, of_cell);
      Cell::forward(block.x, block.a, block.h_old, block.state, block.h, block.saved, of_cell,
                    clips);
    } else {
      Cell::forward(block.x, block.a, block.h_old, block.state, block.h, block.saved, clips);
    }
    if (a.save)
      store(at<C>(a.reserve, row, n) + this->marks_at() + u * W, clips.marks,
            this->lanes(u, a.H));
  }

  // Calls epilogue(row, block of units, recurrent sides of the G gates).
  template <class Epilogue>
  void product(int64_t n, int64_t r0, int64_t r1, const Buffer<C>& h, bool backwards,
               Epilogue&& epilogue) const {
    if constexpr (Cell::kRecurrent) {
      const Product<C, G> gates{static_cast<const C*>(a.weight_hh[n]), a.K, h.data, h.ld,
                                backwards};
      gates.run(r0, r1, slice.u0, slice.u1, epilogue);
    } else {
      for (int64_t b = r0; b < r1; ++b)
        for (int64_t u = slice.u0; u < slice.u1; ++u) {
          V zero[G]{};
          epilogue(b, u, zero);
        }
    }
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
