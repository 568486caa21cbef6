// The eight tile registers of AMX: shapes, loads, products of bfloat16 pairs, stores. A register is
// named by a constant. Between configure() and release() they are the calling thread's; a tile of
// sums has as many rows as one of rows, and 16 columns.
//
// With FASTRNN_EMULATED the same in plain code, down to each rounding: a product's sums of the
// even and of the odd factors are made by themselves, in order, and then added to the tile, with
// denormals as zeros (the kernels run that way, parallel.cpp).
#pragma once

#include <cstdint>

#include "vec.h"

namespace fastrnn {
namespace FASTRNN_ISA {
namespace tiles {

constexpr int kRegistersOfTiles = 8, kRows = 16, kRowBytes = 64, kDepth = kRowBytes / 2;

struct Config {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
  void shape(int tile, int count) { rows[tile] = uint8_t(count), row_bytes[tile] = kRowBytes; }
};
static_assert(sizeof(Config) == 64, "as the instruction reads it");

#if defined(FASTRNN_EMULATED)

struct State {
  int rows[kRegistersOfTiles];
  VecF row[kRegistersOfTiles][kRows];
};
inline State& state() {
  static thread_local State of_thread;
  return of_thread;
}
inline void configure(const Config& config) {
  for (int i = 0; i < kRegistersOfTiles; ++i) {
    state().rows[i] = config.rows[i];
    for (VecF& row : state().row[i]) row = VecF{};
  }
}
inline void release() { configure({}); }
template <int T>
inline void clear() {
  for (VecF& row : state().row[T]) row = VecF{};
}
template <int T>
inline void load(const void* from, int64_t stride) {
  for (int r = 0; r < state().rows[T]; ++r)
    __builtin_memcpy(&state().row[T][r], static_cast<const char*>(from) + r * stride, kRowBytes);
}
template <int T>
inline void store(void* to, int64_t stride) {
  for (int r = 0; r < state().rows[T]; ++r)
    __builtin_memcpy(static_cast<char*>(to) + r * stride, &state().row[T][r], kRowBytes);
}
template <int Sum, int A, int B>
inline void dot() {
  using Bits = uint32_t __attribute__((vector_size(kBytes)));
  static_assert(kBytes == kRowBytes, "a row of a tile is a vector");
  const State& s = state();
  for (int m = 0; m < s.rows[Sum]; ++m) {
    VecF even{}, odd{};
    for (int k = 0; k < s.rows[B]; ++k) {
      const Bits a = Bits{} + ((Bits)s.row[A][m])[k], b = (Bits)s.row[B][k];
      even = (VecF)_mm512_fmadd_ps((__m512)(a << 16), (__m512)(b << 16), (__m512)even);
      odd = (VecF)_mm512_fmadd_ps((__m512)(a & 0xffff0000), (__m512)(b & 0xffff0000), (__m512)odd);
    }
    state().row[Sum][m] += even + odd;
  }
}

#else

inline void configure(const Config& config) {
  asm volatile("ldtilecfg %0" : : "m"(config));
}
inline void release() { asm volatile("tilerelease"); }
template <int T>
inline void clear() {
  asm volatile("tilezero %%tmm%c0" : : "i"(T));
}
template <int T>
inline void load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(T) : "memory");
}
template <int T>
inline void store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(T) : "memory");
}
template <int Sum, int A, int B>
inline void dot() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(A), "i"(B));
}

#endif

}  // namespace tiles
}  // namespace FASTRNN_ISA
}  // namespace fastrnn
