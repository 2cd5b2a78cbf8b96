// NaN and infinity, in every set that this CPU runs: float kernels give what the same loops give that are written for reading, wherever
// the number lies in a vector; operations that make integers tell. And norms of numbers far from 0.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "each_set.h"
#include "halo.h"
#include "nd.h"
#include "reference_act.h"

using namespace mmrt;

namespace {

constexpr float INF = std::numeric_limits<float>::infinity();
constexpr int64_t MARGIN = 64;

float from_bits(uint32_t bits) {
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

// x86 makes the second NaN itself; the last two have payloads.
const float NANS[] = {from_bits(0x7FC00000), from_bits(0xFFC00000), from_bits(0x7FC00001), from_bits(0xFFFFFFFF)};
const float ODD[] = {NANS[0], NANS[1], NANS[2], NANS[3], INF, -INF};

bool same(float got, double want, double scale = 1) {
    if (std::isnan(want)) return std::isnan(got);
    if (std::isinf(float(want))) return got == float(want);
    return std::fabs(got - want) <= 1e-6 * scale + 4e-6 * std::fabs(want);
}

std::vector<float> filled(int64_t size, uint64_t seed) {
    check::Random random(seed);
    std::vector<float> out(static_cast<size_t>(size));
    for (float& v : out) v = random.signed_uniform();
    return out;
}

void run(const Step& step, std::vector<float>& arena, bool finite = true) {
    for (int item = step.items - 1; item >= 0; --item) step.run(item, arena.data());
    if (!finite && step.add_zeros) step.add_zeros(arena.data());
}

void test_activations(const Kernels& k) {
    for (int code = 0; code < ACTIVATIONS; ++code) {
        const Act act{code, code == 1 ? 0.f : code == 21 ? 0.04f : 0.3f, code == 1 ? INF : code == 21 ? 130.f : 0.4f};
        const std::string name = std::string(k.name) + " activation " + std::to_string(code);
        for (int n : {1, 3, 8, 16, 21})
            for (int at = 0; at < n; ++at)
                for (float odd : ODD) {
                    std::vector<float> x(n, 0.75f), y(n);
                    x[at] = odd;
                    k.unary(act, x.data(), y.data(), n);
                    bool right = true;
                    // what infinity times 0 is depends on how the activation is written: silu is x * sigmoid(x) here and in torch NaN, too
                    const double want = odd == -INF && (code == 4 || code == 6 || code == 7 || code == 8 || code == 20) ? NANS[0] : reference_act(act, odd);
                    for (int i = 0; i < n; ++i) right = right && same(y[i], i == at ? want : reference_act(act, 0.75));
                    check::that(right, name + " of " + std::to_string(odd) + " at " + std::to_string(at) + " of " + std::to_string(n));
                }
    }
    const float negative = -0.f;
    float y = 1;
    k.unary({15, 0, 0}, &negative, &y, 1);
    check::that(y == 0 && !std::signbit(y), std::string(k.name) + " |-0|");
}

// e^x over all that float32 holds, and beyond: infinity above 88.7228, 0 below.
void test_exp(const Kernels& k) {
    for (double x : {-1e30, -1000.0, -104.0, -88.0, -87.4, -87.3, -86.9, -86.0, -1.0, 0.0,   1.0, 87.5,
                     88.0,  88.37,   88.38,  88.5,  88.72, 88.73, 89.0,  89.09, 89.2, 100.0, 1e30}) {
        const float in = float(x);
        const double want = std::exp(double(in));
        float got;
        k.unary({10, 0, 0}, &in, &got, 1);
        const bool right = want < 1.2e-38 || x < -86.9 ? got >= 0 && got < 2e-38f : same(got, want, 0);
        check::that(right, std::string(k.name) + " exp of " + std::to_string(in) + ": " + std::to_string(got));
        k.unary({3, 0, 0}, &in, &got, 1);
        check::that(same(got, 1 / (1 + std::exp(-double(in)))), std::string(k.name) + " sigmoid of " + std::to_string(in));
    }
}

double binary(int fn, float a, float b) {
    if (a != a || b != b) return fn == 6 ? std::pow(a, b) : NANS[0];
    const double results[] = {double(a) + b, double(a) - b, double(a) * b, double(a) / b, std::max(a, b), std::min(a, b), std::pow(a, b)};
    return results[fn];
}

void test_binary(const Kernels& k) {
    const float values[] = {NANS[0], NANS[1], NANS[2], NANS[3], INF, -INF, 0.5f, 2.f};
    for (int fn = 0; fn < BINARIES; ++fn)
        for (float a : values)
            for (float b : values)
                for (int n : {1, 19}) {
                    const std::vector<float> left(n, a), right(n, b);
                    std::vector<float> y(n);
                    k.binary(fn, {0, 0, 0}, left.data(), 1, right.data(), n > 1 ? 0 : 1, y.data(), n);
                    check::that(same(y[0], binary(fn, a, b)) && same(y[n - 1], binary(fn, a, b)),
                                std::string(k.name) + " binary " + std::to_string(fn) + " of " + std::to_string(a) + " and " + std::to_string(b));
                }
}

double reduced(int kind, const std::vector<float>& x) {
    double sum = 0, squares = 0, most = -INF, least = INF;
    for (float v : x) {
        sum += v, squares += double(v) * v;
        if (!(v <= most)) most = most != most ? most : v;
        if (!(v >= least)) least = least != least ? least : v;
    }
    return kind == 0 ? sum : kind == 1 ? most : kind == 2 ? least : std::sqrt(squares);
}

// One odd number among n of a line, which lie side by side, or `stride` apart, each in a column among others.
void test_line(const Kernels& k, int64_t n, int64_t at, float odd) {
    const std::string name = std::string(k.name) + " of " + std::to_string(n) + " with " + std::to_string(odd) + " at " + std::to_string(at);
    std::vector<float> x = filled(n, uint64_t(n));
    x[at] = odd;
    check::that(!k.all_finite(x.data(), n), "all_finite " + name);
    const int64_t stride = 21, column = at % stride;
    std::vector<float> columns = filled(n * stride, 5), y(n), ys(n * stride), results(stride);
    for (int64_t i = 0; i < n; ++i) columns[i * stride + column] = x[i];
    for (int kind = 0; kind < REDUCTIONS; ++kind) {
        const float row = k.reduce_row(kind, x.data(), n);
        check::that(same(kind == 3 ? std::sqrt(row) : row, reduced(kind, x), double(n)), "reduction " + std::to_string(kind) + " " + name);
        k.reduce(kind, columns.data(), stride, n, results.data(), stride, 1.f);
        bool others = true;
        for (int64_t i = 0; i < stride; ++i) others = others && (i == column || std::isfinite(results[i]));
        check::that(others && same(results[column], reduced(kind, x), double(n)), "columns' reduction " + std::to_string(kind) + " " + name);
    }
    const bool all_nan = odd != -INF || n == 1;  // e^-inf is 0, a number as others
    k.softmax_row(x.data(), y.data(), n);
    k.softmax(columns.data(), stride, ys.data(), stride, n, stride);
    bool right = true;
    for (int64_t i = 0; i < n; ++i) {
        right = right && std::isnan(y[i]) == all_nan && std::isnan(ys[i * stride + column]) == all_nan && (i != at || all_nan || y[i] == 0);
        for (int64_t j = 0; j < stride; ++j) right = right && (j == column || std::isfinite(ys[i * stride + j]));
    }
    check::that(right, "softmax " + name);
    const std::vector<float> ones(n, 1.f);
    k.norm_row(x.data(), y.data(), n, 1e-5f, ones.data(), ones.data());
    k.norm(columns.data(), stride, ys.data(), stride, n, stride, 1e-5f, nullptr, nullptr);
    right = true;
    for (int64_t i = 0; i < n; ++i) {
        right = right && std::isnan(y[i]) && std::isnan(ys[i * stride + column]);
        for (int64_t j = 0; j < stride; ++j) right = right && (j == column || std::isfinite(ys[i * stride + j]));
    }
    check::that(right, "norm " + name);
}

void test_pool(const Kernels& k, int positions, int kind, float odd) {
    const int taps = 9, pitch = 7;
    PoolDesc d;
    const int64_t stride = (positions + 15) / 16 * 16 + 2 * MARGIN;
    d.x = {MARGIN, positions == 1 ? 1 : stride, 2, positions};
    d.y = {MARGIN + 2 * stride, d.x.stride, 2, positions};
    d.kind = Pooling(kind);
    d.scale = 0.5f;
    for (int t = 0; t < taps; ++t) d.taps.push_back((t / 3 - 1) * pitch + t % 3 - 1);
    for (int at = 0; at < taps; ++at) {
        std::vector<float> arena = filled(d.y.offset + 2 * stride + MARGIN, uint64_t(at));
        const int hit = positions / 2;
        arena[d.x.offset + hit + d.taps[at]] = odd;
        const std::vector<float> before = arena;
        run(make_pool(d, k), arena);
        bool right = true;
        for (int p = 0; p < positions; ++p) {
            std::vector<float> seen;
            for (int32_t tap : d.taps) seen.push_back(before[d.x.offset + p + tap]);
            right = right && same(arena[d.y.offset + p], kind ? reduced(0, seen) / 2 : reduced(1, seen), taps);
        }
        check::that(right, std::string(k.name) + " pool " + std::to_string(kind) + " of " + std::to_string(positions) + " with " + std::to_string(odd) +
                               " at tap " + std::to_string(at));
    }
}

// A product of every kind with some odd inputs, against the sum over all weights, zeros too; an image's halo stays as it is set.
void test_linear(const Kernels& k, int positions, int taps, int kernel, int groups, float odd, int act) {
    const int inputs = 12, outputs = 8, per_group = inputs / groups;
    const bool column = positions == 1;
    const int64_t stride = column ? 1 : (positions + 15) / 16 * 16 + 2 * MARGIN;
    LinearDesc d;
    d.x = {MARGIN, stride, inputs, positions};
    d.y = {2 * MARGIN + inputs * stride, stride, outputs, positions};
    for (int t = 0; t < taps; ++t) d.taps.push_back(t - taps / 2);
    d.groups = groups;
    d.kernel = kernel;
    d.act = {act, 0.f, INF};
    std::vector<float> arena = filled(d.y.offset + outputs * stride + 2 * MARGIN, 3), weights = filled(int64_t(outputs) * per_group * taps, 4);
    check::Random random(uint64_t(positions) + 1);
    for (size_t i = 0; i < weights.size(); ++i)
        if (i >= size_t(per_group * taps) && random.below(10) < 7) weights[i] = 0;  // the first output has no zeros
    d.weights.data = check::as_bytes(weights);
    d.weights.values = int64_t(weights.size());
    for (int i = 0; i < 3; ++i) arena[d.x.offset + random.below(inputs) * stride + random.below(positions)] = odd;
    const std::vector<float> before = arena;
    HaloDesc halo;
    halo.image.offset = d.y.offset;
    halo.image.dims = {outputs, 1, positions};
    halo.image.strides = {stride, positions, 1};
    halo.after = 1;
    halo.value = -2.5f;
    run(make_linear(d, k, 1, column ? nullptr : &halo), arena, false);
    bool right = true;
    for (int o = 0; o < outputs; ++o)
        for (int p = 0; p < positions; ++p) {
            double sum = 0;
            for (int c = 0; c < per_group; ++c)
                for (int t = 0; t < taps; ++t)
                    sum += double(weights[(o * per_group + c) * taps + t]) *
                           before[d.x.offset + (o / (outputs / groups) * per_group + c) * stride + p + d.taps[t]];
            right = right && same(arena[d.y.offset + o * stride + p], reference_act(d.act, sum), inputs);
        }
    for (int o = 0; o < outputs && !column; ++o) right = right && arena[d.y.offset + o * stride + positions] == -2.5f;
    check::that(right, std::string(k.name) + " linear P " + std::to_string(positions) + " taps " + std::to_string(taps) + " kernel " + std::to_string(kernel) +
                           " groups " + std::to_string(groups) + " with " + std::to_string(odd) + " act " + std::to_string(act));
}

void test_depthwise(const Kernels& k, int positions, float odd) {
    DepthwiseDesc d;
    const int64_t stride = (positions + 15) / 16 * 16 + 2 * MARGIN;
    d.x = {MARGIN, stride, 1, positions};
    d.y = {MARGIN + stride, stride, 1, positions};
    d.taps = {-1, 0, 1};
    const std::vector<float> weights = {0.f, 1.f, -2.f};  // depthwise convolutions keep their zeros
    d.weights = weights;
    d.act = {1, 0.f, 6.f};
    std::vector<float> arena = filled(d.y.offset + stride + MARGIN, 6);
    arena[d.x.offset + positions / 2] = odd;
    const std::vector<float> before = arena;
    run(make_depthwise(d, k), arena);
    bool right = true;
    for (int p = 0; p < positions; ++p) {
        double sum = 0;
        for (int t = 0; t < 3; ++t) sum += double(weights[t]) * before[d.x.offset + p + d.taps[t]];
        right = right && same(arena[d.y.offset + p], clip(sum, 0, 6), 3);
    }
    check::that(right, std::string(k.name) + " depthwise of " + std::to_string(positions) + " with " + std::to_string(odd));
}

void test_matmul(const Kernels& k, int N, float odd) {
    const int M = 5, K = 7;
    MatmulDesc d;
    d.a.dims = {M, K}, d.a.strides = {K, 1};
    d.b.offset = M * K, d.b.dims = {K, N}, d.b.strides = {N, 1};
    d.c.offset = d.b.offset + K * N + MARGIN, d.c.dims = {M, N}, d.c.strides = {N, 1};
    std::vector<float> arena = filled(d.c.offset + M * N + MARGIN, uint64_t(N));
    arena[2 * K + 3] = arena[d.b.offset + 4 * N + N - 1] = odd;
    const std::vector<float> before = arena;
    run(make_matmul(d, k), arena);
    bool right = true;
    for (int m = 0; m < M; ++m)
        for (int n = 0; n < N; ++n) {
            double sum = 0;
            for (int i = 0; i < K; ++i) sum += double(before[m * K + i]) * before[d.b.offset + i * N + n];
            right = right && same(arena[d.c.offset + m * N + n], sum, K);
        }
    check::that(right, std::string(k.name) + " matmul " + std::to_string(N) + " with " + std::to_string(odd));
}

// NaN among the pixels is told; what lies between the lines and behind them is not looked at, nor infinity, which is clamped.
void test_quantize(const Kernels& k, int width, int pitch) {
    const int height = 3, channels = 6;
    const int64_t stride = height * pitch + 3 * MARGIN;
    QuantizeDesc d;
    d.x = {MARGIN, stride, channels, (height - 1) * pitch + width};
    d.y = {MARGIN + channels * stride, stride, 2, d.x.positions};
    d.width = width, d.pitch = pitch;
    d.scale = 0.01f;
    d.out = {128, 0, 255};
    std::vector<float> plain = filled(d.y.offset + 2 * stride + MARGIN, 8);
    for (int c = 0; c < channels; ++c)
        for (int64_t p = -1; p < d.x.positions + 20; ++p)
            if (p < 0 || p >= d.x.positions || p % pitch >= width) plain[d.x.offset + c * stride + p] = NANS[1];
    const Step step = make_quantize(d, k);
    const std::string name = std::string(k.name) + " quantize " + std::to_string(width) + " of " + std::to_string(pitch);
    std::vector<float> arena = plain;
    arena[d.x.offset] = INF;
    run(step, arena);
    check::that(!step.lost_nan->exchange(false), name + " without NaN");
    check::that((reinterpret_cast<const uint8_t*>(arena.data() + d.y.offset)[0] ^ uint8_t(FLIPPED)) == 255, name + ": infinity is clamped");
    for (int c = 0; c < channels; ++c)
        for (int p : {0, width - 1, (height - 1) * pitch, (height - 1) * pitch + width - 1}) {
            arena = plain;
            arena[d.x.offset + c * stride + p] = NANS[(c + p) % 4];
            run(step, arena);
            check::that(step.lost_nan->exchange(false), name + " NaN at " + std::to_string(p));
        }
}

void test_qmatmul(const Kernels& k, int N, bool transposed) {
    const int M = 5, K = 7, row = N + 20;
    QMatmulDesc d;
    d.a = d.b = d.c = {0.02f, 120};
    d.multiplier = 0.01f;
    d.floats.a.dims = {M, K}, d.floats.a.strides = transposed ? std::vector<int64_t>{1, M} : std::vector<int64_t>{K, 1};
    d.floats.b.offset = M * K, d.floats.b.dims = {K, N}, d.floats.b.strides = {row, 1};
    d.floats.c.offset = M * K + K * row + MARGIN, d.floats.c.dims = {M, N}, d.floats.c.strides = {N, 1};
    std::vector<float> plain = filled(d.floats.c.offset + M * N + MARGIN, 9);
    for (int i = 0; i < K; ++i)
        for (int n = N; n < row; ++n) plain[M * K + i * row + n] = NANS[n % 4];
    const Step step = make_qmatmul(d, k);
    const std::string name = std::string(k.name) + " qmatmul of " + std::to_string(N) + (transposed ? " transposed" : "");
    std::vector<float> arena = plain;
    run(step, arena);
    check::that(!step.lost_nan->exchange(false), name + " without NaN");
    for (int at = 0; at < M * K + K * row; ++at) {
        if (at >= M * K && (at - M * K) % row >= N) continue;
        arena = plain;
        arena[at] = NANS[at % 4];
        run(step, arena);
        check::that(step.lost_nan->exchange(false), name + " NaN at " + std::to_string(at));
    }
}

// Around an offset, x - mean is not exact where the mean is not: within 1e-5 of what double gives of the same numbers.
void test_far_norms(const Kernels& k, int64_t n, float offset, float spread) {
    const int64_t stride = 5;
    std::vector<float> x = filled(n, uint64_t(n)), y(n), columns(n * stride), ys(n * stride);
    for (float& v : x) v = offset + spread * v;
    for (int64_t i = 0; i < n * stride; ++i) columns[i] = x[i / stride];
    double mean = 0, variance = 0;
    for (float v : x) mean += double(v) / double(n);
    for (float v : x) variance += (v - mean) * (v - mean) / double(n);
    k.norm_row(x.data(), y.data(), n, 1e-6f, nullptr, nullptr);
    k.norm(columns.data(), stride, ys.data(), stride, n, stride, 1e-6f, nullptr, nullptr);
    bool right = true;
    for (int64_t i = 0; i < n; ++i) {
        const double want = (x[i] - mean) / std::sqrt(variance + 1e-6);
        right = right && std::fabs(y[i] - want) < 1e-5 && std::fabs(ys[i * stride] - want) < 1e-5 && ys[i * stride] == ys[i * stride + 4];
    }
    check::that(right, std::string(k.name) + " norm of " + std::to_string(n) + " around " + std::to_string(offset) + " by " + std::to_string(spread));
}

void test_set(const Kernels& k) {
    test_activations(k);
    test_exp(k);
    test_binary(k);
    for (int64_t n : {1, 2, 7, 8, 17, 33, 70})
        for (int64_t at = 0; at < n; ++at)
            for (float odd : ODD) test_line(k, n, at, odd);
    for (int64_t n = 1; n <= 70; ++n) check::that(k.all_finite(filled(n, 1).data(), n), std::string(k.name) + " all_finite of " + std::to_string(n));
    for (float odd : ODD) {
        for (int positions : {1, 2, 9, 40})
            for (int kind = 0; kind < POOLINGS; ++kind) test_pool(k, positions, kind, odd);
        for (int positions : {1, 3, 17, 70})
            for (int kernel : {1, 2})
                for (int groups : {1, 4})
                    for (int act : {0, 1, 3}) {
                        test_linear(k, positions, 1, kernel, groups, odd, act);
                        if (positions > 1) test_linear(k, positions, 3, kernel, groups, odd, act);
                    }
        for (int positions : {2, 20}) test_depthwise(k, positions, odd);
        for (int n : {1, 8, 21, 49}) test_matmul(k, n, odd);
    }
    for (int width : {1, 5, 16, 23}) test_quantize(k, width, width + 3), test_quantize(k, width, width);
    for (int n : {1, 8, 16, 21}) test_qmatmul(k, n, false), test_qmatmul(k, n, true);
    for (int64_t n : {7, 64, 384, 1024})
        for (float offset : {0.f, 1e2f, 1e4f, -1e5f})
            for (float spread : {1.f, 0.05f}) test_far_norms(k, n, offset, spread);
}

}  // namespace

int main() {
    check::each_set(test_set);
    return check::finish();
}
