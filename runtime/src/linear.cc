// LINEAR: chooses the kernel, packs the weights for it and cuts the work into items.
#include "linear.h"
#include "cost.h"

#include <memory>

#include "weights.h"

namespace mmrt {
namespace {

constexpr size_t L2_BYTES = 256 * 1024;     // of 512 KB: weights beyond it are read from L3 for every panel, so panels share the reading
constexpr double NEARLY_DENSE = 0.95;  // density from which zeros are no gain
constexpr int TOGETHER = 4;  // panels, at most

// One block of input channels for one range of rows.
struct SparseBlock {
    std::vector<int32_t> rows, counts;
    int64_t nonzeros = 0;  // where they begin
    bool first = false, last = false;
};

struct SparseRange {
    RowRange rows;
    std::vector<SparseBlock> blocks;
    std::vector<Nonzero> nonzeros;
};

struct Sparse {
    LinearDesc d;
    std::optional<HaloDesc> halo;
    std::vector<Panel> panels;
    std::vector<SparseRange> ranges;
};

SparseRange pack_sparse(const LinearDesc& d, const RowRange& range, int channels_per_block) {
    const int channels = d.x.count / d.groups, taps = int(d.taps.size()), rows = range.end - range.begin;
    const int n_blocks = (channels + channels_per_block - 1) / channels_per_block;
    std::vector<Nonzero> all;    // row by row, block by block
    std::vector<size_t> begins;  // of each block of each row
    RowReader reader(d.weights, d.y.count, int64_t(channels) * taps);
    reader.skip(range.begin);
    std::vector<float> row(size_t(channels) * taps);
    for (int r = 0; r < rows; ++r) {
        reader.next(row.data());
        for (int c = 0; c < channels; ++c) {
            if (c % channels_per_block == 0) begins.push_back(all.size());
            for (int t = 0; t < taps; ++t)
                if (float value = row[size_t(c) * taps + t]; value != 0) all.push_back({byte_offset(d, int64_t(range.group) * channels + c, t), value});
        }
    }
    begins.push_back(all.size());
    SparseRange out;
    out.rows = range;
    out.nonzeros.reserve(all.size());
    for (int b = 0; b < n_blocks; ++b) {
        SparseBlock block;
        block.first = b == 0;
        block.last = b == n_blocks - 1;
        block.nonzeros = int64_t(out.nonzeros.size());
        auto cell = [&](int r) { return size_t(r) * n_blocks + b; };
        auto count = [&](int r) { return begins[cell(r) + 1] - begins[cell(r)]; };
        for (int r : by_count(rows, count)) {
            if (count(r) == 0 && !block.first && !block.last) continue;
            block.rows.push_back(range.begin + r);
            block.counts.push_back(int32_t(count(r)));
            out.nonzeros.insert(out.nonzeros.end(), all.begin() + begins[cell(r)], all.begin() + begins[cell(r) + 1]);
        }
        if (!block.rows.empty()) out.blocks.push_back(std::move(block));
    }
    return out;
}

template <class F>
void each_nonzero(const Sparse& packed, F see) {
    for (const SparseRange& range : packed.ranges)
        for (const SparseBlock& block : range.blocks) {
            const Nonzero* nz = range.nonzeros.data() + block.nonzeros;
            for (size_t i = 0; i < block.rows.size(); ++i)
                for (const Nonzero* end = nz + block.counts[i]; nz < end; ++nz) see(block.rows[i], nz->offset / int64_t(sizeof(float)));
        }
}

Step sparse_step(const LinearDesc& d, const Kernels& kernels, int threads, const HaloDesc* halo) {
    auto packed = std::make_shared<Sparse>();
    packed->d = d;
    if (halo) packed->halo = *halo;
    packed->panels = cut_panels(d.y.positions, kernels.width, kernels.sparse.vectors);
    const int widest = packed->panels.front().vectors * kernels.width;
    const int64_t bytes = touched(d.taps, widest) * int64_t(sizeof(float));
    const int channels = d.x.count / d.groups;
    const int per_block = block_channels(channels, bytes);
    const int parts = (fewest_items(threads) + int(packed->panels.size()) - 1) / int(packed->panels.size());
    for (const RowRange& range : cut_rows(d.y.count, d.groups, parts, 1)) packed->ranges.push_back(pack_sparse(d, range, per_block));
    packed->d.weights = {};  // the file may go
    Step step;
    step.kernel = std::string("sparse ") + kernels.name + " T" + std::to_string(packed->panels.front().vectors) + " B" + std::to_string(per_block);
    step.items = int(packed->panels.size() * packed->ranges.size());
    step.run = [packed, run = kernels.sparse.run, width = kernels.width](int item, float* arena) {
        const Sparse& p = *packed;
        const Panel& panel = p.panels[item / p.ranges.size()];
        const SparseRange& range = p.ranges[item % p.ranges.size()];
        SparseTask task;
        task.x = arena + p.d.x.offset + panel.begin;
        task.y = arena + p.d.y.offset + panel.begin;
        task.y_stride = p.d.y.stride;
        task.vectors = panel.vectors;
        task.bias = p.d.bias.data();
        task.residual = p.d.has_residual ? arena + p.d.residual.offset + panel.begin : nullptr;
        task.residual_stride = p.d.residual.stride;
        task.act = p.d.act;
        for (const SparseBlock& block : range.blocks) {
            task.rows = block.rows.data();
            task.counts = block.counts.data();
            task.n_rows = int(block.rows.size());
            task.nonzeros = range.nonzeros.data() + block.nonzeros;
            task.first = block.first;
            task.last = block.last;
            run(task);
        }
        finish_halo(p.halo, arena, range.rows, panel, panel, width);
    };
    step.add_zeros = [packed, width = kernels.width](float* arena) {
        add_zeros(packed->d, [&](auto see) { each_nonzero(*packed, see); }, arena);
        finish_halo(packed->halo, arena, {0, packed->d.y.count, 0}, packed->panels.front(), packed->panels.back(), width);
    };
    return step;
}

struct DenseTile {
    int row, n_rows;
    int64_t weights;  // where the tile's first block begins; blocks follow each other
};

struct Dense {
    LinearDesc d;
    std::optional<HaloDesc> halo;
    std::vector<float> weights;
    std::vector<int32_t> offsets;  // of all groups
    std::vector<int64_t> blocks;   // bounds of the blocks of inputs, of one group
    std::vector<Panel> panels;
    std::vector<RowRange> ranges;
    std::vector<std::vector<DenseTile>> tiles;  // of each range
    int together = 1;                           // panels that share one reading of the weights
};

Step dense_step(const LinearDesc& d, const Kernels& kernels, int threads, const HaloDesc* halo) {
    auto packed = std::make_shared<Dense>();
    packed->d = d;
    if (halo) packed->halo = *halo;
    packed->panels = cut_panels(d.y.positions, kernels.width, kernels.dense.vectors);
    const int channels = d.x.count / d.groups, taps = int(d.taps.size());
    const int64_t inputs = int64_t(channels) * taps;
    for (int c = 0; c < d.x.count; ++c)
        for (int t = 0; t < taps; ++t) packed->offsets.push_back(byte_offset(d, c, t));
    const int64_t bytes = int64_t(packed->panels.front().vectors) * kernels.width * int64_t(sizeof(float)) * taps;
    const int64_t per_block = block_channels(channels, bytes);
    for (int64_t c = 0; c < channels; c += per_block) packed->blocks.push_back(c * taps);
    packed->blocks.push_back(inputs);
    packed->weights.resize(size_t(d.y.count) * inputs);
    packed->together = packed->weights.size() * sizeof(float) > L2_BYTES ? TOGETHER : 1;
    const int bundles = (int(packed->panels.size()) + packed->together - 1) / packed->together;
    packed->ranges = cut_rows(d.y.count, d.groups, (fewest_items(threads) + bundles - 1) / bundles, kernels.dense.rows);
    RowReader reader(d.weights, d.y.count, inputs);
    std::vector<float> rows(size_t(kernels.dense.rows) * inputs);
    int64_t written = 0;
    for (const RowRange& range : packed->ranges) {
        std::vector<DenseTile> tiles;
        for (int row = range.begin; row < range.end;) {
            const int n = std::min(kernels.dense.rows, range.end - row);
            for (int r = 0; r < n; ++r) reader.next(rows.data() + r * inputs);
            tiles.push_back({row, n, written});
            for (int64_t k = 0; k < inputs; ++k)
                for (int r = 0; r < n; ++r) packed->weights[written++] = rows[r * inputs + k];
            row += n;
        }
        packed->tiles.push_back(std::move(tiles));
    }
    packed->d.weights = {};
    Step step;
    step.kernel = std::string("dense ") + kernels.name;
    step.items = bundles * int(packed->ranges.size());
    const int64_t scratch = per_block * taps * packed->panels.front().vectors * kernels.width;
    step.run = [packed, inputs, scratch, width = kernels.width, gather = kernels.dense.gather_rows, run = kernels.dense.run](int item, float* arena) {
        const Dense& p = *packed;
        const size_t part = item % p.ranges.size(), first = item / p.ranges.size() * p.together;
        const size_t last = std::min(p.panels.size(), first + p.together);
        thread_local std::vector<float> rows;  // the block's inputs side by side: rows of an image are pages apart
        if (int64_t(rows.size()) < scratch * p.together) rows.resize(size_t(scratch * p.together));
        DenseTask task;
        task.y_stride = p.d.y.stride;
        task.residual_stride = p.d.residual.stride;
        task.act = p.d.act;
        for (size_t b = 0; b + 1 < p.blocks.size(); ++b) {
            task.inputs = int(p.blocks[b + 1] - p.blocks[b]);
            task.first = b == 0;
            task.last = b + 2 == p.blocks.size();
            const int32_t* offsets = p.offsets.data() + p.ranges[part].group * inputs + p.blocks[b];
            for (size_t i = first; i < last; ++i)
                gather(arena + p.d.x.offset + p.panels[i].begin, offsets, task.inputs, p.panels[i].vectors, rows.data() + (i - first) * scratch);
            for (const DenseTile& tile : p.tiles[part]) {
                task.n_rows = tile.n_rows;
                task.weights = p.weights.data() + tile.weights + p.blocks[b] * tile.n_rows;
                task.bias = p.d.bias.empty() ? nullptr : p.d.bias.data() + tile.row;
                for (size_t i = first; i < last; ++i) {
                    const int64_t begin = p.panels[i].begin;
                    task.x = rows.data() + (i - first) * scratch;
                    task.y = arena + p.d.y.offset + tile.row * p.d.y.stride + begin;
                    task.vectors = p.panels[i].vectors;
                    task.residual = p.d.has_residual ? arena + p.d.residual.offset + tile.row * p.d.residual.stride + begin : nullptr;
                    run(task);
                }
            }
        }
        finish_halo(p.halo, arena, p.ranges[part], p.panels[first], p.panels[last - 1], width);
    };
    return step;
}

// One position: a matrix times a vector. Bound by reading the weights, so zeros are left out whenever there are many, and wherever
// the inputs do not lie side by side.
struct Matvec {
    LinearDesc d;
    std::vector<float> weights;
    std::vector<int64_t> begins;
    std::vector<Nonzero> nonzeros;  // offsets in elements here
    int64_t inputs = 0;             // of one group
    int rows_per_item = 0;
};

void dense_matvec(const Matvec& p, int begin, int end, const float* x, float* y, const float* residual, const Kernels& kernels) {
    const float* bias = p.d.bias.empty() ? nullptr : p.d.bias.data() + begin;
    const int rows = p.d.y.count / p.d.groups;
    for (int o = begin; o < end;) {  // rows of one group at a time
        const int group = o / rows, stop = std::min(end, (group + 1) * rows);
        kernels.matvec({p.weights.data() + o * p.inputs, x + group * p.inputs, bias ? bias + (o - begin) : nullptr, residual ? residual + o : nullptr, y + o,
                        stop - o, p.inputs, p.d.act});
        o = stop;
    }
}

void sparse_matvec(const Matvec& p, int begin, int end, const float* x, float* y, const float* residual, const Kernels& kernels) {
    for (int o = begin; o < end; ++o) {
        float sums[4] = {};
        const Nonzero *nz = p.nonzeros.data() + p.begins[o], *stop = p.nonzeros.data() + p.begins[o + 1];
        for (; stop - nz >= 4; nz += 4)  // both are null where all weights are zero
            for (int j = 0; j < 4; ++j) sums[j] += nz[j].value * x[nz[j].offset];
        for (; nz < stop; ++nz) sums[0] += nz->value * x[nz->offset];
        y[o] = (sums[0] + sums[1]) + (sums[2] + sums[3]) + (p.d.bias.empty() ? 0.f : p.d.bias[o]) + (residual ? residual[o] : 0.f);
    }
    if (p.d.act.code) kernels.unary(p.d.act, y + begin, y + begin, end - begin);
}

Step matvec_step(const LinearDesc& d, const Kernels& kernels, int threads, bool sparse) {
    auto packed = std::make_shared<Matvec>();
    const int taps = int(d.taps.size()), channels = d.x.count / d.groups;
    packed->d = d;
    packed->inputs = int64_t(channels) * taps;
    packed->rows_per_item = std::max(1, (d.y.count + fewest_items(threads) - 1) / fewest_items(threads));
    RowReader reader(d.weights, d.y.count, packed->inputs);
    std::vector<float> row(packed->inputs);
    for (int o = 0; o < d.y.count; ++o) {
        packed->begins.push_back(int64_t(packed->nonzeros.size()));
        reader.next(row.data());
        if (!sparse) packed->weights.insert(packed->weights.end(), row.begin(), row.end());
        const int64_t first = int64_t(o / (d.y.count / d.groups)) * channels;
        for (int64_t k = 0; sparse && k < packed->inputs; ++k)
            if (row[k] != 0) packed->nonzeros.push_back({byte_offset(d, first + k / taps, int(k % taps)) / int(sizeof(float)), row[k]});
    }
    packed->begins.push_back(int64_t(packed->nonzeros.size()));
    packed->d.weights = {};
    Step step;
    auto each_nonzero = [packed](auto see) {
        for (int o = 0; o < packed->d.y.count; ++o)
            for (int64_t i = packed->begins[o]; i < packed->begins[o + 1]; ++i) see(o, packed->nonzeros[i].offset);
    };
    if (sparse) step.add_zeros = [packed, each_nonzero](float* arena) { add_zeros(packed->d, each_nonzero, arena); };
    step.kernel = std::string(sparse ? "sparse matvec " : "matvec ") + kernels.name;
    step.items = (d.y.count + packed->rows_per_item - 1) / packed->rows_per_item;
    step.run = [packed, run = sparse ? sparse_matvec : dense_matvec, &kernels](int item, float* arena) {
        const Matvec& p = *packed;
        const int begin = item * p.rows_per_item, end = std::min(p.d.y.count, begin + p.rows_per_item);
        run(p, begin, end, arena + p.d.x.offset, arena + p.d.y.offset, p.d.has_residual ? arena + p.d.residual.offset : nullptr, kernels);
    };
    return step;
}

constexpr double COLUMN_BELOW = 0.3;  // as SparseKernel::below, where y has one position

constexpr double COLUMNS_FINISH = 80, READING = 1.3;

}  // namespace

Step make_linear(const LinearDesc& d, const Kernels& kernels, int threads) { return make_linear(d, kernels, threads, nullptr); }

Step make_linear(const LinearDesc& d, const Kernels& kernels, int threads, const HaloDesc* halo) {
    const double total = double(d.y.count) * (d.x.count / d.groups) * double(d.taps.size());
    const int64_t nonzeros = count_nonzeros(d.weights, int64_t(total));
    const double density = total > 0 ? double(nonzeros) / total : 0;
    const bool column = is_column(d.y), side_by_side = d.taps.size() == 1 && d.taps[0] == 0 && d.x.stride == 1;
    const double sparse_below = column ? COLUMN_BELOW : d.taps.size() > 1 ? kernels.sparse.below_taps : kernels.sparse.below;
    const Way asked = d.kernel == 0 ? asked_way() : Way::CHEAPEST;
    const bool zeros_pay = asked == Way::CHEAPEST ? density < sparse_below : asked == Way::SPARSE;
    const bool sparse = d.kernel == 2 || (d.kernel == 0 && zeros_pay);
    const double fours_below = asked == Way::CHEAPEST ? std::min(kernels.quads.below, NEARLY_DENSE) : asked == Way::SPARSE ? 1 : 0;
    const bool may_be_in_fours = !column && (d.kernel == 2 || (d.kernel == 0 && density < fours_below));
    std::optional<Step> quads = may_be_in_fours ? make_quads(d, nonzeros, kernels, threads, halo) : std::nullopt;
    const bool many = quads || (sparse && !column);
    const double below = quads ? kernels.quads.below : sparse_below;
    const int panel = cut_panels(d.y.positions, kernels.width, quads ? kernels.quads.vectors : kernels.sparse.vectors).front().vectors;
    const double inputs = double(d.x.count / d.groups) * double(d.taps.size()), products = inputs * of_input(below, panel, READING);
    auto of_positions = [&](double products) { return vectors_cost(d.y.positions, kernels.width, products); };
    const double in_columns = kernels.columns.run
                                  ? std::max(columns_cost(d.y.positions, kernels.width, d.y.count / d.groups, inputs / kernels.columns.gain, COLUMNS_FINISH),
                                             inputs * of_weight(4 * total))
                                  : std::numeric_limits<double>::infinity();
    const double none = of_positions(0);
    const double in_rows = of_positions(many ? density * products : inputs);
    const bool cheaper = asked == Way::CHEAPEST ? in_columns < in_rows : asked == Way::COLUMNS;
    const bool columns = !column && d.kernel != 2 && cheaper && kernels.columns.run;
    Step step = columns                                    ? make_columns(d, kernels, threads, halo)
                : quads                                    ? *quads
                : column                                   ? matvec_step(d, kernels, threads, sparse || !side_by_side)
                : sparse                                   ? sparse_step(d, kernels, threads, halo)
                : d.kernel == 0 && kernels.quads.below > 1 ? make_dense_quads(d, kernels, threads, halo)
                                                           : dense_step(d, kernels, threads, halo);
    if (halo) step.kernel += " +halo";
    step.cost = column ? 0 : columns ? in_columns : in_rows;
    step.macs = total * d.y.positions;
    step.needed_macs = step.macs * density;
    if (!quads || columns) step.done_macs = !columns && (sparse || (column && !side_by_side)) ? step.needed_macs : step.macs;
    step.sparse_below = column ? COLUMN_BELOW : std::clamp((in_columns - none) / (of_positions(products) - none), 0., sparse_below);
    return step;
}

}  // namespace mmrt
