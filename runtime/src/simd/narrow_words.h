// Four rows become words, and words four rows, by shifts: where no instruction narrows whole vectors.
#pragma once

#include "rounding.h"

namespace mmrt {
namespace {

using Narrowing = Clamp;
MMRT_INLINE Narrowing narrowing_of(const Rounding& r) { return clamp_of(r); }
MMRT_INLINE VI words_of(V a, V b, V c, V d, const Narrowing& to) {
    return unflipped(quantized(a, to) | at_byte(quantized(b, to), 1) | at_byte(quantized(c, to), 2) | at_byte(quantized(d, to), 3));
}

}  // namespace
}  // namespace mmrt
