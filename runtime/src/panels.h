// How the work of a linear layer is cut into items: panels of positions times ranges of rows.
#pragma once

#include <cstdint>
#include <vector>

namespace mmrt {

struct Panel {
    int64_t begin;  // position
    int vectors;
};

// Rows [begin, end) of group g; a range never crosses a group.
struct RowRange {
    int begin, end, group;
};

constexpr int COLUMN_PANEL = 256;  // positions, where vectors hold outputs: their sums stay in the L2 cache

// One thread alone reads a block of inputs once, for all rows; several get a few items each, so that they end together.
int fewest_items(int threads);

// Positions in panels of nearly equal width, at most `most` vectors wide.
std::vector<Panel> cut_panels(int positions, int width, int most);

// The rows of each group in about `parts` parts, each a multiple of `multiple` rows but for the last.
std::vector<RowRange> cut_rows(int outputs, int groups, int parts, int multiple);

// Elements of one input row that a panel reads through all taps, overlaps counted once.
int64_t touched(std::vector<int32_t> taps, int64_t panel);

}  // namespace mmrt
