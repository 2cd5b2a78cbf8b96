// One source of truth for the kernels: kernels.inc lists the sets, best first; each set is one ISA file's functions.
// Everything an ISA file includes beside this header has internal linkage: a shared inline function compiled for AVX-512
// could otherwise be the copy that the scalar file calls.
#pragma once

#include <cstdint>

#include "step.h"

namespace mmrt {

// CPU features, one bit each. AVX512VNNI: with BW and VL, which the compiler then uses too.
enum Feature : unsigned { AVX2 = 1, FMA = 2, F16C = 4, AVX512F = 8, NEON = 16, FP16 = 32, DOTPROD = 64, AVX512VNNI = 128, AVXVNNI = 256 };

unsigned cpu_features();  // of this machine, from CPUID or the kernel's auxiliary vector

// One non-zero weight: where its input row begins, in bytes from x, and its value.
struct Nonzero {
    int32_t offset;
    float value;
};

// y[row][0 .. vectors * width) (+)= sum of value * x[offset + ..] for the rows of one block of inputs.
struct SparseTask {
    const float* x;           // at the panel's first position
    float* y;                 // row 0 at the panel's first position
    int64_t y_stride;         // elements
    int vectors;              // 1 to SPARSE_VECTORS
    const int32_t* rows;      // output row of each entry
    const int32_t* counts;    // non-zeros of each entry
    int n_rows;
    const Nonzero* nonzeros;  // of all entries, one after the other
    const float* bias;        // set: start from the bias (or 0 where null is meant by first = true)
    bool first, last;         // first block of inputs: start from the bias; last: add the residual, apply act
    const float* residual;    // or null
    int64_t residual_stride;
    Act act;
};

// The same for a dense block: weights packed [inputs][n_rows], inputs packed [inputs][vectors * width].
struct DenseTask {
    const float* x;
    float* y;
    int64_t y_stride;
    int n_rows;               // 1 to DENSE_ROWS
    int vectors;              // 1 to DENSE_VECTORS
    int inputs;
    const float* weights;
    const float* bias;
    bool first, last;
    const float* residual;
    int64_t residual_stride;
    Act act;
};

// One row of a depthwise convolution or a pool.
struct TapsTask {
    const float* x;
    float* y;
    int64_t positions;
    const int32_t* taps;  // elements
    int n_taps;
    const float* weights;   // depthwise: n_taps values; pool: null
    float start, scale;     // depthwise: bias; pool: scale of the sum
    bool maximum;
    const float* residual;
    Act act;
};

// c[m][n] = scale * sum over k of a[m][k] * b[k][n]; exactly N elements a row are written.
struct MatmulTask {
    const float *a, *b;
    float* c;
    int64_t M, N, K, a_row, a_column, b_row, c_row;  // strides in elements
    float scale;
};

// c = uint8's view of the product of uint8's views of a and b, all three as floats; scratch is the kernel's, of qmatmul_scratch() elements.
struct QMatmulTask {
    MatmulTask floats;
    Number a, b, c;
    float multiplier;
    float* scratch;
};

// y[o] = act(bias[o] + residual[o] + sum of w[o][k] * x[k])
struct MatvecTask {
    const float *weights, *x, *bias, *residual;
    float* y;
    int64_t rows, inputs;
    Act act;
};

// One block of four weights: where its word of inputs begins, in bytes from x, and the weights.
struct QBlock {
    int32_t offset;
    uint32_t weights;
};

// n_quads rows of words, four outputs each: y = round(multiplier * (bias + sum of products)), and the residual's sum.
struct QLinearTask {
    const uint32_t* x;        // at the panel's first position
    uint32_t* y;
    int64_t y_stride;
    int vectors;              // 1 to q_vectors, or to q_dense_vectors
    int n_quads;
    const int32_t* counts;    // blocks of each output
    const int32_t* pairs;     // of each output: so many pairs of blocks come first, for kernels that take two at once
    const QBlock* blocks;     // of all outputs, one after the other
    bool first, last;         // chunk of inputs: start from the bias, or from `sums`; the last one makes y, the others leave theirs in `sums`
    int32_t* sums;            // [4 * n_quads][vectors * width], at a cache line; null where there is one chunk
    const int32_t* offsets;   // qdense, which reads these in place of counts, pairs and blocks: where each word of inputs begins, in bytes from x,
    int n_offsets;
    const uint32_t* weights;  // and [n_quads][n_offsets][4]
    const float* multiplier;
    const int32_t* bias;      // with what q_offset takes away
    Rounding out;
    const uint32_t* residual;  // or null
    int64_t residual_stride;
    bool residual_first;
    Sum sum;
};

// The same for one position: weights [rows][words].
struct QMatvecTask {
    const uint32_t *weights, *x;
    uint8_t* y;
    int rows, words;
    const float* multiplier;
    const int32_t* bias;
    Rounding out;
    const uint8_t* residual;
    bool residual_first;
    Sum sum;
};

// One row of words of a depthwise convolution.
struct QDepthwiseTask {
    const uint32_t* x;
    uint32_t* y;
    int64_t positions;
    const int32_t* taps;
    int n_taps;             // a multiple of q_taps; one too many has weights of 0
    const int8_t* weights;  // [n_taps / q_taps][4][q_taps], or with q_alone [n_taps][4][4]
    const float* multiplier;
    const int32_t* bias;    // 4 of each
    Rounding out;
};

// Both operands, each line up to a whole vector of any width, and a vector behind them.
inline int64_t qmatmul_scratch(int64_t M, int64_t N, int64_t K) {
    auto up = [](int64_t n) { return (n + 31) / 32 * 32; };
    return up(K) * up(N) + up(M) * up(K) + 64;
}

struct Kernels {
    const char* name;
    unsigned needs;  // Features, all of them
    int width;       // floats a vector
    int sparse_vectors, dense_rows, dense_vectors;
    double sparse_below;  // density under which the sparse kernel wins (cost model)
    void (*sparse)(const SparseTask&);
    void (*dense)(const DenseTask&);
    void (*gather_rows)(const float* x, const int32_t* offsets, int rows, int vectors, float* out);  // offsets in bytes; out is DenseTask's x
    void (*taps)(const TapsTask&);
    void (*matmul)(const MatmulTask&);
    void (*matvec)(const MatvecTask&);
    // elementwise.h
    void (*unary)(const Act&, const float* x, float* y, int64_t n);  // contiguous
    // fn of FORMAT.md's BINARY; a step of 0 repeats that operand
    void (*binary)(int fn, const Act&, const float* a, int a_step, const float* b, int b_step, float* y, int64_t n);
    // over an axis of `length` rows, each `n` contiguous elements, a row apart: n results (reduce) or n columns (softmax, norm)
    void (*reduce)(int kind, const float* x, int64_t row, int64_t length, float* y, int64_t n, float scale);
    void (*softmax)(const float* x, int64_t x_row, float* y, int64_t y_row, int64_t length, int64_t n);
    void (*norm)(const float* x, int64_t x_row, float* y, int64_t y_row, int64_t length, int64_t n, float eps,
                 const float* gain, const float* bias);
    bool (*all_finite)(const float* x, int64_t n);  // none is NaN or infinite
    // over one contiguous row of n elements
    float (*reduce_row)(int kind, const float* x, int64_t n);
    void (*softmax_row)(const float* x, float* y, int64_t n);
    void (*norm_row)(const float* x, float* y, int64_t n, float eps, const float* gain, const float* bias);
    // quantized_kernels.h
    int q_vectors, q_dense_vectors;  // the latter 0: qdense is no gain
    double q_dense_from;             // density of blocks from which it is (cost model)
    int q_offset;
    int q_paired;  // two blocks are taken at once where, of two neighbouring channels, weights of one sign add up to at most this; 0: never
    int q_taps;    // of a depthwise convolution: so many weights of a channel lie side by side
    bool q_alone;  // there a channel's weight is alone in a word, at the channel's byte, among zeros
    void (*qlinear)(const QLinearTask&);
    void (*qdense)(const QLinearTask&);
    void (*qmatvec)(const QMatvecTask&);
    void (*qdepthwise)(const QDepthwiseTask&);
    void (*qmaximum)(const uint32_t* x, uint32_t* y, int64_t positions, const int32_t* taps, int n_taps);
    void (*qtable)(const uint8_t* table, const uint32_t* x, uint32_t* y, int64_t positions);  // of 256 bytes as they lie in memory
    bool (*qmatmul)(const QMatmulTask&);  // false: a number of a or b was NaN
    void (*qadd)(const Sum&, const uint32_t* a, const uint32_t* b, uint32_t* y, int64_t positions);
    void (*quantize)(const float* x, int64_t x_stride, int channels, uint32_t* y, int64_t positions, float scale, const Rounding&);
    void (*dequantize)(const uint32_t* x, float* y, int64_t y_stride, int channels, int64_t positions, float scale, float zero);
    // limits.h
    float (*multiply_adds)(int64_t n);
    float (*read_floats)(const float* p, int64_t n, int64_t times);
};

// The best set that the features allow. MMRT_ISA=name forces one: an unknown name, or one that the CPU lacks, throws
// std::runtime_error with the names that there are.
const Kernels& choose_kernels(unsigned features, const char* forced);

// All sets compiled in, best first.
const Kernels* const* all_kernels(int* count);

}  // namespace mmrt
