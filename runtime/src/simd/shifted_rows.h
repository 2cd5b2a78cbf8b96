// Words become four rows of floats by shifts.
#pragma once

namespace mmrt {
namespace {

MMRT_INLINE void read_rows(const uint32_t* p, V* rows) {
    const VI words = unflipped(load_ints(p));
    for (int r = 0; r < 4; ++r) rows[r] = to_float(byte_of(words, r));
}

}  // namespace
}  // namespace mmrt
