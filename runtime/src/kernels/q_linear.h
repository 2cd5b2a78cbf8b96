// QLINEAR on many positions, on uint8 activations, four channels in a word. Every instruction set gives the same bits: integers, and floats
// whose products are rounded before they are added.
#pragma once

#include "q_adding.h"

namespace mmrt {
namespace {

constexpr int LONG_ROW = 24;  // blocks

// Blocks that are added to sums of their own: T sums alone would wait for each other, where a product's sum takes several cycles.
constexpr int sums_at_once(int vectors) { return Q_SUMS / vectors < 1 ? 1 : Q_SUMS / vectors > 8 ? 8 : Q_SUMS / vectors; }

// Both halves of a block by one read, where reads are what the inner loop waits for: with VNNI, and more than two vectors.
template <int T>
MMRT_INLINE QBlock read_block(const QBlock* p) {
    if (Q_SUMS == 1 || T <= 2) return *p;
    uint64_t both;
    std::memcpy(&both, p, sizeof both);
    asm("" : "+r"(both));  // the compiler would make two reads of it again
    return {int32_t(both), uint32_t(both >> 32)};
}

struct Finishing {
    Clamp clamp;
    Narrowing to;
    Adding adding;
};

MMRT_INLINE Finishing finishing_of(const QLinearTask& task) { return {clamp_of(task.out), narrowing_of(task.out), adding_of(task.sum)}; }

// Four rows become one of words.
template <int T>
MMRT_INLINE void finish(const QLinearTask& task, int quad, V (&rows)[T][4], const Finishing& how) {
    uint32_t* y = task.y + quad * task.y_stride;
    UNROLL for (int t = 0; t < T; ++t) {
        if (task.residual) {
            V others[4];
            read_rows(task.residual + quad * task.residual_stride + t * W, others);
            for (V& row : rows[t]) row = quantized_float(row, how.clamp);
            store_ints(y + t * W, task.residual_first ? added(others, rows[t], how.adding) : added(rows[t], others, how.adding));
        } else {
            store_ints(y + t * W, words_of(rows[t][0], rows[t][1], rows[t][2], rows[t][3], how.to));
        }
    }
}

template <int T>
void qlinear_rows(const QLinearTask& task) {
    const Finishing how = finishing_of(task);
    const QBlock* block = task.blocks;
    const char* x = reinterpret_cast<const char*>(task.x);
    for (int quad = 0; quad < task.n_quads; ++quad) {
        V rows[T][4];
        for (int r = 0; r < 4; ++r) {
            const int row = 4 * quad + r;
            VI acc[T];
            uint32_t* sums = task.sums ? reinterpret_cast<uint32_t*>(task.sums) + row * T * W : nullptr;
            UNROLL for (int t = 0; t < T; ++t) acc[t] = task.first ? splat_int(task.bias[row]) : load_ints(sums + t * W);
            const QBlock* end = block + task.counts[row];
            if (Q_PAIRED)
                for (const QBlock* last = block + 2 * task.pairs[row]; block < last; block += 2) {
                    const Two w = two_weights(block);
                    const uint32_t* from = reinterpret_cast<const uint32_t*>(x + block[0].offset);
                    const uint32_t* other = reinterpret_cast<const uint32_t*>(x + block[1].offset);
                    UNROLL for (int t = 0; t < T; ++t) acc[t] = dot_two(acc[t], load_ints(from + t * W), load_ints(other + t * W), w);
                }
            if (constexpr int N = sums_at_once(T); N > 1 && end - block >= LONG_ROW) {
                VI sums_of[N][T];
                UNROLL for (int n = 0; n < N; ++n) { UNROLL for (int t = 0; t < T; ++t) sums_of[n][t] = n ? splat_int(0) : acc[t]; }
                for (const QBlock* ahead = block; ahead < end; ahead += 8) __builtin_prefetch(ahead + 256);  // few positions use a weight up quickly
                for (; block + N <= end; block += N) {
                    UNROLL for (int n = 0; n < N; ++n) {
                        const Four w = four_weights(block[n].weights);
                        const uint32_t* from = reinterpret_cast<const uint32_t*>(x + block[n].offset);
                        UNROLL for (int t = 0; t < T; ++t) sums_of[n][t] = dot(sums_of[n][t], load_ints(from + t * W), w);
                    }
                }
                UNROLL for (int t = 0; t < T; ++t) {
                    acc[t] = sums_of[0][t];
                    UNROLL for (int n = 1; n < N; ++n) acc[t] += sums_of[n][t];
                }
            }
            for (; block < end; ++block) {
                const QBlock b = read_block<T>(block);
                const Four w = four_weights(b.weights);
                const uint32_t* from = reinterpret_cast<const uint32_t*>(x + b.offset);
                UNROLL for (int t = 0; t < T; ++t) acc[t] = dot(acc[t], load_ints(from + t * W), w);
            }
            if (!task.last) {
                UNROLL for (int t = 0; t < T; ++t) store_ints(sums + t * W, acc[t]);
                continue;
            }
            const V multiplier = splat(task.multiplier[row]);
            UNROLL for (int t = 0; t < T; ++t) rows[t][r] = to_float(acc[t]) * multiplier;
        }
        if (task.last) finish<T>(task, quad, rows, how);
    }
}

void qlinear(const QLinearTask& task) {
    with_count<Q_VECTORS>(task.vectors, [&](auto vectors) { qlinear_rows<vectors.value>(task); });
}

template <int T>
void qdense_rows(const QLinearTask& task) {
    const Finishing how = finishing_of(task);
    const char* x = reinterpret_cast<const char*>(task.x);
    const uint32_t* weights = task.weights;
    for (int quad = 0; quad < task.n_quads; ++quad) {
        VI acc[4][T];
        UNROLL for (int r = 0; r < 4; ++r) { UNROLL for (int t = 0; t < T; ++t) acc[r][t] = splat_int(task.bias[4 * quad + r]); }
        for (int i = 0; i < task.n_offsets; ++i, weights += 4) {
            const uint32_t* from = reinterpret_cast<const uint32_t*>(x + task.offsets[i]);
            const Quad w = quad_weights(weights);
            VI in[T];
            UNROLL for (int t = 0; t < T; ++t) in[t] = load_ints(from + t * W);
            UNROLL for (int t = 0; t < T; ++t) acc[0][t] = dot_row<0>(acc[0][t], in[t], w);
            UNROLL for (int t = 0; t < T; ++t) acc[1][t] = dot_row<1>(acc[1][t], in[t], w);
            UNROLL for (int t = 0; t < T; ++t) acc[2][t] = dot_row<2>(acc[2][t], in[t], w);
            UNROLL for (int t = 0; t < T; ++t) acc[3][t] = dot_row<3>(acc[3][t], in[t], w);
        }
        V rows[T][4];
        UNROLL for (int r = 0; r < 4; ++r) {
            const V multiplier = splat(task.multiplier[4 * quad + r]);
            UNROLL for (int t = 0; t < T; ++t) rows[t][r] = to_float(acc[r][t]) * multiplier;
        }
        finish<T>(task, quad, rows, how);
    }
}

void qdense(const QLinearTask& task) {
    with_count<Q_DENSE_VECTORS>(task.vectors, [&](auto vectors) { qdense_rows<vectors.value>(task); });
}

constexpr QLinearKernel QLINEAR = {.run = qlinear, .offset = Q_OFFSET, .vectors = Q_VECTORS, .copied = Q_COPIED, .paired = Q_PAIRED};
constexpr QDenseKernel QDENSE = {.run = qdense, .offset = Q_OFFSET, .vectors = Q_DENSE_VECTORS, .from = Q_DENSE_FROM};

}  // namespace
}  // namespace mmrt
