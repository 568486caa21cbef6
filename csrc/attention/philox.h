// Philox4x32-10 on vectors of counters: the random bits of fastrnn/philox.py, 64 keys a call.
#pragma once

#include "../vec.h"

namespace fastrnn {
namespace FASTRNN_ISA {

using Words = uint32_t __attribute__((vector_size(kBytes)));
constexpr int kWords = kBytes / 4;

// The halves of the 64-bit products a * b, lane by lane.
inline void multiply_wide(uint32_t a, Words b, Words& high, Words& low) {
  using Long = uint64_t __attribute__((vector_size(kBytes)));
  const Long even = ((Long)b & 0xffffffffu) * uint64_t(a);
  const Long odd = ((Long)b >> 32) * uint64_t(a);
  low = (Words)((even & 0xffffffffu) | (odd << 32));
  high = (Words)((even >> 32) | (odd & ~uint64_t(0xffffffffu)));
}

// bits[0..64): those of keys 64 * chunk and on, of query t and head n.
inline void random_bits(uint64_t seed, uint32_t n, uint32_t t, uint32_t chunk, uint32_t* bits) {
  for (int lane = 0; lane < 16; lane += kWords) {
    Words c0, c1 = Words{} + t, c2 = Words{} + n, c3 = Words{};
    for (int i = 0; i < kWords; ++i) c0[i] = 16 * chunk + uint32_t(lane + i);
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      Words high0, low0, high1, low1;
      multiply_wide(0xD2511F53u, c0, high0, low0);
      multiply_wide(0xCD9E8D57u, c2, high1, low1);
      c0 = high1 ^ c1 ^ k0, c1 = low1;
      c2 = high0 ^ c3 ^ k1, c3 = low0;
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    const Words word[4] = {c0, c1, c2, c3};
    for (int w = 0; w < 4; ++w) __builtin_memcpy(bits + 16 * w + lane, &word[w], sizeof(Words));
  }
}

}  // namespace FASTRNN_ISA
}  // namespace fastrnn
