// One float, one word: what every machine has.
#pragma once

#include "inline.h"

namespace mmrt {
namespace {

constexpr int W = 1;
constexpr int SPARSE_VECTORS = 8, DENSE_ROWS = 4, DENSE_VECTORS = 1;
constexpr int QUAD_VECTORS = 2;
constexpr double QUADS_BELOW = 0.9;
constexpr double SPARSE_BELOW = 0.9, SPARSE_BELOW_TAPS = 0.9;
constexpr bool BY_LANE = false, MAX_KEEPS_NAN = false;

using V = float;
using VU = uint32_t;
MMRT_INLINE V load(const float* p) { return *p; }
MMRT_INLINE void store(float* p, V v) { *p = v; }
MMRT_INLINE V load_part(const float* p, int64_t n) { return n > 0 ? *p : 0.f; }
MMRT_INLINE void store_part(float* p, V v, int64_t n) {
    if (n > 0) *p = v;
}
MMRT_INLINE V splat(float a) { return a; }
MMRT_INLINE float lane(V v, int) { return v; }
MMRT_INLINE V vmax(V a, V b) { return a > b ? a : b; }
MMRT_INLINE V vmin(V a, V b) { return a < b ? a : b; }
MMRT_INLINE V vmax_nan(V a, V b) { return a > b || a != a ? a : b; }
MMRT_INLINE V vsqrt(V a) { return std::sqrt(a); }
MMRT_INLINE V vfma(V a, V b, V c) { return std::fma(a, b, c); }
MMRT_INLINE V select_negative(V x, V yes, V no) { return x < 0 ? yes : no; }
MMRT_INLINE const float* in_register(const float* p) { return p; }

using VI = int32_t;
MMRT_INLINE VI load_ints(const uint32_t* p) { return static_cast<int32_t>(*p); }
MMRT_INLINE void store_ints(uint32_t* p, VI v) { *p = static_cast<uint32_t>(v); }
MMRT_INLINE VI splat_int(int32_t a) { return a; }
MMRT_INLINE V to_float(VI v) { return static_cast<float>(v); }
MMRT_INLINE VI to_int(V v) { return static_cast<int32_t>(std::lrint(v)); }  // of NaN some number, where a cast would be undefined
MMRT_INLINE VI byte_of(VI v, int i) { return static_cast<int32_t>(static_cast<uint32_t>(v) >> (8 * i) & 255); }
MMRT_INLINE VI at_byte(VI v, int i) { return static_cast<int32_t>(static_cast<uint32_t>(v) << (8 * i)); }
MMRT_INLINE VI unflipped(VI v) { return v ^ static_cast<int32_t>(FLIPPED); }

constexpr int Q_VECTORS = 8, Q_OFFSET = 0, Q_SUMS = 1, Q_DENSE_VECTORS = 0;
constexpr double Q_COPIED = 0;
constexpr double Q_DENSE_FROM = 0.5;
using Four = uint32_t;
MMRT_INLINE Four four_weights(uint32_t w) { return w; }
MMRT_INLINE VI dot(VI acc, VI x, Four w) {
    for (int i = 0; i < 4; ++i) acc += byte_of(unflipped(x), i) * static_cast<int8_t>(w >> (8 * i));
    return acc;
}
MMRT_INLINE int64_t dot_line(const uint32_t*, const uint32_t*, int64_t, int32_t*) { return 0; }

using Table = const uint8_t*;
MMRT_INLINE Table table_of(const uint8_t* entries) { return entries; }
MMRT_INLINE VI look_up(Table table, VI bytes) {
    uint8_t four[4];
    std::memcpy(four, &bytes, 4);
    for (uint8_t& byte : four) byte = table[byte];
    std::memcpy(&bytes, four, 4);
    return bytes;
}

}  // namespace
}  // namespace mmrt

#include "narrow_words.h"
#include "no_pairs.h"
#include "packed_floats.h"
#include "quads.h"
#include "shifted_rows.h"

namespace mmrt {
namespace {

constexpr int Q_TAPS = 1, MOST_TAPS = 1, CHANNEL_WORDS = 1, CHANNEL_STEPS = 1;
constexpr bool Q_ALONE = false;

struct Channels {
    const float* multiplier;
    const int32_t* bias;
    Clamp clamp;
};
MMRT_INLINE Channels channels_of(const QDepthwiseTask& task) { return {task.multiplier, task.bias, clamp_of(task.out)}; }

template <int>
struct ChannelSums {
    int32_t of[4];
    explicit ChannelSums(const Channels& how) { std::memcpy(of, how.bias, sizeof of); }
};
template <int, int T>
MMRT_INLINE void add_taps(ChannelSums<T>& sums, const uint32_t* x, const int32_t* taps, const int8_t* weights) {
    for (int c = 0; c < 4; ++c) sums.of[c] += byte_of(unflipped(load_ints(x + taps[0])), c) * weights[c];
}
template <int T>
MMRT_INLINE void store_channels(uint32_t* y, const ChannelSums<T>& sums, const Channels& how) {
    int32_t word = 0;
    for (int c = 0; c < 4; ++c) word |= at_byte(quantized(to_float(sums.of[c]) * how.multiplier[c], how.clamp), c);
    store_ints(y, unflipped(word));
}

}  // namespace
}  // namespace mmrt
