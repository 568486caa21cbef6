#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace fastrnn {

#define ISA(name)              \
  namespace name {             \
  extern const Table table;    \
  }
ISA(baseline)
#if defined(FASTRNN_HAS_AVX2)
ISA(avx2)
#endif
#if defined(FASTRNN_HAS_AVX512)
ISA(avx512)
#endif
#undef ISA
#define BEYOND(name)                       \
  namespace name {                         \
  extern const AttentionTable attention;   \
  extern const PairsTable pairs;           \
  }
#if defined(FASTRNN_HAS_AVX512BF16)
BEYOND(avx512bf16)
#endif
#if defined(FASTRNN_HAS_AMX)
BEYOND(amx)
#endif
#if defined(FASTRNN_HAS_AMX_EMULATED)
BEYOND(amx_emulated)
#endif
#undef BEYOND

namespace {

#if defined(__x86_64__)

bool has_amx() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  return (d >> 22 & 1) && (d >> 24 & 1) && (d >> 25 & 1);
}

// Linux hands out the tiles' state only to who asks for it.
bool may_use_amx() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

// Products of bfloat16 pairs: Cooper Lake, Zen 4, and all with AMX.
bool has_avx512bf16() {
  unsigned a, b, c, d;
  return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}

#endif

#if defined(FASTRNN_HAS_AVX512BF16) || defined(FASTRNN_HAS_AMX) || \
    defined(FASTRNN_HAS_AMX_EMULATED)
// A set beyond AVX-512: attention of its own, and products of bfloat16 pairs. Its other recurrent
// kernels would be the same, and a single step multiplies nothing that is packed.
Table beyond_avx512(const char* name, const AttentionTable& attention, const PairsTable& pairs) {
  Table table = avx512::table;
  table.name = name;
  table.attention = &attention;
  constexpr int kBFloat16 = int(DType::kBFloat16);
  for (int id = 0; id < kNumCells; ++id) {
    table.kernels[id][kBFloat16] = pairs.kernels[id];
    for (int i = 0; i < kMostTerms; ++i) {
      Kernel& kernel = table.kernels[id][kOneTerm + i] = pairs.in_terms[id][i];
      if (kernel.forward) kernel.step = table.kernels[id][int(DType::kFloat32)].step;
    }
  }
  table.packing[kBFloat16] = pairs.packing;
  for (int i = 0; i < kMostTerms; ++i) table.packing[kOneTerm + i] = pairs.packing_in_terms[i];
  return table;
}
#endif

std::vector<const Table*> find_tables() {
  std::vector<const Table*> found = {&baseline::table};
#if defined(FASTRNN_HAS_AVX2)
  if (has_avx2()) found.push_back(&avx2::table);
#endif
#if defined(FASTRNN_HAS_AVX512)
  if (has_avx512()) found.push_back(&avx512::table);
#endif
#if defined(FASTRNN_HAS_AVX512BF16)
  static const Table pairs = beyond_avx512("avx512bf16", avx512bf16::attention,
                                           avx512bf16::pairs);
  if (has_avx512bf16()) found.push_back(&pairs);
#endif
#if defined(FASTRNN_HAS_AMX)
  static const Table tiles = beyond_avx512("amx", amx::attention, amx::pairs);
  if (has_avx512bf16() && has_amx() && may_use_amx()) found.push_back(&tiles);
#endif
  return found;
}

const std::vector<const Table*>& tables() {
  static const std::vector<const Table*> found = find_tables();
  return found;
}

// The tiles of AMX in plain code, for the tests of machines without them: never chosen, nor
// listed, only asked for by name.
const Table* emulation() {
#if defined(FASTRNN_HAS_AMX_EMULATED)
  static const Table table =
      beyond_avx512("amx_emulated", amx_emulated::attention, amx_emulated::pairs);
  if (has_avx512()) return &table;
#endif
  return nullptr;
}

// FASTRNN_ISA is a cap: a set this processor lacks leaves the best one below it.
const Table* initial_table() {
  static const char* const kOrder[] = {"baseline", "avx2", "avx512", "avx512bf16", "amx"};
  const char* cap = std::getenv("FASTRNN_ISA");
  if (cap == nullptr || *cap == '\0') return tables().back();
  if (emulation() != nullptr && std::string(cap) == emulation()->name) return emulation();
  const Table* best = nullptr;
  for (const char* name : kOrder) {
    for (const Table* table : tables())
      if (std::string(name) == table->name) best = table;
    if (std::string(name) == cap) return best;
  }
  throw std::invalid_argument(
      "FASTRNN_ISA should be one of baseline, avx2, avx512, avx512bf16, amx, got: '" +
      std::string(cap) + "'");
}

std::atomic<const Table*>& current() {
  static std::atomic<const Table*> table{initial_table()};
  return table;
}

constexpr const char* kCellNames[] = {
#define CELL(name, type) #name,
#include "cells/cells.def"
#undef CELL
};

}  // namespace

const Table& table() { return *current().load(std::memory_order_relaxed); }

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Table* table : tables()) names.push_back(table->name);
  return names;
}

void use_isa(const std::string& name) {
  for (const Table* table : tables()) {
    if (name == table->name) {
      current().store(table, std::memory_order_relaxed);
      return;
    }
  }
  if (emulation() != nullptr && name == emulation()->name)
    return current().store(emulation(), std::memory_order_relaxed);
  throw std::invalid_argument("instruction set '" + name + "' was not built or is not available");
}

std::vector<std::string> cpu_features() {
  std::vector<std::string> found;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) found.push_back("avx2");
  if (__builtin_cpu_supports("fma")) found.push_back("fma");
  if (__builtin_cpu_supports("avx512f")) found.push_back("avx512f");
  if (__builtin_cpu_supports("avx512bw")) found.push_back("avx512bw");
  if (__builtin_cpu_supports("avx512vl")) found.push_back("avx512vl");
  if (__builtin_cpu_supports("avx512dq")) found.push_back("avx512dq");
  if (__builtin_cpu_supports("avx512vnni")) found.push_back("avx512vnni");
  unsigned a, b, c, d;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1)) found.push_back("avx512bf16");
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    if (d >> 24 & 1) found.push_back("amx-tile");
    if (d >> 22 & 1) found.push_back("amx-bf16");
    if (d >> 25 & 1) found.push_back("amx-int8");
  }
#elif defined(__aarch64__)
  found.push_back("neon");
#endif
  return found;
}

const char* cell_name(int id) { return kCellNames[id]; }

int kind_of(int cell, int kind) { return table().kernels[cell][kind].forward ? kind : 0; }

const Packing& packing_of(int kind) {
  const Packing* packing = table().packing;
  return packing[kind].pack ? packing[kind] : packing[0];
}

int cell_id(const std::string& name) {
  for (int id = 0; id < kNumCells; ++id)
    if (name == kCellNames[id]) return id;
  throw std::invalid_argument("there is no kernel for the cell '" + name + "'");
}

}  // namespace fastrnn
