// A LINEAR whose outputs go in fours: an input is read once for all of them, so the multiply-adds are the limit and not the reads.
#include <array>
#include <memory>

#include "linear.h"
#include "weights.h"

namespace mmrt {
namespace {

constexpr int FOUR = 4;
constexpr double MOST_STORED = 1.25;  // weights that are stored, zeros among them, for each that is not zero

// One block of input channels for one range of rows: entries are fours of rows.
struct QuadBlock {
    std::vector<int32_t> rows, counts;
    int64_t offsets = 0, values = 0;  // where its own begin
    bool first = false, last = false;
};

struct QuadRange {
    RowRange rows;
    std::vector<QuadBlock> blocks;
    std::vector<int32_t> offsets;  // of a dense layer those of one four, for each block
    std::vector<float> values;     // four for each offset and four
};

struct Quads {
    LinearDesc d;
    std::optional<HaloDesc> halo;
    bool dense = false;  // zeros are weights too, so all fours have the same inputs
    std::vector<Panel> panels;
    std::vector<QuadRange> ranges;
};

// Calls see(first row, weights [FOUR][inputs]) for every four rows of a range until it returns false; rows that there are not are zero.
template <class F>
void each_four(const LinearDesc& d, const RowRange& range, F see) {
    const int64_t inputs = int64_t(d.x.count / d.groups) * int64_t(d.taps.size());
    RowReader reader(d.weights, d.y.count, inputs);
    reader.skip(range.begin);
    std::vector<float> rows(size_t(FOUR * inputs));
    for (int row = range.begin; row < range.end; row += FOUR) {
        const int n = std::min(FOUR, range.end - row);
        std::fill(rows.begin(), rows.end(), 0.f);
        for (int r = 0; r < n; ++r) reader.next(rows.data() + r * inputs);
        if (!see(row, rows.data())) return;
    }
}

bool any_of_four(const float* weights, int64_t inputs, int64_t k) {
    return weights[k] != 0 || weights[inputs + k] != 0 || weights[2 * inputs + k] != 0 || weights[3 * inputs + k] != 0;
}

bool is_in_fours(const LinearDesc& d, int64_t nonzeros) {
    const double most = MOST_STORED * double(nonzeros);
    const int rows = d.y.count / d.groups;
    const int64_t inputs = int64_t(d.x.count / d.groups) * int64_t(d.taps.size());
    int64_t stored = 0;
    for (const RowRange& group : cut_rows(d.y.count, d.groups, 1, rows))
        each_four(d, group, [&](int, const float* weights) {
            for (int64_t k = 0; k < inputs; ++k) stored += FOUR * any_of_four(weights, inputs, k);
            return double(stored) <= most;
        });
    return double(stored) <= most;
}

struct QuadWeights {
    int32_t offset;
    std::array<float, FOUR> values;
};

QuadRange pack_quads(const LinearDesc& d, const RowRange& range, int channels_per_block, bool dense) {
    const int channels = d.x.count / d.groups, taps = int(d.taps.size());
    const int64_t inputs = int64_t(channels) * taps;
    const int n_blocks = (channels + channels_per_block - 1) / channels_per_block;
    std::vector<std::vector<QuadWeights>> cells;  // of each four and block
    std::vector<int> rows;
    each_four(d, range, [&](int row, const float* weights) {
        rows.push_back(row);
        cells.resize(cells.size() + n_blocks);
        auto* mine = cells.data() + cells.size() - n_blocks;
        for (int64_t k = 0; k < inputs; ++k)
            if (dense || any_of_four(weights, inputs, k)) {
                const int channel = int(k / taps);
                QuadWeights out{byte_offset(d, int64_t(range.group) * channels + channel, int(k % taps)), {}};
                for (int r = 0; r < FOUR; ++r) out.values[r] = weights[r * inputs + k];
                mine[channel / channels_per_block].push_back(out);
            }
        return true;
    });
    QuadRange out;
    out.rows = range;
    for (int b = 0; b < n_blocks; ++b) {
        QuadBlock block;
        block.first = b == 0;
        block.last = b == n_blocks - 1;
        block.offsets = int64_t(out.offsets.size());
        block.values = int64_t(out.values.size());
        auto cell = [&](int i) -> const std::vector<QuadWeights>& { return cells[size_t(i) * n_blocks + b]; };
        for (int i : by_count(int(rows.size()), [&](int i) { return cell(i).size(); })) {
            if (cell(i).empty() && !block.first && !block.last) continue;
            for (const QuadWeights& w : cell(i)) {
                if (!dense || block.rows.empty()) out.offsets.push_back(w.offset);
                out.values.insert(out.values.end(), w.values.begin(), w.values.end());
            }
            block.rows.push_back(rows[i]);
            block.counts.push_back(int32_t(cell(i).size()));
        }
        if (!block.rows.empty()) out.blocks.push_back(std::move(block));
    }
    return out;
}

template <class F>
void each_nonzero(const Quads& packed, F see) {
    for (const QuadRange& range : packed.ranges)
        for (const QuadBlock& block : range.blocks) {
            const int32_t* offset = range.offsets.data() + block.offsets;
            for (size_t i = 0; i < block.rows.size(); ++i)
                for (const int32_t* end = offset + block.counts[i]; offset < end; ++offset)
                    for (int row = block.rows[i]; row < std::min(block.rows[i] + FOUR, range.rows.end); ++row) see(row, *offset / int64_t(sizeof(float)));
        }
}

Step step_of(const LinearDesc& d, const Kernels& kernels, int threads, const HaloDesc* halo, bool dense) {
    auto packed = std::make_shared<Quads>();
    packed->d = d;
    if (halo) packed->halo = *halo;
    packed->dense = dense;
    packed->panels = cut_panels(d.y.positions, kernels.width, kernels.quads.vectors);
    const int64_t line = touched(d.taps, int64_t(packed->panels.front().vectors) * kernels.width) * int64_t(sizeof(float));
    const int per_block = block_channels(d.x.count / d.groups, line);
    const int parts = (fewest_items(threads) + int(packed->panels.size()) - 1) / int(packed->panels.size());
    for (const RowRange& range : cut_rows(d.y.count, d.groups, parts, FOUR)) packed->ranges.push_back(pack_quads(d, range, per_block, dense));
    packed->d.weights = {};  // the file may go
    Step step;
    step.kernel =
        std::string(dense ? "dense 4x1 " : "4x1 ") + kernels.name + " T" + std::to_string(packed->panels.front().vectors) + " B" + std::to_string(per_block);
    step.items = int(packed->panels.size() * packed->ranges.size());
    step.run = [packed, run = kernels.quads.run, width = kernels.width](int item, float* arena) {
        const Quads& p = *packed;
        const Panel& panel = p.panels[item / p.ranges.size()];
        const QuadRange& range = p.ranges[item % p.ranges.size()];
        QuadTask task;
        task.x = arena + p.d.x.offset + panel.begin;
        task.y = arena + p.d.y.offset + panel.begin;
        task.y_stride = p.d.y.stride;
        task.vectors = panel.vectors;
        task.end = range.rows.end;
        task.bias = p.d.bias.empty() ? nullptr : p.d.bias.data();
        task.residual = p.d.has_residual ? arena + p.d.residual.offset + panel.begin : nullptr;
        task.residual_stride = p.d.residual.stride;
        task.act = p.d.act;
        for (const QuadBlock& block : range.blocks) {
            task.rows = block.rows.data();
            task.counts = block.counts.data();
            task.n_rows = int(block.rows.size());
            task.offsets = range.offsets.data() + block.offsets;
            task.alike = p.dense;
            task.values = range.values.data() + block.values;
            task.first = block.first;
            task.last = block.last;
            run(task);
        }
        finish_halo(p.halo, arena, range.rows, panel, panel, width);
    };
    if (dense) return step;
    for (const QuadRange& range : packed->ranges) step.done_macs += double(range.values.size()) * d.y.positions;
    step.add_zeros = [packed, width = kernels.width](float* arena) {
        add_zeros(packed->d, [&](auto see) { each_nonzero(*packed, see); }, arena);
        finish_halo(packed->halo, arena, {0, packed->d.y.count, 0}, packed->panels.front(), packed->panels.back(), width);
    };
    return step;
}

}  // namespace

std::optional<Step> make_quads(const LinearDesc& d, int64_t nonzeros, const Kernels& kernels, int threads, const HaloDesc* halo) {
    if (!is_in_fours(d, nonzeros)) return std::nullopt;
    return step_of(d, kernels, threads, halo, false);
}

Step make_dense_quads(const LinearDesc& d, const Kernels& kernels, int threads, const HaloDesc* halo) { return step_of(d, kernels, threads, halo, true); }

}  // namespace mmrt
