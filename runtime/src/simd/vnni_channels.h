// A depthwise convolution's sums where four products are one instruction. Four products that are added at once are one channel's where three of
// the four weights are 0: four instructions a tap, and no byte need move.
#pragma once

namespace mmrt {
namespace {

constexpr int Q_TAPS = 1, MOST_TAPS = 1, CHANNEL_WORDS = W, CHANNEL_STEPS = W == 16 ? 4 : 2;
constexpr bool Q_ALONE = true;

struct Channels {
    const float* multiplier;
    const int32_t* bias;
    Narrowing to;
};
MMRT_INLINE Channels channels_of(const QDepthwiseTask& task) { return {task.multiplier, task.bias, narrowing_of(task.out)}; }

template <int T>
struct ChannelSums {
    VI of[T][4];
    explicit inline __attribute__((always_inline)) ChannelSums(const Channels& how) {
        for (int c = 0; c < 4; ++c)
            for (int t = 0; t < T; ++t) of[t][c] = splat_int(how.bias[c]);
    }
};
template <int, int T>
MMRT_INLINE void add_taps(ChannelSums<T>& sums, const uint32_t* x, const int32_t* taps, const int8_t* weights) {
    VI in[T];
    for (int t = 0; t < T; ++t) in[t] = load_ints(x + taps[0] + t * W);
    for (int c = 0; c < 4; ++c) {
        uint32_t word;
        std::memcpy(&word, weights + 4 * c, 4);
        const Four w = four_weights(word);
        for (int t = 0; t < T; ++t) sums.of[t][c] = dot(sums.of[t][c], in[t], w);
    }
}
template <int T>
MMRT_INLINE void store_channels(uint32_t* y, const ChannelSums<T>& sums, const Channels& how) {
    for (int t = 0; t < T; ++t) {
        V rows[4];
        for (int c = 0; c < 4; ++c) rows[c] = to_float(sums.of[t][c]) * splat(how.multiplier[c]);
        store_ints(y + t * W, words_of(rows[0], rows[1], rows[2], rows[3], how.to));
    }
}

}  // namespace
}  // namespace mmrt
