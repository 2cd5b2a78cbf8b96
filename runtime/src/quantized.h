// Operations on uint8 activations (FORMAT.md, Quantized activations): four channels in a word, so rows are of words.
#pragma once

#include "step.h"

namespace mmrt {

// q = clamp(round_to_even(value) + zero, low, high)
struct Rounding {
    float zero = 0, low = 0, high = 255;
};

// q = clamp(round_to_even(fma(a, a_ratio, fma(b, b_ratio, offset))), low, high)
struct Sum {
    float a_ratio = 1, b_ratio = 1, offset = 0, low = 0, high = 255;
};

struct QLinearDesc {
    Rows x, y, residual;  // of words
    std::vector<int32_t> taps;
    int groups = 1;
    const uint8_t* mask = nullptr;   // one bit a block, [outputs][words of x in a group][taps]
    const int8_t* values = nullptr;  // four a block
    int64_t blocks = 0;
    const float* multiplier = nullptr;
    const int32_t* bias = nullptr;  // of 4 * y.count outputs
    Rounding out;
    bool has_residual = false, residual_first = false;  // the sum's a; else its b
    Sum sum;
};

struct QDepthwiseDesc {
    Rows x, y;
    std::vector<int32_t> taps;
    const int8_t* weights = nullptr;  // [y.count][taps][4]
    const float* multiplier = nullptr;
    const int32_t* bias = nullptr;
    Rounding out;
};

struct QPoolDesc {
    Rows x, y;
    std::vector<int32_t> taps;
};

struct QTableDesc {
    Rows x, y;
    const uint8_t* table = nullptr;  // 256 bytes: y's byte for each byte of x
};

struct QMeanDesc {
    View x;  // of words: channels, lines, columns
    Rows y;
    float multiplier = 1;
    int32_t bias = 0;
    Rounding out;
};

struct QAddDesc {
    Rows a, b, y;
    Sum sum;
};

struct QuantizeDesc {
    Rows x, y;  // x of floats, y of words
    float scale = 1;
    Rounding out;
    int64_t width = 0, pitch = 0;  // of x's lines, where the file says: what is between them is not looked at
};

// uint8 of this scale and zero point: (q - zero) * scale
struct Number {
    float scale = 1, zero = 0;
};

struct QMatmulDesc {
    MatmulDesc floats;  // its scale is not used
    Number a, b, c;
    float multiplier = 1;
};

struct DequantizeDesc {
    Rows x, y;
    float scale = 1, zero = 0;
};

Step make_qlinear(const QLinearDesc&, const Kernels&, int threads, const HaloDesc* = nullptr);
Step make_qdepthwise(const QDepthwiseDesc&, const Kernels&);
Step make_qpool(const QPoolDesc&, const Kernels&);
Step make_qtable(const QTableDesc&, const Kernels&);
Step make_qmean(const QMeanDesc&);
Step make_qmatmul(const QMatmulDesc&, const Kernels&);
Step make_qadd(const QAddDesc&, const Kernels&);
Step make_quantize(const QuantizeDesc&, const Kernels&);
Step make_dequantize(const DequantizeDesc&, const Kernels&);

// Words lie in memory with this flipped. arm64 multiplies signed bytes by signed: q - 128 is its byte with the highest bit flipped.
#if defined(__aarch64__)
constexpr uint32_t FLIPPED = 0x80808080;
#else
constexpr uint32_t FLIPPED = 0;
#endif

constexpr int MOST_WEIGHT = 64;  // two products of a byte and such a weight fit int16, which AVX2 adds them in

}  // namespace mmrt
