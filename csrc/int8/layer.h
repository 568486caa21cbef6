// A layer with int8 weights, forwards: input product in chunks of steps ahead of the time loop, as in
// ../layer.h. Rows of x, h and a projection's operand are quantised one by one as they enter a
// product, each with the scale of its largest number; states, sums of the two sides and gates are
// float32.
//
// Threads that share rows quantise h each for itself: less work than meeting once more.
#pragma once

#include "../scan_loop.h"
#include "product.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <class Cell>
struct Int8Layer {
  using V = VecF;
  static constexpr int W = kLanes<float>, G = Cell::kGates, X = Cell::kExtra;
  static constexpr int kExtraSlots = X ? X : 1, kSavedSlots = Cell::kSaved ? Cell::kSaved : 1;

  // Of one recurrence, read by all threads.
  struct Shared {
    Buffer<float> h[2], extra[kExtraSlots], hidden;
  };
  static Shared shared(const Int8Args& a, Arena& arena) {
    Shared s;
    for (auto& h : s.h) h = arena.take<float>(a.B, a.K);
    for (int x = 0; x < X; ++x) s.extra[x] = arena.take<float>(a.B, a.H);
    if (a.projected) s.hidden = arena.take<float>(a.B, a.H);
    return s;
  }
  static size_t shared_bytes(const Int8Args& a) {
    Arena arena{nullptr};
    shared(a, arena);
    return arena.used * size_t(a.N);
  }

  // A thread's own: its rows as they enter the products, and a chunk's gates.
  struct Own {
    int64_t steps;
    Quantised x, h, hidden;
    Buffer<float> gates;
  };
  static Quantised quantised(Arena& arena, int64_t rows, int64_t K) {
    Quantised found;
    const auto numbers = arena.take<Quantum>(rows, round_up(K, kDepthStep));
    found.data = numbers.data, found.ld = numbers.ld;
    found.scale = arena.take<float>(1, rows).data;
    found.offset = arena.take<int32_t>(1, rows).data;
    return found;
  }
  static Own own(const Int8Args& a, Arena& arena) {
    // Rows enough for each weight that passes; of the gates, what stays in the cache.
    constexpr int64_t kGates = 128 * 1024, kRows = 24;
    const int64_t batch = max_of(a.B, 1), width = G * a.H;
    const int64_t rows = max_of(kRows, kGates / (width * int64_t(sizeof(float))));
    Own o;
    o.steps = max_of(1, min_of(rows / batch, a.T));
    o.x = quantised(arena, o.steps * batch, a.I);
    o.h = quantised(arena, batch, a.K);
    if (a.projected) o.hidden = quantised(arena, batch, a.H);
    o.gates = arena.take<float>(o.steps * batch, width);
    return o;
  }
  static size_t own_bytes(const Int8Args& a) {
    Arena arena{nullptr};
    own(a, arena);
    return arena.used;
  }

  static void entry(const Int8Args& a, const Slice& slice, char* memory) {
    Arena arena{a.scratch}, counter{nullptr}, of_thread{memory};
    shared(a, counter);
    arena.used = counter.used * size_t(slice.n0);
    const Own o = own(a, of_thread);
    for (int64_t n = slice.n0; n < slice.n1; ++n) {
      const Shared s = shared(a, arena);
      Int8Layer{a, slice, o, s, a.weights[n], n, {a, a.reverse[n] != 0}}.run();
    }
  }

  const Int8Args& a;
  const Slice& slice;
  const Own& o;
  const Shared& s;
  const Int8Weights& w;
  const int64_t n;
  const Steps steps;

 private:
  void join() const {
    if (slice.barrier) wait(slice.barrier, slice.member);
  }
  int64_t last_row(int64_t p) const { return min_of(slice.b1, steps.active(p)); }

  void run() const {
    // Each thread lays out its own units, and the first step reads the others' where they came from:
    // threads meet between steps only, and in a single one not at all.
    const int64_t first = slice.u0 * kUnitsOfBlock;
    const auto width = [&](int64_t of) { return min_of(of, slice.u1 * kUnitsOfBlock) - first; };
    const int64_t units_h = a.projected ? a.K : width(a.H), units = width(a.H);
    for (int64_t b = slice.b0; b < slice.b1; ++b) {
      for (const auto& h : s.h)
        copy_row(h.row(b) + first, at<float>(a.states[0], b, n) + first, units_h);
      for (int x = 0; x < X; ++x)
        copy_row(s.extra[x].row(b) + first, at<float>(a.states[1 + x], b, n) + first, units);
    }
    int64_t row = 0;  // in the chunk, of the step's first
    for (int64_t p = 0; p < a.T; ++p) {
      if (p > 0) join();
      if (p % o.steps == 0) multiply_chunk(p), row = 0;
      step(p, row);
      row += max_of(0, last_row(p) - slice.b0);
    }
    for (int64_t b = slice.b0; b < slice.b1; ++b) {
      // Reversed, all sequences end with the last step met; forwards, each at its own length.
      int64_t end = a.T;
      while (end > 0 && steps.active(end - 1) <= b) --end;
      write_row(at<float>(a.finals[0], b, n) + first, s.h[end & 1].row(b) + first, units_h);
      for (int x = 0; x < X; ++x)
        write_row(at<float>(a.finals[1 + x], b, n) + first, s.extra[x].row(b) + first, units);
    }
  }

  // The input side of the gates of this thread's rows and units, from the p-th step on.
  void multiply_chunk(int64_t p) const {
    int64_t rows = 0;
    for (int64_t q = p; q < min_of(a.T, p + o.steps); ++q)
      for (int64_t b = slice.b0; b < last_row(q); ++b)
        quantise(a.x + (a.starts[steps.time(q)] + b) * a.I, a.I, o.x, rows++);
    const float* other = Cell::kApart ? nullptr : w.bias_hh;
    const Int8Product<G> product{w.ih, a.H, a.I, false};
    product.run(o.x, 0, rows, slice.u0, slice.u1, [&](int64_t row, int64_t unit, int lanes, V* sums) {
      for (int g = 0; g < G; ++g) {
        if (w.bias_ih) sums[g] += load(w.bias_ih + g * a.H + unit, lanes);
        if (other) sums[g] += load(other + g * a.H + unit, lanes);
        store(o.gates.row(row) + g * a.H + unit, sums[g], lanes);
      }
    });
  }

  void step(int64_t p, int64_t row) const {
    const int64_t rows = last_row(p) - slice.b0, start = a.starts[steps.time(p)];
    const Buffer<float>&h_prev = s.h[p & 1], &h_next = s.h[(p + 1) & 1];
    for (int64_t r = 0; r < rows; ++r)
      quantise(p == 0 ? at<float>(a.states[0], slice.b0 + r, n) : h_prev.row(slice.b0 + r), a.K, o.h,
               r);
    const Int8Product<G> product{w.hh, a.H, a.K, (p & 1) != 0};
    product.run(o.h, 0, rows, slice.u0, slice.u1, [&](int64_t r, int64_t unit, int lanes, V* sums) {
      const int64_t b = slice.b0 + r;
      V x[G], state[kExtraSlots], saved[kSavedSlots], h{}, h_old{};
      for (int g = 0; g < G; ++g) {
        x[g] = load(o.gates.row(row + r) + g * a.H + unit, lanes);
        if (Cell::kApart && w.bias_hh) sums[g] += load(w.bias_hh + g * a.H + unit, lanes);
      }
      for (int i = 0; i < X; ++i) state[i] = load(s.extra[i].row(b) + unit);
      if constexpr (Cell::kReadsH) h_old = load(h_prev.row(b) + unit);
      Cell::forward(x, sums, h_old, state, h, saved);
      for (int i = 0; i < X; ++i) store(s.extra[i].row(b) + unit, state[i]);
      if (a.projected) {
        store(s.hidden.row(b) + unit, h);
      } else {
        store(h_next.row(b) + unit, h);
        store(at<float>(a.out, start + b, n) + unit, h, lanes);
      }
    });
    if (!a.projected) return;
    for (int64_t r = 0; r < rows; ++r) quantise(s.hidden.row(slice.b0 + r), a.H, o.hidden, r);
    const Int8Product<1> project{w.hr, a.K, a.H, (p & 1) != 0};
    project.run(o.hidden, 0, rows, 0, ceil_div(a.K, kUnitsOfBlock),
                [&](int64_t r, int64_t unit, int lanes, V* sums) {
                  const int64_t b = slice.b0 + r;
                  store(h_next.row(b) + unit, sums[0]);
                  store(at<float>(a.out, start + b, n) + unit, sums[0], lanes);
                });
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
