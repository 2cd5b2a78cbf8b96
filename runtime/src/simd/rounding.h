// Sums become bytes: what Rounding says, on vectors.
#pragma once

namespace mmrt {
namespace {

struct Clamp {
    V low, high, below;  // the last is WHOLE - zero, which takes WHOLE away and adds the zero point
    VI zero;
};

MMRT_INLINE Clamp clamp_of(const Rounding& r) {
    return {splat(r.low - r.zero), splat(r.high - r.zero), splat(WHOLE - r.zero), splat_int(static_cast<int32_t>(r.zero))};
}

MMRT_INLINE VI quantized(V value, const Clamp& c) { return to_int(vmin(vmax(value, c.low), c.high)) + c.zero; }

MMRT_INLINE V quantized_float(V value, const Clamp& c) { return (vmin(vmax(value, c.low), c.high) + splat(WHOLE)) - c.below; }

}  // namespace
}  // namespace mmrt
