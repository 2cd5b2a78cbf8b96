// What this core can do at best, for the rooflines of mmrt-bench.
#pragma once

#include "simd/vector.h"

namespace mmrt {
namespace {

// n multiply-adds of single floats, in twelve independent chains: more than latency times units of any core that we know. The result
// depends on all of them, so none can be left out.
float multiply_adds(int64_t n) {
    V acc[12];
    for (int j = 0; j < 12; ++j) acc[j] = splat(float(j));
    const V half = splat(0.5f);
    for (int64_t i = 0; i < n; i += 12 * W)
        for (int j = 0; j < 12; ++j) acc[j] = acc[j] * half + half;
    for (int j = 1; j < 12; ++j) acc[0] += acc[j];
    return vsum(acc[0]);
}

// The same of bytes, n multiply-adds: four a word in products of words with weights.
int32_t multiply_bytes(int64_t n) {
    VI acc[12];
    for (int j = 0; j < 12; ++j) acc[j] = splat_int(j);
    const Four w = four_weights(0x01010101);
    for (int64_t i = 0; i < n; i += 12 * 4 * W)
        for (int j = 0; j < 12; ++j) acc[j] = dot(acc[j], acc[j], w);
    for (int j = 1; j < 12; ++j) acc[0] += acc[j];
    uint32_t sums[W];
    store_ints(sums, acc[0]);
    return static_cast<int32_t>(sums[0]);
}

// Reads the n floats at p, n a multiple of 8 W, `times` times.
float read_floats(const float* p, int64_t n, int64_t times) {
    V most[8] = {};
    for (int64_t t = 0; t < times; ++t) {
        asm volatile("" ::: "memory");  // what was read the last time may have changed
        for (int64_t i = 0; i < n; i += 8 * W)
            for (int j = 0; j < 8; ++j) most[j] = vmax(most[j], load(p + i + j * W));
    }
    for (int j = 1; j < 8; ++j) most[0] = vmax(most[0], most[j]);
    return vsum(most[0]);
}

}  // namespace
}  // namespace mmrt
