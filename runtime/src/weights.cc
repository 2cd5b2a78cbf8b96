#include "weights.h"

#include <cstring>

namespace mmrt {
namespace {

float half_to_float(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = (half >> 10) & 31;
    uint32_t mantissa = half & 1023, bits;
    if (exponent == 31) {
        bits = sign | 0x7F800000 | (mantissa << 13);
    } else if (exponent) {
        bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    } else if (!mantissa) {
        bits = sign;
    } else {  // subnormal: shift until the leading one is implicit
        uint32_t shifted = 113;
        while (!(mantissa & 1024)) {
            mantissa <<= 1;
            --shifted;
        }
        bits = sign | (shifted << 23) | ((mantissa & 1023) << 13);
    }
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

}  // namespace

int64_t bitmask_bytes(int64_t elements) { return (elements + 511) / 512 * 64; }

RowReader::RowReader(const Weights& weights, int64_t rows, int64_t columns)
    : weights_(weights), values_(weights.data.data() + (weights.encoding == 1 ? bitmask_bytes(rows * columns) : 0)), columns_(columns) {}

float RowReader::value(int64_t index) const {
    if (weights_.dtype == 1) {
        uint16_t half;
        std::memcpy(&half, values_ + 2 * index, sizeof half);
        return half_to_float(half);
    }
    float out;
    std::memcpy(&out, values_ + 4 * index, sizeof out);
    return out;
}

void RowReader::next(float* row) {
    const uint8_t* mask = weights_.encoding == 1 ? weights_.data.data() : nullptr;
    int64_t bit = bit_, next = value_;
    for (int64_t k = 0; k < columns_; ++k, ++bit) row[k] = !mask || (mask[bit >> 3] >> (bit & 7) & 1) ? value(next++) : 0.f;
    bit_ = bit;
    value_ = next;
}

void RowReader::skip(int64_t rows) {
    for (const int64_t end = bit_ + rows * columns_; bit_ < end; ++bit_)
        if (weights_.encoding == 0 || (weights_.data[bit_ >> 3] >> (bit_ & 7) & 1)) ++value_;
}

int64_t count_nonzeros(const Weights& weights, int64_t elements) {
    if (weights.encoding == 1) return weights.values;
    int64_t count = 0;
    for (int64_t i = 0; i < elements; ++i) {
        if (weights.dtype == 1) {
            count += (weights.data[2 * i] | (weights.data[2 * i + 1] & 0x7F)) != 0;
        } else {
            float value;
            std::memcpy(&value, weights.data.data() + 4 * i, sizeof value);
            count += value != 0;
        }
    }
    return count;
}

}  // namespace mmrt
