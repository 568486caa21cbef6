// A whole layer forwards with nothing saved, from its weights as torch has them: each thread
// packs, multiplies and scans what is its own, without meeting the others but at the barriers
// of the scan.
//
// The input product goes chunk by chunk of time steps just ahead of the scan. So the input
// side of the gates is in the cache of the core that reads it, is never whole in memory, and a
// thread that owns units reads its units' part of both weights only.
//
// Bound: 2 G H (I + K) S operations, and of the weights G H I numbers streamed a chunk and
// G H K a step.
#pragma once

#include "scan_forward.h"

namespace fastrnn {
namespace FASTRNN_ISA {

template <class Cell, class S>
struct Layer {
  using C = typename Wide<S>::type;
  using V = Vec<C>;
  using F = Factor<S>;
  using Scan = Forward<Cell, S>;
  static constexpr int W = kLanes<C>, G = Cell::kGates;

  // Where a recurrence's packed weights lie, and how many bytes they are.
  struct Packed {
    size_t ih, hh, bias_ih, bias_hh, hr, bytes;
  };
  static Packed packed(const LayerArgs& a) {
    const ScanArgs& s = a.scan;
    Packed found{};
    auto take = [&](size_t bytes) {
      const size_t at = found.bytes;
      found.bytes += (bytes + 63) / 64 * 64;
      return at;
    };
    found.ih = take(packed_bytes<S>(G, s.H, a.I));
    found.hh = take(packed_bytes<S>(G, s.H, s.K));
    found.bias_ih = take(packed_bytes<S>(G, s.H, 1));
    found.bias_hh = take(packed_bytes<S>(G, s.H, 1));
    if (s.projected) found.hr = take(packed_bytes<S>(1, s.K, s.H));
    return found;
  }

  // A thread's own memory: the input of a chunk's rows, and their gates.
  struct Chunk {
    int64_t steps;
    Buffer<F> x;
    Buffer<S> gates;
  };
  static Chunk chunk(const LayerArgs& a, Arena& arena) {
    // Of the gates, half of the usual second-level cache; and rows enough for each weight
    // that passes.
    constexpr int64_t kBytes = 256 * 1024, kRows = 48;
    const int64_t batch = max_of(a.scan.B, 1), width = G * a.scan.H;
    const int64_t rows = max_of(kRows, kBytes / max_of(width * int64_t(sizeof(S)), 1));
    Chunk c;
    c.steps = max_of(1, min_of(rows / batch, a.scan.T));
    c.x = arena.take<F>(c.steps * batch, round_up(a.I, kEach<F>));
    c.gates = arena.take<S>(c.steps * batch, width);
    return c;
  }

  static LayerBytes bytes(const LayerArgs& a) {
    Arena arena{nullptr};
    chunk(a, arena);
    return {packed(a).bytes * size_t(a.scan.N), arena.used, Scan::bytes(a.scan)};
  }

  // Blocks [u0, u1) of one recurrence's units; of the projection's, if it is there, all.
  static void pack_weights(const LayerArgs& a, int64_t n, int64_t u0, int64_t u1) {
    const ScanArgs& s = a.scan;
    const LayerWeights& w = a.weights[n];
    const Packed at = packed(a);
    char* const base = a.packed + at.bytes * size_t(n);
    const int64_t first = u0 * W, count = min_of(s.H, u1 * W) - first;
    auto take = [&](const void* from, int64_t K, size_t to) {
      pack<S>(static_cast<const S*>(from) + first * K, G, count, K, s.H * K, K, 1,
              reinterpret_cast<F*>(base + to) + first * round_up(K, kEach<F>) * G);
    };
    auto take_bias = [&](const void* from, size_t to) {
      pack_biases<S>(static_cast<const S*>(from) + first, G, count, s.H,
                     reinterpret_cast<C*>(base + to) + first * G);
    };
    if (count > 0) {
      take(w.ih, a.I, at.ih);
      take(w.hh, s.K, at.hh);
      if (w.bias_ih) take_bias(w.bias_ih, at.bias_ih);
      if (w.bias_hh) take_bias(w.bias_hh, at.bias_hh);
    }
    if (s.projected && u0 == 0)
      pack<S>(w.hr, 1, s.K, s.H, 0, s.H, 1, base + at.hr);
  }

  static void entry(const LayerArgs& a, const Slice& slice, char* own) {
    Arena arena{a.scan.scratch}, counter{nullptr}, of_chunk{own};
    Scan::scratch(a.scan, counter);
    arena.used = counter.used * size_t(slice.n0);
    const Chunk c = chunk(a, of_chunk);
    for (int64_t n = slice.n0; n < slice.n1; ++n) {
      const typename Scan::Scratch scratch = Scan::scratch(a.scan, arena);
      Layer(a, slice, c, n).run(scratch);
    }
  }

 private:
  const LayerArgs& a;
  const Slice& slice;
  const Chunk& c;
  const int64_t n;
  const char* const weights;
  const Packed at;
  // The scan's view, whose gates_x moves along with the chunks.
  ScanArgs scan;
  const void* pointers[3];

  Layer(const LayerArgs& a, const Slice& slice, const Chunk& c, int64_t n)
      : a(a), slice(slice), c(c), n(n), weights(a.packed + packed(a).bytes * size_t(n)),
        at(packed(a)), scan(a.scan) {
    pointers[0] = weights + at.hh, pointers[1] = weights + at.bias_hh;
    pointers[2] = weights + at.hr;
    // The scan finds the n-th.
    scan.weight_hh = pointers - n;
    scan.bias_hh = a.weights[n].bias_hh && Cell::kApart ? pointers + 1 - n : nullptr;
    scan.weight_hr = pointers + 2 - n;
    scan.gates_x = {nullptr, c.gates.ld, 0};
  }

  void run(const typename Scan::Scratch& scratch) {
    int64_t row = 0;  // in the chunk, of the step's first
    Scan{{scan, slice}}.run(n, scratch, [&](const Steps& steps, int64_t p) {
      if (p % c.steps == 0) multiply_chunk(steps, p), row = 0;
      const int64_t time = steps.time(p);
      // The scan looks for row `starts[time] + b`.
      scan.gates_x.data = reinterpret_cast<void*>(
          reinterpret_cast<uintptr_t>(c.gates.row(0)) +
          uintptr_t((row - scan.starts[time] - slice.b0) * c.gates.ld) * sizeof(S));
      row += max_of(0, min_of(slice.b1, steps.active(p)) - slice.b0);
    });
  }

  // The input side of the gates of this thread's rows and units, from the p-th step on.
  void multiply_chunk(const Steps& steps, int64_t p) {
    int64_t rows = 0;
    for (int64_t q = p; q < min_of(scan.T, p + c.steps); ++q) {
      const int64_t start = scan.starts[steps.time(q)];
      for (int64_t b = slice.b0; b < min_of(slice.b1, steps.active(q)); ++b) {
        const S* from = static_cast<const S*>(a.x) + (start + b) * a.I;
        if constexpr (kSame<F, S>)
          __builtin_memcpy(c.x.row(rows), from, size_t(a.I) * sizeof(S));
        else
          put_row(c.x.row(rows), c.x.ld, from, a.I);
        end_factors(c.x.row(rows), c.x.ld, a.I);
        ++rows;
      }
    }
    const C* bias = a.weights[n].bias_ih ? reinterpret_cast<const C*>(weights + at.bias_ih)
                                         : nullptr;
    const C* other = a.weights[n].bias_hh && !Cell::kApart
                         ? reinterpret_cast<const C*>(weights + at.bias_hh)
                         : nullptr;
    const Product<F, G> product{reinterpret_cast<const F*>(weights + at.ih), a.I, c.x.data, c.x.ld,
                                false};
    product.run(0, rows, slice.u0, slice.u1, [&](int64_t row, int64_t u, V* sums) {
      const int count = int(min_of(W, scan.H - u * W));
      for (int g = 0; g < G; ++g) {
        if (bias) sums[g] += load(bias + (u * G + g) * W);
        if (other) sums[g] += load(other + (u * G + g) * W);
        store(c.gates.row(row) + g * scan.H + u * W, sums[g], count);
      }
    });
  }
};

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
