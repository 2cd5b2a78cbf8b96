// The vector type of this set of kernels, and what is computed on it alike for all sets. MMRT_SIMD, which the isa_*.cc file names, is the
// header of one instruction set; all of them define the same words:
//
//   V, W           W floats; VU and VI the same of uint32_t and int32_t
//   load, store    unaligned; load_part, store_part: the first n < W elements only, the rest are 0
//   splat, lane, vsqrt, vfma (a * b + c), select_negative (x < 0 ? yes : no)
//   vmax, vmin     where either operand is NaN, the second on x86, as maxps does, and NaN on arm64 (MAX_KEEPS_NAN)
//   vmax_nan       NaN where either operand is one
//   load_ints, store_ints, splat_int, to_float, to_int (to the nearest, ties to even), byte_of, at_byte
//   BY_LANE, in_register, SPARSE_VECTORS, SPARSE_BELOW, SPARSE_BELOW_TAPS, DENSE_ROWS, DENSE_VECTORS: how the float kernels fill the registers
//
// and for the kernels on uint8, on words as they lie in memory (FLIPPED):
//
//   Four, four_weights, dot: acc += the four products of each word's bytes with the weights; Q_OFFSET: what bytes in memory are less than they stand for
//   Q_SUMS: products that are under way at once on this core; Q_COPIED: how often a vector of inputs is read where an aligned copy of it pays; 0: never
//   Two, two_weights, dot_two: of two blocks at once, where that takes fewer instructions; Q_PAIRED: what pair_up() must know of it
//   Quad, quad_weights, dot_row<r>: the weights of four outputs, one word of inputs
//   dot_line       the sum of the products of two lines of words, so far as whole vectors go
//   Narrowing, narrowing_of, words_of: words of four rows: rounded, zero added, clamped; read_rows: four rows of words
//   Table, table_of, look_up: each byte's entry of 256
//   Channels       the four channels' sums of a depthwise convolution
//   Packed, ...    what qmatmul multiplies: packed_floats.h or packed_int16.h
//
// Everything here has internal linkage: a shared inline function compiled for AVX-512 could otherwise be the copy that the scalar file calls.
#pragma once

#include MMRT_SIMD

namespace mmrt {
namespace {

// So a value that is clamped stands second, and its NaN costs nothing to keep.
MMRT_INLINE V clamped(V x, V low, V high) { return vmin(high, vmax(low, x)); }
MMRT_INLINE V vmin_nan(V a, V b) { return -vmax_nan(-a, -b); }
MMRT_INLINE V vabs(V a) { return bits_as<V>(bits_as<VU>(a) & 0x7FFFFFFFu); }

MMRT_INLINE float vsum(V v) {
    float part[W], sum = 0;
    store(part, v);
    for (int i = 0; i < W; ++i) sum += part[i];
    return sum;
}

MMRT_INLINE float vmax_of(V v) {
    float part[W];
    store(part, v);
    float most = part[0];
    for (int i = 1; i < W; ++i) most = part[i] > most || part[i] != part[i] ? part[i] : most;
    return most;
}

MMRT_INLINE VI load_words(const uint32_t* p) { return unflipped(load_ints(p)); }
MMRT_INLINE void store_words(uint32_t* p, VI v) { store_ints(p, unflipped(v)); }

}  // namespace
}  // namespace mmrt
