// What qmatmul multiplies where one instruction adds the products of two int16: two of them in a lane. multiply_packed is the including header's.
#pragma once

namespace mmrt {
namespace {

constexpr int TOGETHER = 2;  // numbers of K that are multiplied at once
constexpr int64_t EXACT = INT64_MAX;
using Packed = VI;
using Products = VI;
MMRT_INLINE Packed packed(V even, V odd) { return (to_int(even) & splat_int(0xffff)) | (to_int(odd) << 16); }
MMRT_INLINE void store_line(float* p, V numbers) {
    typedef int16_t Half __attribute__((vector_size(W * 2)));
    const Half half = __builtin_convertvector(to_int(numbers), Half);
    std::memcpy(p, &half, sizeof half);
}
MMRT_INLINE Packed load_packed(const float* p) { return load_ints(reinterpret_cast<const uint32_t*>(p)); }
MMRT_INLINE void store_packed(float* p, Packed v) { store_ints(reinterpret_cast<uint32_t*>(p), v); }
MMRT_INLINE Packed splat_packed(const float* p) {
    int32_t word;
    std::memcpy(&word, p, 4);
    return splat_int(word);
}
MMRT_INLINE Products no_products() { return splat_int(0); }
MMRT_INLINE VI whole(Products sums) { return sums; }

}  // namespace
}  // namespace mmrt
