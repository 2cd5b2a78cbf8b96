// What GCC's vector types of W elements, which the including header has said, give alike to every instruction set but the scalar one.
#pragma once

#include "inline.h"

namespace mmrt {
namespace {

typedef float V __attribute__((vector_size(W * 4)));
typedef uint32_t VU __attribute__((vector_size(W * 4)));
typedef int32_t VI __attribute__((vector_size(W * 4)));
typedef float UnalignedFloats __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t UnalignedInts __attribute__((vector_size(W * 4), aligned(4), may_alias));

MMRT_INLINE V load(const float* p) { return *reinterpret_cast<const UnalignedFloats*>(p); }
MMRT_INLINE void store(float* p, V v) { *reinterpret_cast<UnalignedFloats*>(p) = v; }
MMRT_INLINE float lane(V v, int i) { return v[i]; }
MMRT_INLINE V select_negative(V x, V yes, V no) { return x < 0 ? yes : no; }

MMRT_INLINE VI load_ints(const uint32_t* p) { return *reinterpret_cast<const UnalignedInts*>(p); }
MMRT_INLINE void store_ints(uint32_t* p, VI v) { *reinterpret_cast<UnalignedInts*>(p) = v; }
MMRT_INLINE V to_float(VI v) { return __builtin_convertvector(v, V); }
MMRT_INLINE VI byte_of(VI v, int i) { return (v >> (8 * i)) & 255; }
MMRT_INLINE VI at_byte(VI v, int i) { return v << (8 * i); }
MMRT_INLINE VI unflipped(VI v) { return FLIPPED ? v ^ static_cast<int32_t>(FLIPPED) : v; }

}  // namespace
}  // namespace mmrt
