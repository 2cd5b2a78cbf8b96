// One word after the other: QPOOL, QTABLE, QADD, QUANTIZE and DEQUANTIZE.
#pragma once

#include "q_adding.h"
#include "simd/steps.h"

namespace mmrt {
namespace {

void qmaximum(const uint32_t* x, uint32_t* y, int64_t positions, const int32_t* taps, int n_taps) {
    using Byte = std::conditional_t<FLIPPED != 0, int8_t, uint8_t>;
    typedef Byte VB __attribute__((vector_size(W * 4)));
    for (int64_t p = 0; p < positions; p += W) {
        VB most = bits_as<VB>(load_ints(x + p + taps[0]));
        for (int t = 1; t < n_taps; ++t) {
            const VB next = bits_as<VB>(load_ints(x + p + taps[t]));
            most = most > next ? most : next;
        }
        store_ints(y + p, bits_as<VI>(most));
    }
}

void qtable(const uint8_t* entries, const uint32_t* x, uint32_t* y, int64_t positions) {
    const Table table = table_of(entries);
    for (int64_t p = 0; p < positions; p += W) store_ints(y + p, look_up(table, load_ints(x + p)));
}

void qadd(const Sum& sum, const uint32_t* a, const uint32_t* b, uint32_t* y, int64_t positions) {
    const Adding adding = adding_of(sum);
    for (int64_t p = 0; p < positions; p += W) {
        V left[4], right[4];
        read_rows(a + p, left), read_rows(b + p, right);
        store_ints(y + p, added(left, right, adding));
    }
}

// Up to four rows of floats become one of words.
void quantize(const float* x, int64_t x_stride, int channels, uint32_t* y, int64_t positions, float scale, const Rounding& out) {
    const Steps how = steps_of(scale, out.low - out.zero, out.high - out.zero);
    const VI zero = splat_int(static_cast<int32_t>(out.zero));
    for (int64_t p = 0; p < positions; p += W) {
        VI words = splat_int(0);
        for (int c = 0; c < channels; ++c) words |= at_byte(to_int(steps(load(x + c * x_stride + p), how)) + zero, c);
        store_words(y + p, words);
    }
}

void dequantize(const uint32_t* x, float* y, int64_t y_stride, int channels, int64_t positions, float scale, float zero) {
    for (int64_t p = 0; p < positions; p += W) {
        const VI words = load_words(x + p);
        for (int c = 0; c < channels; ++c) store(y + c * y_stride + p, (to_float(byte_of(words, c)) - splat(zero)) * splat(scale));
    }
}

}  // namespace
}  // namespace mmrt
