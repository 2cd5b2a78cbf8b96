// What a kernel is given, and the table of kernels. kernels.inc lists the kernels; sets.inc the sets, best first: one ISA file each, which names
// what this instruction set does better than the set that it builds on.
#pragma once

#include <cstdint>

#include "step.h"

namespace mmrt {

// CPU features that some set needs, one bit each. AVX512VNNI: with BW and VL, which the compiler then uses too.
enum Feature : unsigned { AVX2 = 1, FMA = 2, AVX512F = 4, AVX512VNNI = 8, AVXVNNI = 16, NEON = 32, DOTPROD = 64 };

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
    int vectors;              // 1 to SparseKernel::vectors
    const int32_t* rows;      // output row of each entry
    const int32_t* counts;    // non-zeros of each entry
    int n_rows;
    const Nonzero* nonzeros;  // of all entries, one after the other
    const float* bias;        // of all rows, or null for 0
    bool first, last;         // first block of inputs: start from the bias; last: add the residual, apply act
    const float* residual;    // or null
    int64_t residual_stride;
    Act act;
};

// As SparseTask, but an entry is four outputs that follow each other; of the last one there may be fewer.
struct QuadTask {
    const float* x;
    float* y;
    int64_t y_stride;
    int vectors;             // 1 to QuadKernel::vectors
    const int32_t* rows;     // first output row of each entry
    const int32_t* counts;   // inputs of each entry
    int n_rows;              // entries
    int end;                 // rows from here on are not there
    const int32_t* offsets;  // where each input's row begins, in bytes from x, of all entries one after the other;
    bool alike;              // or of one entry, where all have the same
    const float* values;     // four weights for each input of each entry
    const float* bias;
    bool first, last;
    const float* residual;
    int64_t residual_stride;
    Act act;
};

// The same for a dense block: weights packed [inputs][n_rows], inputs packed [inputs][vectors * width].
struct DenseTask {
    const float* x;
    float* y;
    int64_t y_stride;
    int n_rows;               // 1 to DenseKernel::rows
    int vectors;              // 1 to DenseKernel::vectors
    int inputs;
    const float* weights;
    const float* bias;  // of these rows, or null for 0
    bool first, last;
    const float* residual;
    int64_t residual_stride;
    Act act;
};

// Dense, all inputs at once: weights [outputs of a block][inputs][of this block], see ColumnsKernel.
struct ColumnsTask {
    const float* x;  // at the panel's first position
    float* y;
    int64_t y_stride;
    int positions;  // of the panel
    int outputs, inputs;
    const int32_t* offsets;  // where each input begins, in bytes from x
    const float* weights;
    const float* bias;  // up to whole vectors
    float* sums;        // of a block: [positions][outputs]
    const float* residual;
    int64_t residual_stride;
    Act act;
};

// Lines of x, each at the cache line where the one before ends.
struct Stretch {
    int32_t from;  // elements from x
    int32_t more;  // vectors beyond the panel's
};

struct CopyTask {
    const uint32_t* x;  // at the panel's first position
    const Stretch* stretches;
    int n_stretches;
    int vectors, most;  // of this panel, and of the widest, for which there is room
    uint32_t* out;
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
    int vectors;              // 1 to QLinearKernel::vectors, or QDenseKernel's
    int n_quads;
    const int32_t* counts;    // blocks of each output
    const int32_t* pairs;     // of each output: so many pairs of blocks come first, for kernels that take two at once
    const QBlock* blocks;     // of all outputs, one after the other
    bool first, last;         // chunk of inputs: start from the bias, or from `sums`; the last one makes y, the others leave theirs in `sums`
    int32_t* sums;            // [4 * n_quads][vectors * width], at a cache line; null where there is one chunk
    const int32_t* offsets;   // qdense, which reads these in place of counts, pairs and blocks: where each word of inputs begins, in bytes from x,
    int n_offsets;
    const uint32_t* weights;  // and [n_quads][n_offsets][4]; of qcolumns [outputs of a block][n_offsets][of this block], see QColumnsKernel
    const float* multiplier;
    const int32_t* bias;      // with what the kernel's offset takes away
    Rounding out;
    const uint32_t* residual;  // or null
    int64_t residual_stride;
    bool residual_first;
    Sum sum;
    int positions;  // qcolumns: of the panel
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
    int n_taps;             // a multiple of QDepthwiseKernel::taps; one too many has weights of 0
    const int8_t* weights;  // [n_taps / taps][4][taps], or where they are alone [n_taps][4][4]
    const float* multiplier;
    const int32_t* bias;    // 4 of each
    Rounding out;
};

// Both operands, each line up to a whole vector of any width, and a vector behind them.
inline int64_t qmatmul_scratch(int64_t M, int64_t N, int64_t K) {
    auto up = [](int64_t n) { return (n + 31) / 32 * 32; };
    return up(K) * up(N) + up(M) * up(K) + 64;
}

// A kernel, and what those must know who prepare its tasks.
struct SparseKernel {
    void (*run)(const SparseTask&);
    int vectors;        // of a task, at most
    double below;       // density under which it wins over the dense kernel (cost model)
    double below_taps;  // the same of a layer with several kernel positions, whose inputs do not begin at whole cache lines
};

struct QuadKernel {
    void (*run)(const QuadTask&);
    int vectors;
    double below;  // density under which it wins over the dense kernel (cost model); above 1: always
};

struct DenseKernel {
    void (*run)(const DenseTask&);
    void (*gather_rows)(const float* x, const int32_t* offsets, int rows, int vectors, float* out);  // offsets in bytes; out is DenseTask's x
    int rows, vectors;                                                                               // of a task, at most
};

// Vectors hold outputs of one position. A block is `outputs` of them; a range's last block has those that are left, up to whole vectors.
struct ColumnsKernel {
    void (*run)(const ColumnsTask&);
    int outputs;
    double gain;  // a product's speed, as a multiple of the dense kernel's (cost model)
};

// offset, of all five: what bytes in memory are less than they stand for
struct QLinearKernel {
    void (*run)(const QLinearTask&);
    int offset;
    int vectors;
    double copied;  // how often a vector of inputs is read where an aligned copy of it pays (cost model); 0: never
    int paired;  // two blocks are taken at once where, of two neighbouring channels, weights of one sign add up to at most this; 0: never
};

struct QDenseKernel {
    void (*run)(const QLinearTask&);
    int offset;
    int vectors;  // 0: it is no gain
    double from;  // density of blocks from which it is (cost model)
};

// As ColumnsKernel.
struct QColumnsKernel {
    void (*run)(const QLinearTask&);  // with `sums` of a block: [positions, up to a multiple of four][outputs]
    int offset;
    int outputs;
};

struct QMatvecKernel {
    void (*run)(const QMatvecTask&);
    int offset;
};

struct QDepthwiseKernel {
    void (*run)(const QDepthwiseTask&);
    int offset;
    int taps;    // so many weights of a channel lie side by side
    bool alone;  // a channel's weight is alone in a word, at the channel's byte, among zeros
};

template <class Function>
using Pointer = Function*;

struct Kernels {
    const char* name = nullptr;
    unsigned needs = 0;                  // Features, all of them; with those of the set that it builds on
    int width = 0;                       // floats a vector, the same for all kernels of a set
    const Kernels* builds_on = nullptr;  // gives the kernels that are not named here
#define KERNEL(name, type) type name = {};
#include "kernels.inc"
#undef KERNEL
};

#define KERNEL_SET(name) extern const Kernels kernels_##name;  // as its file has it: not complete
#include "sets.inc"
#undef KERNEL_SET

// The best set that the features allow. MMRT_ISA=name forces one: an unknown name, or one that the CPU lacks, throws
// std::runtime_error with the names that there are.
const Kernels& choose_kernels(unsigned features, const char* forced);

// All sets compiled in, best first, and complete: what one builds on is filled in.
const Kernels* const* all_kernels(int* count);

}  // namespace mmrt
