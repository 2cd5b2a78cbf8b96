// Every set of kernels that this CPU runs, against loops written for reading: LINEAR, DEPTHWISE, POOL, MATMUL.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "each_set.h"
#include "halo.h"
#include "reference_act.h"

using namespace mmrt;

namespace {

constexpr float INF = std::numeric_limits<float>::infinity();

struct Case {
    int inputs, outputs, positions, groups, kernel_size;
    double density;
    int kernel, encoding, dtype;
    bool residual, bias;
    int act;
    bool fours = false;  // four outputs in turn have zeros at the same places
    bool columns = false;  // by sets whose vectors may hold outputs of one position
};

uint16_t to_half(float value) {  // exact for the test's weights, which are multiples of 1/64 below 2
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (value == 0) return 0;
    return uint16_t((bits >> 16 & 0x8000) | (((bits >> 23 & 255) - 112) << 10) | (bits >> 13 & 1023));
}

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

std::vector<uint8_t> encode(const std::vector<float>& weights, int encoding, int dtype, int64_t* values) {
    std::vector<uint8_t> out;
    if (encoding == 1) {
        out.resize(round_up(int64_t(weights.size()), 512) / 8);
        for (size_t i = 0; i < weights.size(); ++i) out[i / 8] |= (weights[i] != 0) << (i % 8);
    }
    *values = 0;
    for (float w : weights) {
        if (encoding == 1 && w == 0) continue;
        ++*values;
        const uint16_t half = to_half(w);
        const uint8_t* bytes = dtype ? reinterpret_cast<const uint8_t*>(&half) : reinterpret_cast<const uint8_t*>(&w);
        out.insert(out.end(), bytes, bytes + (dtype ? 2 : 4));
    }
    return out;
}

void run(const Step& step, std::vector<float>& arena) {
    for (int item = step.items - 1; item >= 0; --item) step.run(item, arena.data());  // any order will do
}

void test_linear(const Kernels& kernels, const Case& c) {
    check::Random random(uint64_t(c.inputs * 31 + c.outputs * 7 + c.positions + c.kernel));
    const int pitch = 9, margin = 32, taps = c.kernel_size * c.kernel_size;
    LinearDesc d;
    const bool column = c.positions == 1 && taps == 1;
    const int64_t x_stride = column ? 1 : round_up(c.positions, 16) + 2 * margin, y_stride = column ? 1 : round_up(c.positions, 16) + 16;
    d.x = {margin, x_stride, c.inputs, c.positions};
    d.y = {margin + c.inputs * x_stride + 64, y_stride, c.outputs, c.positions};
    d.residual = {d.y.offset + c.outputs * y_stride + 64, y_stride, c.outputs, c.positions};
    for (int t = 0; t < taps; ++t) d.taps.push_back((t / c.kernel_size - c.kernel_size / 2) * pitch + t % c.kernel_size - c.kernel_size / 2);
    d.groups = c.groups;
    d.has_residual = c.residual;
    d.act = c.act == 1 ? Act{1, 0.f, INF} : Act{c.act, 0.f, 0.f};
    d.kernel = c.kernel;
    std::vector<float> arena(size_t(d.residual.offset + c.outputs * y_stride + 128)), bias(c.outputs);
    for (float& v : arena) v = random.signed_uniform();
    for (float& v : bias) v = random.signed_uniform();
    const int per_group = c.inputs / c.groups;
    std::vector<float> weights(size_t(c.outputs) * per_group * taps);
    for (float& v : weights) v = random.uniform() < c.density ? float(1 + random.next() % 100) / 64 * (random.next() % 2 ? 1.f : -1.f) : 0.f;
    for (size_t i = 0; c.fours && i < weights.size(); ++i) {
        const size_t row = i / (size_t(per_group) * taps), group_row = row % (c.outputs / c.groups), first = i - (group_row % 4) * per_group * taps;
        if (weights[first] == 0) weights[i] = 0;
        else if (weights[i] == 0) weights[i] = -0.75f;
    }
    if (!c.fours && c.outputs > 2 && c.density < 1) std::fill(weights.begin(), weights.begin() + per_group * taps, 0.f);  // an empty row
    const std::vector<uint8_t> blob = encode(weights, c.encoding, c.dtype, &d.weights.values);
    d.weights.encoding = c.encoding;
    d.weights.dtype = c.dtype;
    d.weights.data = blob;
    if (c.bias) d.bias = bias;
    const std::vector<float> before = arena;
    const Step step = make_linear(d, kernels, 1 + c.outputs % 3);
    run(step, arena);
    const std::string name = std::string("linear ") + kernels.name + " in " + std::to_string(c.inputs) + " out " + std::to_string(c.outputs) + " P " +
                             std::to_string(c.positions) + " groups " + std::to_string(c.groups) + " k " + std::to_string(c.kernel_size) + " density " +
                             std::to_string(c.density) + " kernel " + std::to_string(c.kernel);
    if (c.fours) check::that((step.kernel.find("4x1") != std::string::npos) == (kernels.quads.vectors > 0), (name + " in fours: " + step.kernel).c_str());
    if (c.columns)
        check::that((step.kernel.find("columns") != std::string::npos) == (kernels.columns.run != nullptr), (name + " in columns: " + step.kernel).c_str());
    for (int o = 0; o < c.outputs; ++o)
        for (int p = 0; p < c.positions; ++p) {
            double sum = c.bias ? bias[o] : 0, absolute = std::fabs(sum);
            for (int i = 0; i < per_group; ++i)
                for (int t = 0; t < taps; ++t) {
                    const int channel = o / (c.outputs / c.groups) * per_group + i;
                    const double term = double(weights[(size_t(o) * per_group + i) * taps + t]) * before[d.x.offset + channel * x_stride + p + d.taps[t]];
                    sum += term;
                    absolute += std::fabs(term);
                }
            if (c.residual) sum += before[d.residual.offset + o * y_stride + p];
            check::that(check::near(arena[d.y.offset + o * y_stride + p], reference_act(d.act, sum), absolute + 1), name.c_str());
        }
    for (int64_t i = 0; i < int64_t(arena.size()); ++i) {  // nothing else was touched
        const int64_t in_y = i - d.y.offset, row = in_y / y_stride, p = in_y % y_stride;
        const bool may_write = in_y >= 0 && row < c.outputs && p < (column ? 1 : round_up(c.positions, 16));
        if (!may_write && arena[i] != before[i]) {
            check::that(false, (name + " wrote outside").c_str());
            break;
        }
    }
}

// A LINEAR that writes the halo of its image too, against LINEAR, then HALO.
void test_halo(const Kernels& kernels, int height, int width, int border, int outputs, int kernel) {
    check::Random random(uint64_t(height * 100 + width));
    const int inputs = 6, pitch = width + border, positions = (height - 1) * pitch + width, before = border * pitch + border;
    const int64_t stride = round_up(positions, 16) + round_up(before, 16);
    LinearDesc d;
    d.x = {before, stride, inputs, positions};
    d.y = {before + inputs * stride + before, stride, outputs, positions};
    d.taps = {0};
    d.kernel = kernel;
    std::vector<float> weights(size_t(outputs) * inputs), apart(size_t(d.y.offset + outputs * stride + before + 64));
    for (float& v : apart) v = random.signed_uniform();
    for (float& v : weights) v = random.uniform() < 0.5f ? random.signed_uniform() : 0.f;
    std::vector<float> together = apart;
    d.weights.data = check::as_bytes(weights);
    d.weights.values = int64_t(weights.size());
    HaloDesc halo;
    halo.image.offset = d.y.offset;
    halo.image.dims = {outputs, height, width};
    halo.image.strides = {stride, pitch, 1};
    halo.before = halo.after = before;
    halo.value = -2.5f;
    const std::string name =
        std::string("halo ") + kernels.name + " " + std::to_string(height) + "x" + std::to_string(width) + " border " + std::to_string(border);
    check::that(is_halo_of(halo, d.y) == positions > 1, (name + " is that of y").c_str());
    if (positions == 1) return;
    run(make_linear(d, kernels, 1), apart);
    run(make_halos({halo}), apart);
    run(make_linear(d, kernels, 1 + outputs % 3, &halo), together);
    for (int o = 0; o < outputs; ++o)
        for (int64_t p = -before; p < positions + before; ++p) {
            const size_t at = size_t(d.y.offset + o * stride + p);
            if (together[at] != apart[at]) return check::that(false, (name + " differs at " + std::to_string(p)).c_str());
        }
    check::that(true, name.c_str());
}

void test_taps(const Kernels& kernels, int channels, int positions, int kernel_size) {
    check::Random random(uint64_t(channels * 100 + positions));
    const int pitch = 11, margin = 80, taps = kernel_size * kernel_size;
    const int64_t stride = round_up(positions, 16) + 2 * margin;
    std::vector<float> arena(size_t(margin + 3 * channels * stride + 256)), weights(size_t(channels) * taps), bias(channels);
    for (float& v : arena) v = random.signed_uniform();
    for (float& v : weights) v = random.signed_uniform();
    for (float& v : bias) v = random.signed_uniform();
    DepthwiseDesc d;
    d.x = {margin, stride, channels, positions};
    d.y = {margin + channels * stride, stride, channels, positions};
    d.residual = {margin + 2 * channels * stride, stride, channels, positions};
    for (int t = 0; t < taps; ++t) d.taps.push_back((t / kernel_size - kernel_size / 2) * pitch + t % kernel_size - kernel_size / 2);
    d.weights = weights;
    d.bias = bias;
    d.has_residual = true;
    d.act = {4, 0, 0};
    const std::vector<float> before = arena;
    run(make_depthwise(d, kernels), arena);
    auto x = [&](int c, int p, int t) { return before[d.x.offset + c * stride + p + d.taps[t]]; };
    const std::string name = std::string(kernels.name) + " channels " + std::to_string(channels) + " P " + std::to_string(positions);
    for (int c = 0; c < channels; ++c)
        for (int p = 0; p < positions; ++p) {
            double sum = bias[c] + before[d.residual.offset + c * stride + p];
            for (int t = 0; t < taps; ++t) sum += double(weights[c * taps + t]) * x(c, p, t);
            check::that(check::near(arena[d.y.offset + c * stride + p], reference_act(d.act, sum), taps), ("depthwise " + name).c_str());
        }
    for (int kind = 0; kind < POOLINGS; ++kind) {
        PoolDesc pool;
        pool.x = d.x;
        pool.y = d.y;
        pool.taps = d.taps;
        pool.kind = Pooling(kind);
        pool.scale = 0.25f;
        run(make_pool(pool, kernels), arena);
        for (int c = 0; c < channels; ++c)
            for (int p = 0; p < positions; ++p) {
                double most = -INF, sum = 0;
                for (int t = 0; t < taps; ++t) {
                    most = std::max<double>(most, x(c, p, t));
                    sum += x(c, p, t);
                }
                check::that(check::near(arena[d.y.offset + c * stride + p], kind ? sum / 4 : most, taps), ("pool " + name).c_str());
            }
    }
}

void test_matmul(const Kernels& kernels, int M, int N, int K, bool transposed) {
    check::Random random(uint64_t(M * 10000 + N * 100 + K));
    const int batch = 3;
    const int64_t b_row = N + 5, c_row = N + 3;
    const int64_t a0 = 0, b0 = a0 + batch * M * K, c0 = b0 + batch * K * b_row + 64, end = c0 + batch * M * c_row + 64;
    std::vector<float> arena(end);
    for (float& v : arena) v = random.signed_uniform();
    MatmulDesc d;
    d.a.offset = a0;
    d.a.dims = {batch, M, K};
    d.a.strides = transposed ? std::vector<int64_t>{M * K, 1, M} : std::vector<int64_t>{M * K, K, 1};
    d.b.offset = b0;
    d.b.dims = {batch, K, N};
    d.b.strides = {K * b_row, b_row, 1};
    d.c.offset = c0;
    d.c.dims = {batch, M, N};
    d.c.strides = {M * c_row, c_row, 1};
    d.scale = 0.5f;
    const std::vector<float> before = arena;
    run(make_matmul(d, kernels), arena);
    const std::string name = std::string("matmul ") + kernels.name + " " + std::to_string(M) + "x" + std::to_string(N) + "x" + std::to_string(K);
    for (int i = 0; i < batch; ++i)
        for (int m = 0; m < M; ++m)
            for (int64_t n = 0; n < c_row; ++n) {
                const int64_t at = c0 + (i * M + m) * c_row + n;
                if (n >= N) {
                    check::that(arena[at] == before[at], (name + " wrote past the row").c_str());
                    continue;
                }
                double sum = 0;
                for (int k = 0; k < K; ++k)
                    sum += double(before[a0 + i * M * K + m * d.a.strides[1] + k * d.a.strides[2]]) * before[b0 + (i * K + k) * b_row + n];
                check::that(check::near(arena[at], sum / 2, K), name.c_str());
            }
}

void test_set(const Kernels& kernels) {
    const int P[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 49, 63, 64, 65, 100, 127, 129, 209};
    for (int kernel : {0, 1, 2}) {
        for (int positions : P) {
            test_linear(kernels, {5, 7, positions, 1, 1, 0.5, kernel, 1, 0, true, true, 1});
            test_linear(kernels, {6, 9, positions, 1, 3, 0.3, kernel, 1, 0, false, true, 4});
        }
        for (double density : {0.0, 0.05, 0.5, 1.0})
            for (int encoding : {0, 1})
                for (int dtype : {0, 1}) test_linear(kernels, {400, 13, 65, 1, 1, density, kernel, encoding, dtype, true, false, 7});
        test_linear(kernels, {300, 10, 70, 1, 3, 0.1, kernel, 1, 0, true, true, 6});  // several blocks of inputs, taps
        test_linear(kernels, {24, 36, 40, 4, 3, 0.4, kernel, 0, 0, true, true, 1});   // groups
        test_linear(kernels, {24, 8, 40, 8, 1, 0.9, kernel, 1, 1, false, true, 0});
        test_linear(kernels, {130, 33, 1, 1, 1, 0.2, kernel, 1, 0, true, true, 4});    // a matrix times a vector
        test_linear(kernels, {7, 21, 1, 3 + 4, 1, 0.8, kernel, 0, 0, true, true, 1});
        test_linear(kernels, {1, 1, 1, 1, 1, 1.0, kernel, 0, 0, false, false, 0});
    }
    for (int positions : {3, 16, 40, 65, 150, 333})
        for (bool residual : {true, false}) {
            test_linear(kernels, {40, 12, positions, 1, 1, 0.3, 2, 1, 0, residual, true, 1, true});
            test_linear(kernels, {300, 19, positions, 1, 3, 0.1, 2, 1, 1, residual, false, 6, true});  // blocks of inputs, three outputs at the end
            test_linear(kernels, {24, 32, positions, 2, 3, 0.2, 2, 0, 0, residual, true, 0, true});    // groups
        }
    for (int positions : {2, 3, 5, 6})
        for (bool residual : {true, false}) {
            test_linear(kernels, {130, 64, positions, 1, 3, 0.95, 0, 1, 0, residual, true, 1, false, true});  // more inputs than are met at once
            test_linear(kernels, {90, 69, positions, 3, 3, 1.0, 1, 0, 0, residual, false, 6, false, true});   // 23 outputs a group: a part of a vector
            test_linear(kernels, {700, 137, positions, 1, 1, 0.97, 0, 1, 1, residual, true, 0, false, true});
        }
    for (int positions : {49, 55, 209, 300, 521}) test_linear(kernels, {180, 70, positions, 1, 3, 1.0, 0, 0, 0, true, true, 1});
    for (int kernel : {1, 2})
        for (int width : {1, 2, 7, 14, 15, 16, 28, 56})
            for (int height : {1, 3, 9})
                for (int border : {0, 1, 3}) test_halo(kernels, height, width, border, 1 + width % 3 * 9, kernel);
    for (int positions : P) test_taps(kernels, 3, positions, positions % 2 ? 3 : 5);
    for (int n : {1, 3, 7, 8, 9, 16, 17, 24, 25, 31, 32, 33, 49, 197})
        for (int m : {1, 3, 4, 5, 9}) test_matmul(kernels, m, n, 11, n % 2 == 0);
}

}  // namespace

int main() {
    check::each_set(test_set);
    return check::finish();
}
