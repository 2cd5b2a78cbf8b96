// What the steps of a LINEAR share, sparse and dense.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <vector>

#include "halo.h"
#include "kernels.h"
#include "panels.h"

namespace mmrt {

constexpr int64_t L1_BYTES = 24 * 1024;  // of 32 KB: what one block's inputs may take

// Of the rows and positions that an item has written.
inline void finish_halo(const std::optional<HaloDesc>& halo, float* arena, const RowRange& rows, const Panel& first, const Panel& last, int width) {
    if (halo) fill_halo(*halo, arena, rows.begin, rows.end, first.begin, last.begin + int64_t(last.vectors) * width);
}

inline int32_t byte_offset(const LinearDesc& d, int64_t channel, int tap) {
    const int64_t bytes = (channel * d.x.stride + d.taps[tap]) * int64_t(sizeof(float));
    if (bytes > INT32_MAX || bytes < INT32_MIN) throw std::runtime_error("an input of more than 2 GB");
    return static_cast<int32_t>(bytes);
}

// So many channels are a block, all blocks of nearly equal size: a channel's inputs take so many bytes of the L1 cache.
inline int block_channels(int channels, int64_t bytes) {
    const int64_t most = std::clamp<int64_t>(L1_BYTES / bytes, 1, channels), blocks = (channels + most - 1) / most;
    return int((channels + blocks - 1) / blocks);
}

// The entries of a block by their number of weights: the inner loop's trip count then seldom changes and is predicted.
template <class Count>
std::vector<int> by_count(int entries, Count count) {
    std::vector<int> order(entries);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int i, int j) { return count(i) < count(j); });
    return order;
}

// Of a layer whose zero weights are left out: makes NaN what such a weight times NaN or infinity would have. each_nonzero calls its
// argument with the output and the input's first position, in elements from x, of every weight that is there.
template <class EachNonzero>
void add_zeros(const LinearDesc& d, EachNonzero each_nonzero, float* arena) {
    const int channels = d.x.count / d.groups, rows = d.y.count / d.groups, positions = d.y.positions;
    std::vector<int> all(size_t(d.groups) * positions);  // how many inputs are not finite, of those that an output is a sum of
    auto count = [&](const float* x, int* counts) {
        for (int p = 0; p < positions; ++p) counts[p] += x[p] - x[p] != 0;  // NaN of NaN and of infinity
    };
    for (int c = 0; c < d.x.count; ++c)
        for (int32_t tap : d.taps) count(arena + d.x.offset + c * d.x.stride + tap, &all[size_t(c / channels) * positions]);
    auto each_unsettled = [&](auto f) {
        for (int o = 0; o < d.y.count; ++o)
            for (int p = 0; p < positions; ++p) {
                float& y = arena[d.y.offset + o * d.y.stride + p];
                if (all[size_t(o / rows) * positions + p] > 0 && !std::isnan(y)) f(o, p, &y);
            }
    };
    bool settled = true;
    each_unsettled([&](int, int, float*) { settled = false; });
    if (settled) return;
    std::vector<int> met(size_t(d.y.count) * positions);  // how many of them by weights that are there
    each_nonzero([&](int row, int64_t offset) { count(arena + d.x.offset + offset, &met[size_t(row) * positions]); });
    each_unsettled([&](int o, int p, float* y) {
        if (met[size_t(o) * positions + p] < all[size_t(o / rows) * positions + p]) *y = std::numeric_limits<float>::quiet_NaN();
    });
}

// The step of a layer with so many weights that are not zero, of which four outputs in turn lose the same ones, or nearly (block-4x1). None for others.
std::optional<Step> make_quads(const LinearDesc&, int64_t nonzeros, const Kernels&, int threads, const HaloDesc* halo);
Step make_dense_quads(const LinearDesc&, const Kernels&, int threads, const HaloDesc* halo);

// With vectors of outputs in place of positions.
Step make_columns(const LinearDesc&, const Kernels&, int threads, const HaloDesc* halo);

}  // namespace mmrt
