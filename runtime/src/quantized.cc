// The operations on uint8 activations: weights packed, work cut into items.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>

#include <unistd.h>

#include "copies.h"
#include "cost.h"
#include "halo.h"
#include "kernels.h"
#include "panels.h"

namespace mmrt {
namespace {

constexpr int64_t USUAL_L1_BYTES = 32 * 1024;
constexpr int64_t FEWEST_BLOCKS = 8;  // of a row in a chunk: its sums are read and written again for them
constexpr int64_t ITEM_WORDS = 16 * 1024;  // of output: large enough to be worth a thread's while

// A column's neighbours are other channels, so it is written word by word.
const Kernels& fitting(const Rows& y, const Kernels& kernels) {
    int count = 0;
    const Kernels* const* all = all_kernels(&count);
    return is_column(y) ? *all[count - 1] : kernels;
}

// What a panel may read, so that it stays in the L1 cache beside weights and results.
int64_t panel_bytes() {
    long size = 0;
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    size = sysconf(_SC_LEVEL1_DCACHE_SIZE);  // 0 or -1 where the system does not tell
#endif
    return (size > 0 ? size : USUAL_L1_BYTES) * 3 / 4;
}

uint32_t* words(float* arena, int64_t offset) { return reinterpret_cast<uint32_t*>(arena) + offset; }

enum class How { SPARSE, DENSE, COLUMNS };  // qlinear: blocks, counts and pairs; qdense, qcolumns: offsets and weights, as QLinearTask has them

struct QLinear {
    QLinearDesc d;
    std::optional<HaloDesc> halo;
    std::vector<int32_t> bias;
    How how = How::SPARSE;
    std::vector<QBlock> blocks;          // chunk after chunk of the inputs
    std::vector<int32_t> counts, pairs;  // of each chunk and row
    int chunks = 1, words_in_chunk = 0;
    std::optional<Copies> copies;      // of a chunk's inputs, which the blocks then read
    std::vector<Stretch> stretches;    // chunk after chunk, of the first group
    std::vector<int> stretch_begins;
    std::vector<int32_t> offsets;
    std::vector<uint32_t> weights;
    std::vector<int64_t> begins;   // of each chunk's and quad's blocks, or of a quad's weights; of columns those of each range
    std::vector<Panel> panels;
    std::vector<RowRange> ranges;  // of quads
};

// Calls see(row, word of x, tap, values) for every block, row by row.
template <class F>
void each_block(const QLinearDesc& d, F see) {
    const int words = d.x.count / d.groups, taps = int(d.taps.size());
    int64_t bit = 0;
    const uint8_t* mask = d.mask.data();
    const int8_t* values = d.values.data();
    for (int row = 0; row < 4 * d.y.count; ++row)
        for (int c = 0; c < words; ++c)
            for (int t = 0; t < taps; ++t, ++bit)
                if (mask[bit >> 3] >> (bit & 7) & 1) {
                    see(row, c, t, values);
                    values += 4;
                }
}

uint32_t as_word(const int8_t* values) {
    uint32_t word;
    std::memcpy(&word, values, 4);
    return word;
}

int32_t sum_of(const int8_t* values) { return values[0] + values[1] + values[2] + values[3]; }

// Whether the products of both blocks with bytes may be added in lanes of 16 bits, where two weights of each meet (QLinearKernel::paired).
bool fit_together(const QBlock& a, const QBlock& b, int most) {
    for (int lane = 0; lane < 2; ++lane) {
        int positive = 0, negative = 0;
        for (const QBlock* block : {&a, &b})
            for (int k = 2 * lane; k < 2 * lane + 2; ++k) {
                const int weight = int8_t(block->weights >> (8 * k));
                (weight > 0 ? positive : negative) += std::abs(weight);
            }
        if (positive > most || negative > most) return false;
    }
    return true;
}

// Brings pairs that fit together to the front, and tells how many there are. Neighbours are tried first: their inputs lie close together.
int pair_up(QBlock* blocks, int count, int most) {
    if (most == 0) return 0;
    std::vector<QBlock> alone;
    int pairs = 0, k = 0;
    for (; k + 1 < count; ++k) {
        if (fit_together(blocks[k], blocks[k + 1], most)) {
            std::copy(blocks + k, blocks + k + 2, blocks + 2 * pairs++);
            ++k;
        } else {
            alone.push_back(blocks[k]);
        }
    }
    if (k < count) alone.push_back(blocks[k]);
    std::copy(alone.begin(), alone.end(), blocks + 2 * pairs);
    return pairs;
}

int32_t offset_bytes(const QLinearDesc& d, int64_t word, int tap) {
    const int64_t bytes = (word * d.x.stride + d.taps[tap]) * 4;
    if (bytes > INT32_MAX || bytes < INT32_MIN) throw std::runtime_error("an input of more than 2 GB");
    return int32_t(bytes);
}

void pack_sparse(QLinear& p, const Kernels& kernels, int words_in_chunk) {
    const QLinearDesc& d = p.d;
    const int outputs = 4 * d.y.count, words_in = d.x.count / d.groups, rows_in_group = outputs / d.groups;
    p.chunks = (words_in + words_in_chunk - 1) / words_in_chunk;
    p.words_in_chunk = words_in_chunk;
    std::vector<std::vector<QBlock>> lists(size_t(p.chunks) * outputs);
    each_block(d, [&](int row, int c, int t, const int8_t* values) {
        const int32_t offset = p.copies ? p.copies->byte_offset(c % words_in_chunk, t) : offset_bytes(d, int64_t(row / rows_in_group) * words_in + c, t);
        lists[size_t(c / words_in_chunk) * outputs + row].push_back({offset, as_word(values)});
        p.bias[row] += kernels.qlinear.offset * sum_of(values);
    });
    p.blocks.reserve(size_t(d.blocks));
    for (std::vector<QBlock>& list : lists) {
        if (p.counts.size() % 4 == 0) p.begins.push_back(int64_t(p.blocks.size()));
        p.counts.push_back(int32_t(list.size()));
        p.pairs.push_back(pair_up(list.data(), int(list.size()), kernels.qlinear.paired));
        p.blocks.insert(p.blocks.end(), list.begin(), list.end());
    }
    for (int c = 0; c < words_in && p.copies; ++c) {
        if (c % words_in_chunk == 0) p.stretch_begins.push_back(int(p.stretches.size()));
        offset_bytes(d, c, 0);  // refuses what is too large
        p.copies->add_line(int32_t(c * d.x.stride), p.stretches);
    }
    p.stretch_begins.push_back(int(p.stretches.size()));
}

// How a sparse layer is cut. Vectors of a panel are at least so many that a block's weights are spread over them. Where all inputs of so many do
// not fit the L1 cache, they come in chunks, each for all rows.
int cut_sparse(QLinear& p, const Kernels& kernels, int threads) {
    const QLinearDesc& d = p.d;
    const int words_in = d.x.count / d.groups, outputs = 4 * d.y.count, width = kernels.width, least = kernels.qlinear.vectors / 2;
    auto line_bytes = [&](int vectors) {
        return p.copies ? Copies(d.taps, width, vectors).vectors() * width * 4 : std::max<int64_t>(1, touched(d.taps, int64_t(vectors) * width) * 4);
    };
    const int parts = int(cut_rows(d.y.count, d.groups, fewest_items(threads), 1).size());
    const double blocks = double(d.blocks) / parts / words_in;  // that read a word of inputs
    int most = 0;
    for (bool copied : {kernels.qlinear.copied > 0 && !are_aligned(d.x, d.taps, width), false}) {
        if (copied) p.copies.emplace(d.taps, width, 1);
        else p.copies.reset();
        const int64_t fit = panel_bytes() / line_bytes(1);
        most = int(std::clamp<int64_t>(fit / words_in, least, kernels.qlinear.vectors));
        most = cut_panels(d.y.positions, width, most).front().vectors;
        if (copied) p.copies.emplace(d.taps, width, most);
        if (!copied || blocks * most >= kernels.qlinear.copied * double(p.copies->vectors())) break;
    }
    const int64_t chunks =
        std::clamp<int64_t>((words_in * line_bytes(most) + panel_bytes() - 1) / panel_bytes(), 1, std::max<int64_t>(1, d.blocks / outputs / FEWEST_BLOCKS));
    pack_sparse(p, kernels, int((words_in + chunks - 1) / chunks));
    return most;
}

// Calls put(row, input in the order of the offsets, word of weights) for every block.
template <class F>
void pack_words(QLinear& p, int offset, F put) {
    const QLinearDesc& d = p.d;
    const int words_in = d.x.count / d.groups, taps = int(d.taps.size());
    for (int c = 0; c < words_in; ++c)
        for (int t = 0; t < taps; ++t) p.offsets.push_back(offset_bytes(d, c, t));
    each_block(d, [&](int row, int c, int t, const int8_t* values) {
        put(row, c * taps + t, as_word(values));
        p.bias[row] += offset * sum_of(values);
    });
}

void pack_dense(QLinear& p, int offset) {
    const size_t n = size_t(p.d.x.count / p.d.groups) * p.d.taps.size();
    p.weights.assign(4 * p.d.y.count * n, 0);
    pack_words(p, offset, [&](int row, int input, uint32_t word) { p.weights[(row / 4 * n + input) * 4 + row % 4] = word; });
    for (int quad = 0; quad < p.d.y.count; ++quad) p.begins.push_back(int64_t(4 * quad * n));
}

void pack_columns(QLinear& p, const Kernels& kernels) {
    const int64_t n = int64_t(p.d.x.count / p.d.groups) * int64_t(p.d.taps.size());
    std::vector<int64_t> row_begins, row_steps;  // where a row's first word is, and how far its next one is from it
    int64_t size = 0;
    for (const RowRange& range : p.ranges) {
        p.begins.push_back(size);
        const int outputs = 4 * (range.end - range.begin);
        for (int block = 0; block < outputs; block += kernels.qcolumns.outputs) {
            const int rows = std::min(outputs - block, kernels.qcolumns.outputs), step = (rows + kernels.width - 1) / kernels.width * kernels.width;
            for (int row = 0; row < rows; ++row) row_begins.push_back(size + row), row_steps.push_back(step);
            size += n * step;
        }
    }
    p.weights.assign(size_t(size + kernels.width), 0);
    const int64_t shift = int64_t(-reinterpret_cast<uintptr_t>(p.weights.data()) / 4) & (kernels.width - 1);  // to whole cache lines
    for (int64_t& begin : p.begins) begin += shift;
    pack_words(p, kernels.qcolumns.offset,
               [&](int row, int input, uint32_t word) { p.weights[size_t(shift + row_begins[row] + input * row_steps[row])] = word; });
    p.bias.resize(p.bias.size() + size_t(kernels.width));  // a range's last vector reads on
    std::vector<float> multiplier(p.d.multiplier.begin(), p.d.multiplier.end());
    multiplier.resize(multiplier.size() + size_t(kernels.width));
    p.d.multiplier = Array<float>(std::move(multiplier));
}

constexpr double COLUMN_FINISH = 48, READING = 0.85;
constexpr double FROM_L2 = 1.35;  // of products, where a panel's inputs do not stay in the L1 cache

struct Choice {
    How how;
    double sparse_below;      // density of blocks, the others' being what it is
    double costs[3] = {};     // by How
};

Choice choose(const QLinearDesc& d, const Kernels& kernels) {
    const int rows = 4 * d.y.count / d.groups, words_in = d.x.count / d.groups, width = kernels.width;
    const double inputs = double(words_in) * double(d.taps.size()), density = double(d.blocks) / (4. * d.y.count * inputs);
    const double from = kernels.qdense.vectors ? kernels.qdense.from : 1;
    const How usual = kernels.qdense.vectors && density >= from ? How::DENSE : How::SPARSE;
    if (!kernels.qcolumns.run) return {usual, from};
    const int dense_panel = cut_panels(d.y.positions, width, kernels.qdense.vectors).front().vectors;
    const int sparse_panel = cut_panels(d.y.positions, width, kernels.qlinear.vectors).front().vectors;
    const bool fits = words_in * touched(d.taps, int64_t(dense_panel) * width) * 4 <= panel_bytes();
    const double products = inputs * of_input(from, sparse_panel, READING);  // of a sparse panel that had all blocks
    auto of_positions = [&](double products) { return vectors_cost(d.y.positions, width, products); };
    const double dense = of_positions(inputs * (fits ? 1 : FROM_L2)), sparse = of_positions(density * products), none = of_positions(0);
    const double columns = columns_cost(d.y.positions, width, rows, inputs, COLUMN_FINISH);
    const double below = std::clamp((std::min(dense, columns) - none) / (of_positions(products) - none), 0., from);
    return {columns < (usual == How::DENSE ? dense : sparse) ? How::COLUMNS : usual, below, {sparse, dense, columns}};
}

// What was asked for, where this CPU's kernels can do it.
How asked_or(How cheapest, const Kernels& kernels) {
    switch (asked_way()) {
        case Way::DENSE: return kernels.qdense.vectors ? How::DENSE : cheapest;
        case Way::SPARSE: return How::SPARSE;
        case Way::COLUMNS: return kernels.qcolumns.run ? How::COLUMNS : cheapest;
        case Way::CHEAPEST: break;
    }
    return cheapest;
}

Step row_step(const QLinearDesc& d, const Kernels& kernels, int threads, const HaloDesc* halo) {
    auto packed = std::make_shared<QLinear>();
    QLinear& p = *packed;
    const int outputs = 4 * d.y.count, words_in = d.x.count / d.groups;
    p.d = d;
    if (halo) p.halo = *halo;
    p.bias.assign(d.bias.begin(), d.bias.end());
    const int64_t blocks = int64_t(outputs) * words_in * int64_t(d.taps.size());
    const Choice choice = choose(d, kernels);
    p.how = asked_or(choice.how, kernels);
    const int most = p.how == How::SPARSE ? cut_sparse(p, kernels, threads) : p.how == How::DENSE ? kernels.qdense.vectors : COLUMN_PANEL / kernels.width;
    p.panels = cut_panels(d.y.positions, kernels.width, most);
    const int parts = (fewest_items(threads) + int(p.panels.size()) - 1) / int(p.panels.size());
    p.ranges = cut_rows(d.y.count, d.groups, parts, p.how == How::COLUMNS ? kernels.width / 4 : 1);
    if (p.how == How::DENSE) pack_dense(p, kernels.qdense.offset);
    if (p.how == How::COLUMNS) pack_columns(p, kernels);
    p.d.mask = {}, p.d.values = {};  // the file may go
    Step step;
    const char* names[] = {"1x4 ", "dense ", "dense columns "};
    step.kernel = std::string(names[int(p.how)]) + kernels.name + " T" + std::to_string(p.panels.front().vectors);
    if (p.copies) step.kernel += " copied";
    step.done_macs = 4.0 * double(p.how == How::SPARSE ? d.blocks : blocks) * d.y.positions;
    step.sparse_below = choice.sparse_below;
    step.cost = choice.costs[int(p.how)];
    step.items = int(p.panels.size() * p.ranges.size());
    step.run = [packed, &kernels](int item, float* arena) {
        const QLinear& p = *packed;
        const Panel& panel = p.panels[item / p.ranges.size()];
        const RowRange& range = p.ranges[item % p.ranges.size()];
        QLinearTask task;
        task.x = words(arena, p.d.x.offset + panel.begin);
        task.y = words(arena, p.d.y.offset + range.begin * p.d.y.stride + panel.begin);
        task.y_stride = p.d.y.stride;
        task.vectors = panel.vectors;
        task.n_quads = range.end - range.begin;
        if (p.how != How::SPARSE) {
            task.x += int64_t(range.group) * (p.d.x.count / p.d.groups) * p.d.x.stride;
            task.offsets = p.offsets.data();
            task.n_offsets = int(p.offsets.size());
            task.weights = p.weights.data() + p.begins[p.how == How::DENSE ? range.begin : item % p.ranges.size()];
            task.positions = int(std::min<int64_t>(p.d.y.positions - panel.begin, int64_t(panel.vectors) * kernels.width));
        }
        const int64_t sums = p.how == How::COLUMNS ? int64_t(task.positions + 3) * kernels.qcolumns.outputs
                             : p.chunks > 1        ? int64_t(4) * task.n_quads * panel.vectors * kernels.width
                                                   : 0;
        task.sums = sums ? reinterpret_cast<int32_t*>(scratch(Scratch::SUMS, sums)) : nullptr;
        task.multiplier = p.d.multiplier.data() + 4 * range.begin;
        task.bias = p.bias.data() + 4 * range.begin;
        task.out = p.d.out;
        task.residual = p.d.has_residual ? words(arena, p.d.residual.offset + range.begin * p.d.residual.stride + panel.begin) : nullptr;
        task.residual_stride = p.d.residual.stride;
        task.residual_first = p.d.residual_first;
        task.sum = p.d.sum;
        if (p.how == How::DENSE) kernels.qdense.run(task);
        if (p.how == How::COLUMNS) kernels.qcolumns.run(task);
        for (int chunk = 0; chunk < p.chunks && p.how == How::SPARSE; ++chunk) {
            const size_t quad = size_t(chunk) * p.d.y.count + range.begin;
            task.first = chunk == 0, task.last = chunk == p.chunks - 1;
            task.counts = p.counts.data() + 4 * quad;
            task.pairs = p.pairs.data() + 4 * quad;
            task.blocks = p.blocks.data() + p.begins[quad];
            if (p.copies) {
                const uint32_t* x = words(arena, p.d.x.offset + int64_t(range.group) * (p.d.x.count / p.d.groups) * p.d.x.stride + panel.begin);
                const int first = p.stretch_begins[chunk], last = p.stretch_begins[chunk + 1];
                task.x = p.copies->make(kernels.copy, x, p.stretches.data() + first, last - first, panel.vectors, p.words_in_chunk);
            }
            kernels.qlinear.run(task);
        }
        if (p.halo) fill_halo(*p.halo, arena, range.begin, range.end, panel.begin, panel.begin + int64_t(panel.vectors) * kernels.width);
    };
    return step;
}

struct QMatvec {
    QLinearDesc d;
    std::vector<int32_t> bias;
    std::vector<uint32_t> weights;
    int words = 0, rows_per_item = 0;  // words of a row: those of one group, tap by tap
};

// One position: the matrix is read once, so it is expanded, and a row is a run of words.
Step column_step(const QLinearDesc& d, const Kernels& kernels, int threads) {
    auto packed = std::make_shared<QMatvec>();
    QMatvec& p = *packed;
    const int outputs = 4 * d.y.count, taps = int(d.taps.size()), words_in = d.x.count / d.groups;
    p.d = d;
    p.bias.assign(d.bias.begin(), d.bias.end());
    p.words = words_in * taps;
    p.weights.assign(size_t(outputs) * p.words, 0);
    each_block(d, [&](int row, int c, int t, const int8_t* values) {
        p.weights[size_t(row) * p.words + c * taps + t] = as_word(values);
        p.bias[row] += kernels.qmatvec.offset * sum_of(values);
    });
    p.rows_per_item = std::max(4, (d.y.count + fewest_items(threads) - 1) / fewest_items(threads) * 4);
    p.d.mask = {}, p.d.values = {};
    Step step;
    step.kernel = std::string("1x4 matvec ") + kernels.name;
    step.done_macs = 4.0 * outputs * p.words * d.y.positions;  // expanded, zeros and all
    step.items = (outputs + p.rows_per_item - 1) / p.rows_per_item;
    step.run = [packed, words_in, taps, outputs, &kernels](int item, float* arena) {
        const QMatvec& p = *packed;
        thread_local std::vector<uint32_t> inputs;
        inputs.resize(size_t(p.words));
        const int rows_in_group = outputs / p.d.groups, end = std::min(outputs, (item + 1) * p.rows_per_item);
        for (int row = item * p.rows_per_item; row < end;) {
            const int group = row / rows_in_group, stop = std::min(end, (group + 1) * rows_in_group);
            const uint32_t* x = words(arena, p.d.x.offset + int64_t(group) * words_in * p.d.x.stride);
            for (int c = 0; c < words_in; ++c)
                for (int t = 0; t < taps; ++t) inputs[c * taps + t] = x[c * p.d.x.stride + p.d.taps[t]];
            QMatvecTask task;
            task.weights = p.weights.data() + size_t(row) * p.words;
            task.x = inputs.data();
            task.y = reinterpret_cast<uint8_t*>(words(arena, p.d.y.offset)) + row;
            task.rows = stop - row;
            task.words = p.words;
            task.multiplier = p.d.multiplier.data() + row;
            task.bias = p.bias.data() + row;
            task.out = p.d.out;
            task.residual = p.d.has_residual ? reinterpret_cast<const uint8_t*>(words(arena, p.d.residual.offset)) + row : nullptr;
            task.residual_first = p.d.residual_first;
            task.sum = p.d.sum;
            kernels.qmatvec.run(task);
            row = stop;
        }
    };
    return step;
}

int rows_per_item(const Rows& y) { return int(std::max<int64_t>(1, ITEM_WORDS / std::max(1, y.positions))); }

// A step whose items are a few rows each, every row by itself.
template <class F>
Step by_rows(const char* kernel, const Rows& y, F run_row) {
    Step step;
    step.kernel = kernel;
    const int per_item = rows_per_item(y);
    step.items = (y.count + per_item - 1) / per_item;
    step.run = [run_row, per_item, count = y.count](int item, float* arena) {
        for (int row = item * per_item; row < std::min(count, (item + 1) * per_item); ++row) run_row(row, arena);
    };
    return step;
}

// Of one channel. Infinity is no NaN: it is clamped, as every large number.
bool no_nan(const QuantizeDesc& d, const float* x, const Kernels& kernels) {
    for (int64_t begin = 0; begin < d.x.positions; begin += d.pitch) {
        const float *line = x + begin, *end = line + d.width;
        if (!kernels.all_finite(line, d.width) && std::any_of(line, end, [](float v) { return std::isnan(v); })) return false;
    }
    return true;
}

}  // namespace

Step make_qlinear(const QLinearDesc& d, const Kernels& kernels, int threads) { return make_qlinear(d, kernels, threads, nullptr); }

Step make_qlinear(const QLinearDesc& d, const Kernels& kernels, int threads, const HaloDesc* halo) {
    int64_t nonzeros = 0;
    for (int64_t i = 0; i < 4 * d.blocks; ++i) nonzeros += d.values[i] != 0;
    const double total = 16.0 * d.y.count * (d.x.count / d.groups) * double(d.taps.size());
    Step step = is_column(d.y) ? column_step(d, kernels, threads) : row_step(d, kernels, threads, halo);
    if (halo) step.kernel += " +halo";
    step.macs = total * d.y.positions;
    step.needed_macs = double(nonzeros) * d.y.positions;
    return step;
}

Step make_qdepthwise(const QDepthwiseDesc& desc, const Kernels& kernels, int) {
    struct Packed {
        QDepthwiseDesc d;
        std::vector<int8_t> weights;  // of each row, as QDepthwiseTask has them
        std::vector<int32_t> bias;
    };
    const Kernels& fit = fitting(desc.y, kernels);
    auto packed = std::make_shared<Packed>();
    packed->d = desc;
    const int taps = int(desc.taps.size()), together = fit.qdepthwise.taps, n_taps = (taps + together - 1) / together * together;
    const int row_bytes = n_taps * (fit.qdepthwise.alone ? 16 : 4);
    packed->d.taps.resize(n_taps, desc.taps.back());
    packed->weights.assign(size_t(desc.y.count) * row_bytes, 0);
    for (int row = 0; row < desc.y.count; ++row)
        for (int t = 0; t < taps; ++t)
            for (int c = 0; c < 4; ++c) {
                const int at = fit.qdepthwise.alone ? 16 * t + 5 * c : t / together * together * 4 + c * together + t % together;
                packed->weights[size_t(row) * row_bytes + at] = desc.weights[(size_t(row) * taps + t) * 4 + c];
            }
    packed->bias.assign(desc.bias.begin(), desc.bias.end());
    for (int64_t i = 0; i < int64_t(desc.y.count) * taps * 4; ++i) packed->bias[i / (4 * taps) * 4 + i % 4] += fit.qdepthwise.offset * desc.weights[i];
    Step step = by_rows(fit.name, desc.y, [packed, n_taps, row_bytes, &fit](int row, float* arena) {
        const QDepthwiseDesc& d = packed->d;
        QDepthwiseTask task;
        task.x = words(arena, d.x.offset + row * d.x.stride);
        task.y = words(arena, d.y.offset + row * d.y.stride);
        task.positions = d.y.positions;
        task.taps = d.taps.data();
        task.n_taps = n_taps;
        task.weights = packed->weights.data() + size_t(row) * row_bytes;
        task.multiplier = d.multiplier.data() + 4 * row;
        task.bias = packed->bias.data() + 4 * row;
        task.out = d.out;
        fit.qdepthwise.run(task);
    });
    step.macs = step.needed_macs = step.done_macs = 4.0 * desc.y.count * desc.y.positions * taps;
    return step;
}

Step make_qpool(const QPoolDesc& desc, const Kernels& kernels, int) {
    const Kernels& fit = fitting(desc.y, kernels);
    auto d = std::make_shared<QPoolDesc>(desc);
    return by_rows(fit.name, desc.y, [d, &fit](int row, float* arena) {
        fit.qmaximum(words(arena, d->x.offset + row * d->x.stride), words(arena, d->y.offset + row * d->y.stride), d->y.positions, d->taps.data(),
                     int(d->taps.size()));
    });
}

Step make_qtable(const QTableDesc& d, const Kernels& kernels, int) {
    const Kernels& fit = fitting(d.y, kernels);
    auto table = std::make_shared<std::array<uint8_t, 256>>();  // of bytes as they lie in memory
    for (int byte = 0; byte < 256; ++byte) (*table)[byte ^ (FLIPPED & 255)] = d.table[byte] ^ uint8_t(FLIPPED & 255);
    return by_rows(fit.name, d.y, [x = d.x, y = d.y, table, &fit](int row, float* arena) {
        fit.qtable(table->data(), words(arena, x.offset + row * x.stride), words(arena, y.offset + row * y.stride), y.positions);
    });
}

Step make_qmean(const QMeanDesc& desc, const Kernels&, int) {
    auto d = std::make_shared<QMeanDesc>(desc);
    return by_rows("scalar", d->y, [d](int row, float* arena) {
        const uint32_t* x = words(arena, d->x.offset + row * d->x.strides[0]);
        int32_t sums[4] = {d->bias, d->bias, d->bias, d->bias};
        for (int64_t line = 0; line < d->x.dims[1]; ++line)
            for (int64_t begin = 0; begin < d->x.dims[2]; begin += 256) {
                uint32_t even = 0, odd = 0;  // two sums of 16 bits each
                for (int64_t p = begin; p < std::min(d->x.dims[2], begin + 256); ++p) {
                    const uint32_t word = x[line * d->x.strides[1] + p * d->x.strides[2]] ^ FLIPPED;
                    even += word & 0x00ff00ff, odd += word >> 8 & 0x00ff00ff;
                }
                sums[0] += even & 0xffff, sums[1] += odd & 0xffff, sums[2] += even >> 16, sums[3] += odd >> 16;
            }
        uint32_t out = 0;
        for (int c = 0; c < 4; ++c) {
            const float value = std::clamp(float(sums[c]) * d->multiplier, d->out.low - d->out.zero, d->out.high - d->out.zero);
            out |= uint32_t(std::nearbyint(value) + d->out.zero) << (8 * c);
        }
        *words(arena, d->y.offset + row * d->y.stride) = out ^ FLIPPED;
    });
}

Step make_qadd(const QAddDesc& d, const Kernels& kernels, int) {
    const Kernels& fit = fitting(d.y, kernels);
    return by_rows(fit.name, d.y, [d, &fit](int row, float* arena) {
        fit.qadd(d.sum, words(arena, d.a.offset + row * d.a.stride), words(arena, d.b.offset + row * d.b.stride), words(arena, d.y.offset + row * d.y.stride),
                 d.y.positions);
    });
}

Step make_quantize(const QuantizeDesc& d, const Kernels& kernels, int) {
    const Kernels& fit = fitting(d.y, kernels);
    auto lost_nan = std::make_shared<std::atomic<bool>>(false);
    Step step = by_rows(fit.name, d.y, [d, lost_nan, &kernels, &fit](int row, float* arena) {
        for (int channel = 4 * row; channel < std::min(4 * row + 4, d.x.count); ++channel)
            if (d.width && !no_nan(d, arena + d.x.offset + channel * d.x.stride, kernels)) *lost_nan = true;
        fit.quantize(arena + d.x.offset + 4 * row * d.x.stride, d.x.stride, std::min(4, d.x.count - 4 * row), words(arena, d.y.offset + row * d.y.stride),
                     d.y.positions, d.scale, d.out);
    });
    step.lost_nan = lost_nan;
    return step;
}

Step make_dequantize(const DequantizeDesc& d, const Kernels& kernels, int) {
    const Kernels& fit = fitting(d.y, kernels);
    return by_rows(fit.name, d.x, [d, &fit](int row, float* arena) {
        fit.dequantize(words(arena, d.x.offset + row * d.x.stride), arena + d.y.offset + 4 * row * d.y.stride, d.y.stride, std::min(4, d.y.count - 4 * row),
                       d.y.positions, d.scale, d.zero);
    });
}

}  // namespace mmrt
