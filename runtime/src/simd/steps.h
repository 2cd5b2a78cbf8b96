// Rounding of a vector, on the words of vector.h: to whole numbers, and to steps of a scale.
#pragma once

#include "vector.h"

namespace mmrt {
namespace {

// As nearbyint, of numbers below 2^22.
MMRT_INLINE V vround(V x) { return (x + splat(WHOLE)) - splat(WHOLE); }

// round(x / scale) within [low, high], which hold 0, as a correctly rounded quotient gives it: the product with the rounded inverse, corrected
// twice by its remainder (Markstein 1990, theorem on quotients), is that quotient, and takes a third of a division's time. NaN of NaN.
struct Steps {
    V scale, inverse, low, high, least, most;  // the last two: of x
    bool divide;                               // where the inverse, or a product with it, may leave the range of floats
};
MMRT_INLINE Steps steps_of(float scale, float low, float high) {
    return {splat(scale), splat(1.f / scale), splat(low), splat(high), splat(low * scale), splat(high * scale), !(scale > 1e-25f && scale < 1e25f)};
}
MMRT_INLINE V steps(V x, const Steps& s) {
    if (W == 1 || s.divide) return vround(clamped(x / s.scale, s.low, s.high));
    x = clamped(x, s.least, s.most);
    V q = x * s.inverse;
    q = vfma(vfma(-q, s.scale, x), s.inverse, q);
    q = vfma(vfma(-q, s.scale, x), s.inverse, q);
    return vround(q);
}

}  // namespace
}  // namespace mmrt
