// A line of words times a line of weights, by this set's dot.
#pragma once

namespace mmrt {
namespace {

MMRT_INLINE int64_t dot_line(const uint32_t* x, const uint32_t* w, int64_t words, int32_t* sum) {
    VI sums = splat_int(0);
    int64_t k = 0;
    for (; k + W <= words; k += W) sums = dot(sums, load_ints(x + k), vld1q_s8(reinterpret_cast<const int8_t*>(w + k)));
    *sum += vaddvq_s32((int32x4_t)sums);
    return k;
}

}  // namespace
}  // namespace mmrt
