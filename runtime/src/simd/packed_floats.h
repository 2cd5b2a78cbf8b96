// What qmatmul multiplies where no instruction takes two int16 at once: one integer as a float.
#pragma once

namespace mmrt {
namespace {

constexpr int TOGETHER = 1;      // numbers of K that are multiplied at once
constexpr int64_t EXACT = 256;  // so many products' sum stays an integer below 2^24: 256 * 255 * 255
using Packed = V;
using Products = V;
MMRT_INLINE Packed packed(V even, V) { return even; }
MMRT_INLINE void store_line(float* p, V numbers) { store(p, numbers); }
MMRT_INLINE Packed load_packed(const float* p) { return load(p); }
MMRT_INLINE void store_packed(float* p, Packed v) { store(p, v); }
MMRT_INLINE Packed splat_packed(const float* p) { return splat(*p); }
MMRT_INLINE Products multiply_packed(Products acc, Packed x, Packed w) { return acc + x * w; }
MMRT_INLINE Products no_products() { return splat(0.f); }
MMRT_INLINE VI whole(Products sums) { return to_int(sums); }

}  // namespace
}  // namespace mmrt
