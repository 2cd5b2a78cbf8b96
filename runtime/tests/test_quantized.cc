// Every set of kernels that this CPU runs, bit for bit against loops written for reading: the operations on uint8.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "each_set.h"
#include "halo.h"

using namespace mmrt;

namespace {

constexpr int64_t MARGIN = 128;  // words before and behind what an operation may touch, so that it can be seen not to

// Words with every byte value, 255 and 0 often: AVX2 adds products with the one in 16 bits, NEON those with the other.
std::vector<float> random_words(check::Random& random, int64_t count) {
    std::vector<float> out(static_cast<size_t>(count));
    for (float& word : out) {
        uint8_t bytes[4];
        for (uint8_t& byte : bytes) byte = uint8_t((random.below(3) ? random.below(256) : random.below(2) * 255) ^ FLIPPED);
        std::memcpy(&word, bytes, 4);
    }
    return out;
}

int byte_at(const std::vector<float>& arena, int64_t word, int channel) {
    return reinterpret_cast<const uint8_t*>(arena.data() + word)[channel] ^ uint8_t(FLIPPED);
}

int rounded(float value, const Rounding& r) {
    const float q = std::nearbyintf(value) + r.zero;
    return int(std::min(std::max(q, r.low), r.high));
}

int summed(int a, int b, const Sum& s) {
    const float value = std::fma(float(a), s.a_ratio, std::fma(float(b), s.b_ratio, s.offset));
    return int(std::min(std::max(std::nearbyintf(value), s.low), s.high));
}

struct Case {
    int inputs, outputs, positions, groups;  // inputs and outputs in words
    std::vector<int32_t> taps;
    int density;  // percent of blocks
    bool residual;
    int extreme;         // 1: bytes of 255 and the largest weights, 2: bytes of 0 and the least
    bool copied = false;  // by sets that copy inputs to whole cache lines
    bool columns = false;  // by sets whose vectors may hold outputs of one position
};

std::string name(const Kernels& set, const Case& c) {
    return std::string(set.name) + " qlinear " + std::to_string(c.inputs) + "x" + std::to_string(c.outputs) + " P" + std::to_string(c.positions) + " taps " +
           std::to_string(c.taps.size()) + " groups " + std::to_string(c.groups) + " density " + std::to_string(c.density) + (c.residual ? " residual" : "");
}

void qlinear_case(const Kernels& set, const Case& c, int threads) {
    check::Random random(uint64_t(c.inputs * 1000 + c.outputs * 100 + c.positions + c.density));
    const int outputs = 4 * c.outputs, words = c.inputs / c.groups, taps = int(c.taps.size());
    const int64_t stride = c.positions == 1 ? 1 : (c.positions + 15) / 16 * 16 + 16;
    const int64_t x_at = MARGIN, y_at = x_at + c.inputs * stride + MARGIN, r_at = y_at + c.outputs * stride + MARGIN;
    std::vector<float> arena = random_words(random, r_at + c.outputs * stride + MARGIN);
    if (c.extreme)
        for (float& word : arena) std::memset(&word, int((c.extreme == 1 ? 255 : 0) ^ (FLIPPED & 255)), 4);
    std::vector<uint8_t> mask(size_t(outputs) * words * taps / 8 + 65);
    std::vector<int8_t> values, all(size_t(outputs) * words * taps * 4);
    for (int64_t i = 0; i < int64_t(outputs) * words * taps; ++i) {
        if (int(random.below(100)) >= c.density) continue;
        mask[i / 8] |= 1 << i % 8;
        for (int k = 0; k < 4; ++k) {
            const int8_t w = c.extreme ? (i % 2 && c.extreme == 1 ? MOST_WEIGHT : -MOST_WEIGHT) : int8_t(int(random.below(129)) - 64);
            all[i * 4 + k] = w;
            values.push_back(w);
        }
    }
    std::vector<float> multiplier(outputs);
    std::vector<int32_t> bias(outputs);
    for (int o = 0; o < outputs; ++o) {
        multiplier[o] = o % 7 == 3 ? 0.f : 0.0001f * float(1 + random.below(100)) / float(1 + words * taps / 8);
        bias[o] = int32_t(random.below(20000)) - 10000;
    }
    QLinearDesc d;
    d.x = {x_at, stride, c.inputs, c.positions};
    d.y = {y_at, stride, c.outputs, c.positions};
    d.residual = {r_at, stride, c.outputs, c.positions};
    d.taps = c.taps;
    d.groups = c.groups;
    d.mask = mask;
    d.values = values;
    d.blocks = int64_t(values.size()) / 4;
    d.multiplier = multiplier;
    d.bias = bias;
    d.out = {7, 7, 201};
    d.has_residual = c.residual;
    d.sum = {0.37f, 1.21f, -154.47f, 3, 255};
    d.residual_first = c.density % 2;
    const std::vector<float> before = arena;
    const Step step = make_qlinear(d, set, threads);
    if (c.copied) check::that((step.kernel.find("copied") != std::string::npos) == (set.qlinear.copied > 0), name(set, c) + " is copied");
    if (c.columns) check::that((step.kernel.find("columns") != std::string::npos) == (set.qcolumns.run != nullptr), name(set, c) + " is in columns");
    for (int item = 0; item < step.items; ++item) step.run(item, arena.data());
    bool same = true;
    for (int o = 0; o < outputs; ++o)
        for (int p = 0; p < c.positions; ++p) {
            const int group = o / (outputs / c.groups);
            int64_t sum = bias[o];
            for (int k = 0; k < words; ++k)
                for (int t = 0; t < taps; ++t)
                    for (int i = 0; i < 4; ++i)
                        sum += all[((int64_t(o) * words + k) * taps + t) * 4 + i] * byte_at(before, x_at + (group * words + k) * stride + p + c.taps[t], i);
            int q = rounded(float(int32_t(sum)) * multiplier[o], d.out);
            const int other = byte_at(before, r_at + o / 4 * stride + p, o % 4);
            if (c.residual) q = d.residual_first ? summed(other, q, d.sum) : summed(q, other, d.sum);
            same = same && q == byte_at(arena, y_at + o / 4 * stride + p, o % 4);
        }
    check::that(same, name(set, c));
    const int64_t end = c.positions == 1 ? y_at + c.outputs : y_at + (c.outputs - 1) * stride + (c.positions + 15) / 16 * 16;
    check::that(std::memcmp(arena.data(), before.data(), size_t(y_at) * 4) == 0, name(set, c) + ": nothing before y is written");
    check::that(std::memcmp(arena.data() + end, before.data() + end, (arena.size() - size_t(end)) * 4) == 0, name(set, c) + ": nothing behind y is written");
}

void qlinear_cases(const Kernels& set) {
    const std::vector<int32_t> one = {0}, nine = {-17, -16, -15, -1, 0, 1, 15, 16, 17};
    for (int positions : {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129})
        for (int density : {0, 15, 100}) qlinear_case(set, {5, 3, positions, 1, positions == 1 ? one : nine, density, density == 15, 0}, 1);
    for (int inputs : {1, 2, 7, 8, 9, 40, 700}) qlinear_case(set, {inputs, 2, 20, 1, one, 30, false, 0}, 1);
    for (int inputs : {1, 7, 8, 9, 64, 333}) qlinear_case(set, {inputs, 25, 1, 1, one, 60, true, 0}, 2);
    for (int threads : {1, 2, 5}) qlinear_case(set, {12, 9, 50, 3, nine, 40, true, 0}, threads);
    qlinear_case(set, {6, 4, 1, 2, one, 50, false, 0}, 3);
    qlinear_case(set, {600, 9, 70, 3, nine, 30, true, 0}, 2);  // inputs in chunks
    const std::vector<int32_t> shared = {-18, -17, -16, -1, 0, 1, 16, 17, 18}, apart = {-11, -10, -9, -1, 0, 1, 9, 10, 11};
    for (int threads : {1, 3})
        for (int positions : {40, 200, 700}) {
            qlinear_case(set, {24, 40, positions, 2, shared, 40, true, 0, true}, threads);
            qlinear_case(set, {150, 20, positions, 1, apart, 35, false, 0, true}, threads);
        }
    for (int positions : {2, 3, 5, 6})
        for (int threads : {1, 2, 5}) {
            qlinear_case(set, {24, 16, positions, 1, nine, 100, false, 0, false, true}, threads);
            qlinear_case(set, {60, 66, positions, 3, nine, 70, true, 0, false, true}, threads);  // 88 outputs a group: a part of a vector
            qlinear_case(set, {301, 7, positions, 1, one, 71, true, 0, false, true}, threads);
        }
    for (int positions : {4, 7, 11, 12, 13, 19, 49, 55, 100}) qlinear_case(set, {80, 17, positions, 1, nine, 80, positions % 2 == 1, 0}, 2);
    for (int extreme : {1, 2}) qlinear_case(set, {2000, 8, 3, 1, one, 100, false, extreme, false, true}, 1);
    for (int positions : {1, 24})
        for (int extreme : {1, 2}) qlinear_case(set, {2000, 1, positions, 1, one, 100, false, extreme}, 1);  // the largest sums
}

void qdepthwise_case(const Kernels& set, int channels, int positions, std::vector<int32_t> taps, int extreme) {
    check::Random random(uint64_t(channels * 100 + positions));
    const int64_t stride = positions == 1 ? 1 : (positions + 15) / 16 * 16 + 16, y_at = MARGIN + channels * stride + MARGIN;
    std::vector<float> arena = random_words(random, y_at + channels * stride + MARGIN);
    if (extreme)
        for (float& word : arena) std::memset(&word, extreme == 1 ? 255 ^ int(FLIPPED & 255) : int(FLIPPED & 255), 4);
    std::vector<int8_t> weights(size_t(channels) * taps.size() * 4);
    for (int8_t& w : weights) w = extreme ? -64 : int8_t(int(random.below(129)) - 64);
    std::vector<float> multiplier(4 * channels);
    std::vector<int32_t> bias(4 * channels);
    for (int i = 0; i < 4 * channels; ++i) multiplier[i] = 0.0005f * float(1 + random.below(20)), bias[i] = int32_t(random.below(2000)) - 1000;
    QDepthwiseDesc d;
    d.x = {MARGIN, stride, channels, positions};
    d.y = {y_at, stride, channels, positions};
    d.taps = taps;
    d.weights = weights;
    d.multiplier = multiplier;
    d.bias = bias;
    d.out = {120, 0, 250};
    const std::vector<float> before = arena;
    const Step step = make_qdepthwise(d, set);
    for (int item = 0; item < step.items; ++item) step.run(item, arena.data());
    bool same = true;
    for (int c = 0; c < 4 * channels; ++c)
        for (int p = 0; p < positions; ++p) {
            int32_t sum = bias[c];
            for (size_t t = 0; t < taps.size(); ++t)
                sum += weights[(size_t(c / 4) * taps.size() + t) * 4 + c % 4] * byte_at(before, MARGIN + c / 4 * stride + p + taps[t], c % 4);
            same = same && rounded(float(sum) * multiplier[c], d.out) == byte_at(arena, y_at + c / 4 * stride + p, c % 4);
        }
    check::that(same, std::string(set.name) + " qdepthwise P" + std::to_string(positions) + " taps " + std::to_string(taps.size()));
}

void others(const Kernels& set) {
    check::Random random(5);
    for (int positions : {1, 3, 8, 16, 17, 40}) {
        const int words = 3, channels = 10;
        const int64_t stride = positions == 1 ? 1 : (positions + 15) / 16 * 16 + 16, gap = 12 * stride + MARGIN;
        const int64_t a = MARGIN, b = a + gap, y = b + gap, f = y + gap;
        const std::string where = std::string(set.name) + " P" + std::to_string(positions);
        std::vector<float> arena = random_words(random, f + gap);
        auto run = [&](const Step& step) {
            for (int item = 0; item < step.items; ++item) step.run(item, arena.data());
        };
        auto each = [&](auto same) {
            bool all = true;
            for (int c = 0; c < channels; ++c)
                for (int p = 0; p < positions; ++p) all = all && same(c, c / 4 * stride + p, c % 4, p);
            return all;
        };
        QAddDesc add{{a, stride, words, positions}, {b, stride, words, positions}, {y, stride, words, positions}, {0.7f, 0.51f, -20.4f, 90, 255}};
        run(make_qadd(add, set));
        check::that(each([&](int, int64_t at, int i, int) {
                        return byte_at(arena, y + at, i) == summed(byte_at(arena, a + at, i), byte_at(arena, b + at, i), add.sum);
                    }),
                    where + " qadd");
        QPoolDesc pool{{a, stride, words, positions}, {y, stride, words, positions}, {0, 1, 5}};
        run(make_qpool(pool, set));
        check::that(each([&](int, int64_t at, int i, int) {
                        int most = 0;
                        for (int32_t tap : pool.taps) most = std::max(most, byte_at(arena, a + at + tap, i));
                        return byte_at(arena, y + at, i) == most;
                    }),
                    where + " qpool");
        std::vector<uint8_t> table(256);
        for (uint8_t& entry : table) entry = uint8_t(random.below(256));
        run(make_qtable({{a, stride, words, positions}, {y, stride, words, positions}, table}, set));
        check::that(each([&](int, int64_t at, int i, int) { return byte_at(arena, y + at, i) == table[byte_at(arena, a + at, i)]; }), where + " qtable");
        DequantizeDesc out{{a, stride, words, positions}, {f, stride, channels, positions}, 0.043f, 77};
        run(make_dequantize(out, set));
        check::that(each([&](int c, int64_t at, int i, int p) { return arena[f + c * stride + p] == (float(byte_at(arena, a + at, i)) - 77.f) * 0.043f; }),
                    where + " dequantize");
        for (int c = 0; c < channels; ++c)
            for (int p = 0; p < positions; ++p) arena[f + c * stride + p] = float(int(random.below(4000)) - 2000) / 8 * 0.025f;  // ties too
        QuantizeDesc in{{f, stride, channels, positions}, {y, stride, words, positions}, 0.05f, {100, 0, 255}};
        run(make_quantize(in, set));
        check::that(each([&](int c, int64_t at, int i, int p) { return byte_at(arena, y + at, i) == rounded(arena[f + c * stride + p] / 0.05f, in.out); }),
                    where + " quantize");
    }
}

// c = a b of what uint8 makes of both, and of the product. a's columns, its lines or neither lie together.
void qmatmul_case(const Kernels& set, int M, int N, int K, int layout) {
    check::Random random(uint64_t(M * 10000 + N * 100 + K + layout));
    const int batch = 2;
    const int64_t b_row = N + 5, c_row = N + 3, a_size = int64_t(M) * K * 2;
    const int64_t a0 = MARGIN, b0 = a0 + batch * a_size, c0 = b0 + batch * K * b_row + MARGIN, end = c0 + batch * M * c_row + MARGIN;
    std::vector<float> arena(size_t(end), -7.f);
    for (int64_t i = a0; i < c0; ++i) arena[i] = float(int(random.below(4000)) - 2000) / 8 * 0.02f;  // ties and what is beyond a byte too
    QMatmulDesc d;
    MatmulDesc& f = d.floats;
    f.a = {{},
           a0,
           {batch, M, K},
           layout == 0   ? std::vector<int64_t>{a_size, 1, M}
           : layout == 1 ? std::vector<int64_t>{a_size, K, 1}
                         : std::vector<int64_t>{a_size, 2 * K, 2}};
    f.b = {{}, b0, {batch, K, N}, {K * b_row, b_row, 1}};
    f.c = {{}, c0, {batch, M, N}, {M * c_row, c_row, 1}};
    d.a = {0.02f, 120}, d.b = {0.03f, 0}, d.c = {0.5f, 131}, d.multiplier = 0.02f * 0.03f / 0.5f;
    const std::vector<float> before = arena;
    const Step step = make_qmatmul(d, set);
    for (int item = 0; item < step.items; ++item) step.run(item, arena.data());
    bool same = true, kept = true;
    auto centred = [](float x, const Number& n) { return rounded(x / n.scale, {n.zero, 0, 255}) - int(n.zero); };
    for (int i = 0; i < batch; ++i)
        for (int m = 0; m < M; ++m)
            for (int64_t n = 0; n < c_row; ++n) {
                const int64_t at = c0 + (i * M + m) * c_row + n;
                if (n >= N) {
                    kept = kept && arena[at] == before[at];
                    continue;
                }
                int32_t sum = 0;
                for (int k = 0; k < K; ++k)
                    sum += centred(before[a0 + i * f.a.strides[0] + m * f.a.strides[1] + k * f.a.strides[2]], d.a) *
                           centred(before[b0 + (i * K + k) * b_row + n], d.b);
                same = same && arena[at] == float(rounded(float(sum) * d.multiplier, {d.c.zero, 0, 255}) - int(d.c.zero)) * d.c.scale;
            }
    const std::string name =
        std::string(set.name) + " qmatmul " + std::to_string(M) + "x" + std::to_string(N) + "x" + std::to_string(K) + " layout " + std::to_string(layout);
    check::that(same, name);
    check::that(kept, name + ": nothing behind a row is written");
}

// Quotients that are ties, or next to one, of many scales: what a division rounds to, to the last bit.
void division_cases(const Kernels& set) {
    check::Random random(11);
    const int positions = 64;
    for (int i = 0; i < 4000; ++i) {
        const float scale = std::ldexp(1 + random.uniform(), int(random.below(24)) - 16) * (i % 50 == 0 ? 1e-28f : 1.f);
        const Rounding out{float(random.below(256)), 0, 255};
        std::vector<float> x(positions), words(positions + 16);
        for (float& v : x) {
            v = (float(int(random.below(520)) - 260) + 0.5f) * scale;
            for (uint32_t ulps = random.below(4); ulps > 0; --ulps) v = std::nextafter(v, random.below(2) ? 1e30f : -1e30f);
        }
        set.quantize(x.data(), positions, 1, reinterpret_cast<uint32_t*>(words.data()), positions, scale, out);
        bool same = true;
        for (int p = 0; p < positions; ++p) same = same && byte_at(words, p, 0) == rounded(x[p] / scale, out);
        if (!same) return check::that(false, std::string(set.name) + " quantize divides by " + std::to_string(scale));
    }
    check::that(true, std::string(set.name) + " quantize divides");
}

// The mean of an image whose lines lie apart, 300 long: more than a 16-bit sum takes.
void qmean_case(const Kernels& set) {
    check::Random random(3);
    const int words = 2, height = 3, width = 300, pitch = 310;
    const int64_t x = MARGIN, y = x + words * height * pitch + MARGIN;
    std::vector<float> arena = random_words(random, y + words + MARGIN);
    QMeanDesc d;
    d.x = {{}, x, {words, height, width}, {height * pitch, pitch, 1}};
    d.y = {y, 1, words, 1};
    d.multiplier = 0.8f / (height * width), d.bias = -20 * height * width, d.out = {15, 15, 240};
    const std::vector<float> before = arena;
    const Step step = make_qmean(d, set);
    for (int item = 0; item < step.items; ++item) step.run(item, arena.data());
    bool same = true;
    for (int c = 0; c < 4 * words; ++c) {
        int32_t sum = d.bias;
        for (int h = 0; h < height; ++h)
            for (int w = 0; w < width; ++w) sum += byte_at(before, x + (c / 4 * height + h) * pitch + w, c % 4);
        same = same && rounded(float(sum) * d.multiplier, d.out) == byte_at(arena, y + c / 4, c % 4);
    }
    check::that(same, std::string(set.name) + " qmean");
}

}  // namespace

int main() {
    check::each_set([](const Kernels& set) {
        qmean_case(set);
        qlinear_cases(set);
        for (int positions : {1, 2, 8, 9, 16, 55}) {
            qdepthwise_case(set, 3, positions, {0}, 0);
            qdepthwise_case(set, 2, positions, {-17, -16, -15, -1, 0, 1, 15, 16, 17}, 0);
            for (int extreme : {1, 2}) qdepthwise_case(set, 1, positions, std::vector<int32_t>(25, 1), extreme);
        }
        others(set);
        division_cases(set);
        for (int n : {1, 5, 8, 16, 17, 33, 64, 65})
            for (int m : {1, 3, 8, 13})
                for (int k : {1, 6, 17}) qmatmul_case(set, m, n, k, (m + n + k) % 3);
        for (int layout : {0, 1, 2}) qmatmul_case(set, 9, 20, 600, layout);  // more than floats sum exactly
    });
    return check::finish();
}
