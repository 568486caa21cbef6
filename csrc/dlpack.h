// What of DLPack 1.x is read here: the table of functions that a tensor's class offers as
// `__dlpack_c_exchange_api__` (torch 2.10 and newer), which tells all about a tensor in one
// call. The layouts are those of the standard's stable header; another major version is not
// used.
#pragma once

#include <cstdint>

namespace fastrnn {
namespace dlpack {

constexpr uint32_t kMajor = 1;
constexpr int32_t kCpu = 1;
constexpr uint8_t kUInt = 1, kFloat = 2, kBfloat = 4;

struct Tensor {
  void* data;
  int32_t device, device_id;
  int32_t rank;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

struct Api {
  uint32_t major, minor;
  const Api* previous;
  void* allocate;
  void* from_object;
  void* to_object;
  // A view of a Python object's tensor; not 0 with a Python exception where there is none.
  int (*view)(void* object, Tensor* out);
  void* stream;
};

}  // namespace dlpack
}  // namespace fastrnn
