// Sums of two uint8 tensors, each with its own scale: what a QADD does, and a QLINEAR with a residual.
#pragma once

#include "simd/vector.h"

namespace mmrt {
namespace {

struct Adding {
    V a_ratio, b_ratio, offset;
    Narrowing to;
};

MMRT_INLINE Adding adding_of(const Sum& s) { return {splat(s.a_ratio), splat(s.b_ratio), splat(s.offset), narrowing_of({0, s.low, s.high})}; }

MMRT_INLINE VI added(const V* a, const V* b, const Adding& s) {  // four rows of each
    V sums[4];
    for (int r = 0; r < 4; ++r) sums[r] = vfma(a[r], s.a_ratio, vfma(b[r], s.b_ratio, s.offset));
    return words_of(sums[0], sums[1], sums[2], sums[3], s.to);
}

}  // namespace
}  // namespace mmrt
