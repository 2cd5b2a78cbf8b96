// The weights of four outputs, read one by one.
#pragma once

namespace mmrt {
namespace {

using Quad = const uint32_t*;
MMRT_INLINE Quad quad_weights(const uint32_t* w) { return w; }
template <int ROW>
MMRT_INLINE VI dot_row(VI acc, VI x, Quad w) {
    return dot(acc, x, four_weights(w[ROW]));
}

}  // namespace
}  // namespace mmrt
