// Each kernel by itself, on tasks that fit the L1 cache but for the matrices of matvec: the shape stands in its line. Sets and kernels take turns over some
// rounds, and the fastest round counts, so that other work on the machine hits all alike. Kernels that multiply are compared with the multiply-adds that this
// set's instructions do at best, of floats or of bytes, the others with what it reads from L1.
#include "kernel_bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kernels.h"

using namespace mmrt;

namespace {

constexpr int ROUNDS = 9, CHANNELS = 32, ROWS = 64, MATRIX = 64, COLUMN = 512;
constexpr int ROOM = 1024, POSITIONS = 784, LINE = 28;  // of a row of an image, with what lies around it
constexpr int32_t TAPS[] = {0, 1, 2, LINE, LINE + 1, LINE + 2, 2 * LINE, 2 * LINE + 1, 2 * LINE + 2, 0};
constexpr int N_TAPS = 9, FEW = 5;
constexpr double SECONDS = 1e-3;  // of a round

enum Unit { FLOATS, BYTES, MEMORY };  // multiply-adds of floats, of bytes; bytes read and written

struct Timed {
    const Kernels* set;
    std::string kernel, shape;
    Unit unit;
    double work;  // of one call, in the unit
    std::function<void()> call;
    int64_t calls = 1;
    double seconds = 1e9;  // of one call, at best
};

// What the kernels read and write; alive until the program ends.
struct Data {
    std::vector<float> x = std::vector<float>(COLUMN * COLUMN + ROOM, 0.5f), y = x, scratch = x, multiplier = std::vector<float>(COLUMN, 0.01f);
    std::vector<uint32_t> words = std::vector<uint32_t>(COLUMN * COLUMN + ROOM, 0x05fc0301), out = words;
    std::vector<int32_t> offsets, rows, counts, q_counts, pairs, bias = std::vector<int32_t>(COLUMN, 100), sums = std::vector<int32_t>(ROOM);
    std::vector<Nonzero> nonzeros;
    std::vector<QBlock> blocks;
    std::vector<int32_t> quad_rows, quad_counts, quad_offsets;  // of fours of outputs
    std::vector<Stretch> stretches;
    uint8_t table[256] = {};

    // Of ROWS outputs, one weight in five, and one block in four; rows of the input lie `stride` apart.
    Data(int64_t stride, bool paired) {
        uint32_t state = 1;
        for (int c = 0; c < CHANNELS; ++c)
            for (int t = 0; t < N_TAPS; ++t) offsets.push_back(int32_t((c * stride + t) * 4));
        for (int row = 0; row < ROWS; ++row) {
            const size_t nonzeros_before = nonzeros.size(), blocks_before = blocks.size();
            for (int32_t offset : offsets) {
                state = state * 1664525u + 1013904223u;
                if (state >> 16 < 65536 / 5) nonzeros.push_back({offset, 0.01f});
                if (state >> 16 < 65536 / 4) blocks.push_back({offset, 0x05fc0301});
            }
            rows.push_back(row);
            counts.push_back(int32_t(nonzeros.size() - nonzeros_before));
            q_counts.push_back(int32_t(blocks.size() - blocks_before));
            pairs.push_back(paired ? q_counts.back() / 2 : 0);
            if (row % 4) continue;
            quad_rows.push_back(row);
            quad_counts.push_back(counts.back());
            for (size_t i = nonzeros_before; i < nonzeros.size(); ++i) quad_offsets.push_back(nonzeros[i].offset);
        }
        for (int c = 0; c < CHANNELS; ++c) stretches.push_back({int32_t(c * stride + 1), 0});
    }
};

std::vector<Timed> timed_kernels(const Kernels& k) {
    const int64_t sparse_width = k.sparse.vectors * k.width, q_width = k.qlinear.vectors * k.width, stride = std::max(sparse_width, q_width) + 16;
    auto data = std::make_shared<Data>(stride, k.qlinear.paired > 0);
    Data& d = *data;
    const Act relu{1, 0.f, 6.f}, gelu{7, 0, 0};
    const Rounding rounding{10, 0, 255};
    std::vector<Timed> out;
    auto add = [&](const char* kernel, const std::string& shape, Unit unit, double work, auto call) {
        out.push_back({&k, kernel, shape, unit, work, [data, call, &k] { call(k, *data); }});
    };
    auto of = [](int a, int b, int c) { return std::to_string(a) + "x" + std::to_string(b) + "x" + std::to_string(c); };
    const SparseTask sparse{d.x.data(), d.y.data(), stride, k.sparse.vectors, d.rows.data(), d.counts.data(), ROWS, d.nonzeros.data(), d.x.data(), true, true,
                            nullptr,    0,          relu};
    add("sparse", of(ROWS, CHANNELS * N_TAPS, int(sparse_width)) + " 20 %", FLOATS, double(d.nonzeros.size()) * double(sparse_width),
        [=](auto& k, Data&) { k.sparse.run(sparse); });
    const int64_t quad_width = k.quads.vectors * k.width;
    const QuadTask quads{d.x.data(),
                         d.y.data(),
                         stride,
                         k.quads.vectors,
                         d.quad_rows.data(),
                         d.quad_counts.data(),
                         int(d.quad_rows.size()),
                         ROWS,
                         d.quad_offsets.data(),
                         false,
                         d.x.data(),
                         d.x.data(),
                         true,
                         true,
                         nullptr,
                         0,
                         relu};
    add("quads", of(ROWS, CHANNELS * N_TAPS, int(quad_width)) + " 20 %", FLOATS, 4.0 * double(d.quad_offsets.size()) * double(quad_width),
        [=](auto& k, Data&) { k.quads.run(quads); });
    const int copied = int(std::min<int64_t>(k.sparse.vectors, stride / k.width));
    const CopyTask copy{d.words.data(), d.stretches.data(), CHANNELS, copied, copied, d.out.data()};
    add("copy", std::to_string(CHANNELS) + " lines", MEMORY, 8.0 * CHANNELS * copied * k.width, [=](auto& k, Data&) { k.copy(copy); });
    const int dense_width = k.dense.vectors * k.width, inputs = 4096 / dense_width;
    const DenseTask dense{d.x.data(), d.y.data(), stride, k.dense.rows, k.dense.vectors, inputs, d.x.data(), d.x.data(), true, true, nullptr, 0, relu};
    add("dense", of(k.dense.rows, inputs, dense_width), FLOATS, double(k.dense.rows) * dense_width * inputs, [=](auto& k, Data&) { k.dense.run(dense); });
    if (k.columns.run) {
        const ColumnsTask columns{d.x.data(), d.y.data(), stride,           FEW,     ROWS, CHANNELS, d.offsets.data(),
                                  d.x.data(), d.x.data(), d.scratch.data(), nullptr, 0,    relu};
        add("columns", of(ROWS, CHANNELS, FEW), FLOATS, double(ROWS) * CHANNELS * FEW, [=](auto& k, Data&) { k.columns.run(columns); });
    }
    const TapsTask depthwise{d.x.data(), d.y.data(), POSITIONS, TAPS, N_TAPS, d.multiplier.data(), 0, 1, false, nullptr, relu};
    add("taps", "28x28 depthwise 3x3", FLOATS, POSITIONS * N_TAPS, [=](auto& k, Data&) { k.taps(depthwise); });
    TapsTask pool = depthwise;
    pool.maximum = true;
    add("taps", "28x28 maximum 3x3", MEMORY, POSITIONS * (N_TAPS + 1) * 4, [=](auto& k, Data&) { k.taps(pool); });
    const MatmulTask matmul{d.x.data(), d.x.data(), d.y.data(), MATRIX, MATRIX, MATRIX, MATRIX, 1, MATRIX, MATRIX, 1};
    add("matmul", of(MATRIX, MATRIX, MATRIX), FLOATS, MATRIX * MATRIX * MATRIX, [=](auto& k, Data&) { k.matmul(matmul); });
    const MatvecTask matvec{d.x.data(), d.multiplier.data(), nullptr, nullptr, d.y.data(), COLUMN, COLUMN, relu};
    add("matvec", of(COLUMN, COLUMN, 1), FLOATS, COLUMN * COLUMN, [=](auto& k, Data&) { k.matvec(matvec); });

    const QLinearTask qlinear{d.words.data(),
                              d.out.data(),
                              stride,
                              k.qlinear.vectors,
                              ROWS / 4,
                              d.q_counts.data(),
                              d.pairs.data(),
                              d.blocks.data(),
                              true,
                              true,
                              nullptr,
                              d.offsets.data(),
                              CHANNELS,
                              d.words.data(),
                              d.multiplier.data(),
                              d.bias.data(),
                              rounding,
                              nullptr,
                              0,
                              false,
                              {},
                              0};
    add("qlinear", of(ROWS, 4 * CHANNELS * N_TAPS, int(q_width)) + " 25 %", BYTES, 4. * double(d.blocks.size()) * double(q_width),
        [=](auto& k, Data&) { k.qlinear.run(qlinear); });
    QLinearTask qdense = qlinear;
    qdense.vectors = std::max(1, k.qdense.vectors);
    const int qdense_width = qdense.vectors * k.width;
    add("qdense", of(ROWS, 4 * CHANNELS, qdense_width), BYTES, 4. * ROWS * CHANNELS * qdense_width, [=](auto& k, Data&) { k.qdense.run(qdense); });
    if (k.qcolumns.run) {
        QLinearTask qcolumns = qlinear;
        qcolumns.vectors = 1, qcolumns.positions = FEW, qcolumns.sums = d.sums.data();
        add("qcolumns", of(ROWS, 4 * CHANNELS, FEW), BYTES, 4. * ROWS * CHANNELS * FEW, [=](auto& k, Data&) { k.qcolumns.run(qcolumns); });
    }
    const QMatvecTask qmatvec{d.words.data(),
                              d.words.data(),
                              reinterpret_cast<uint8_t*>(d.out.data()),
                              COLUMN,
                              COLUMN / 4,
                              d.multiplier.data(),
                              d.bias.data(),
                              rounding,
                              nullptr,
                              false,
                              {}};
    add("qmatvec", of(COLUMN, COLUMN, 1), BYTES, COLUMN * COLUMN, [=](auto& k, Data&) { k.qmatvec.run(qmatvec); });
    const int taps = (N_TAPS + k.qdepthwise.taps - 1) / k.qdepthwise.taps * k.qdepthwise.taps;
    const QDepthwiseTask qdepthwise{d.words.data(),      d.out.data(),  POSITIONS, TAPS, taps, reinterpret_cast<int8_t*>(d.words.data()),
                                    d.multiplier.data(), d.bias.data(), rounding};
    add("qdepthwise", "28x28x4 3x3", BYTES, 4 * POSITIONS * N_TAPS, [=](auto& k, Data&) { k.qdepthwise.run(qdepthwise); });
    const QMatmulTask qmatmul{matmul, {0.01f, 128}, {0.01f, 128}, {0.1f, 128}, 0.001f, d.scratch.data()};
    add("qmatmul", of(MATRIX, MATRIX, MATRIX), BYTES, MATRIX * MATRIX * MATRIX, [=](auto& k, Data&) { k.qmatmul(qmatmul); });

    constexpr int N = ROOM, B = 4;  // elements, and bytes of one
    add("unary", "1024 GELU", MEMORY, 2 * B * N, [=](auto& k, Data& d) { k.unary(gelu, d.x.data(), d.y.data(), N); });
    add("binary", "1024 sum", MEMORY, 3 * B * N, [](auto& k, Data& d) { k.binary(0, {}, d.x.data(), 1, d.x.data(), 1, d.y.data(), N); });
    add("reduce", "32x32 sum", MEMORY, B * N, [](auto& k, Data& d) { k.reduce(0, d.x.data(), 32, 32, d.y.data(), 32, 1.f); });
    add("softmax", "32x32", MEMORY, 2 * B * N, [](auto& k, Data& d) { k.softmax(d.x.data(), 32, d.y.data(), 32, 32, 32); });
    add("norm", "32x32", MEMORY, 2 * B * N, [](auto& k, Data& d) { k.norm(d.x.data(), 32, d.y.data(), 32, 32, 32, 1e-5f, nullptr, nullptr); });
    add("reduce_row", "1024 sum", MEMORY, B * N, [](auto& k, Data& d) { d.y[0] = k.reduce_row(0, d.x.data(), N); });
    add("softmax_row", "1024", MEMORY, 2 * B * N, [](auto& k, Data& d) { k.softmax_row(d.x.data(), d.y.data(), N); });
    add("norm_row", "1024", MEMORY, 2 * B * N, [](auto& k, Data& d) { k.norm_row(d.x.data(), d.y.data(), N, 1e-5f, nullptr, nullptr); });
    add("all_finite", "1024", MEMORY, B * N, [](auto& k, Data& d) { d.y[0] = k.all_finite(d.x.data(), N); });
    add("qmaximum", "28x28x4 3x3", MEMORY, POSITIONS * (N_TAPS + 1) * 4,
        [](auto& k, Data& d) { k.qmaximum(d.words.data(), d.out.data(), POSITIONS, TAPS, N_TAPS); });
    add("qtable", "1024x4", MEMORY, 2 * B * N, [](auto& k, Data& d) { k.qtable(d.table, d.words.data(), d.out.data(), N); });
    add("qadd", "1024x4", MEMORY, 3 * B * N, [](auto& k, Data& d) { k.qadd({}, d.words.data(), d.words.data(), d.out.data(), N); });
    add("quantize", "1024x4", MEMORY, 5 * B * N, [=](auto& k, Data& d) { k.quantize(d.x.data(), N, 4, d.out.data(), N, 0.05f, rounding); });
    add("dequantize", "1024x4", MEMORY, 5 * B * N, [](auto& k, Data& d) { k.dequantize(d.words.data(), d.y.data(), N, 4, N, 0.05f, 10); });

    constexpr int64_t PEAK = 48 * 1024;
    add("multiply_adds", "peak", FLOATS, PEAK, [](auto& k, Data& d) { d.y[0] = k.multiply_adds(PEAK); });
    add("multiply_bytes", "peak", BYTES, 4 * PEAK, [](auto& k, Data& d) { d.out[0] = uint32_t(k.multiply_bytes(4 * PEAK)); });
    add("read_floats", "peak", MEMORY, 4. * 4 * PEAK, [](auto& k, Data& d) { d.y[0] = k.read_floats(d.x.data(), 4096, 4 * PEAK / 4096); });
    return out;
}

void time_once(Timed& one) {
    for (;;) {
        const auto began = std::chrono::steady_clock::now();
        for (int64_t i = 0; i < one.calls; ++i) one.call();
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
        one.seconds = std::min(one.seconds, seconds / double(one.calls));
        if (seconds > SECONDS / 2) return;
        one.calls *= 2;
    }
}

}  // namespace

void bench_kernels(bool json) {
    const char* forced = std::getenv("MMRT_ISA");
    if (forced && *forced) choose_kernels(cpu_features(), forced);  // a name that is not known is an error
    int count = 0;
    const Kernels* const* sets = all_kernels(&count);
    std::vector<Timed> all;
    for (int i = 0; i < count; ++i)
        if ((sets[i]->needs & cpu_features()) == sets[i]->needs && (!forced || !*forced || std::strcmp(forced, sets[i]->name) == 0))
            for (Timed& one : timed_kernels(*sets[i])) all.push_back(std::move(one));
    for (int round = 0; round < ROUNDS; ++round)
        for (Timed& one : all) time_once(one);
    auto rate = [](const Timed& one) { return one.work / one.seconds / 1e9; };
    std::stable_sort(all.begin(), all.end(), [](const Timed& a, const Timed& b) { return a.kernel < b.kernel; });
    for (const Timed& one : all) {
        const double peak =
            rate(*std::find_if(all.begin(), all.end(), [&](const Timed& p) { return p.set == one.set && p.unit == one.unit && p.shape == "peak"; }));
        const char* unit = one.unit == MEMORY ? "GB/s" : "GMAC/s";
        std::printf(json ? "{\"kernel\": \"%s\", \"kernels\": \"%s\", \"shape\": \"%s\", \"rate\": %.4g, \"unit\": \"%s\", \"share_of_peak\": %.4f}\n"
                         : "%-15s %-13s %-22s %9.2f %-7s %5.0f %%\n",
                    one.kernel.c_str(), one.set->name, one.shape.c_str(), rate(one), unit, rate(one) / peak * (json ? 1 : 100));
    }
}
