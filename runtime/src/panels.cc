#include "panels.h"

#include <algorithm>

namespace mmrt {
namespace {

constexpr int SHARES = 4;                // a step has at least so many items for each thread, where positions alone give fewer panels

}  // namespace

int fewest_items(int threads) { return threads == 1 ? 1 : SHARES * threads; }

std::vector<Panel> cut_panels(int positions, int width, int most) {
    const int vectors = (positions + width - 1) / width;
    const int panels = (vectors + most - 1) / most;
    std::vector<Panel> out;
    int64_t begin = 0;
    for (int i = 0; i < panels; ++i) {
        const int take = vectors / panels + (i < vectors % panels);
        out.push_back({begin, take});
        begin += int64_t(take) * width;
    }
    return out;
}

std::vector<RowRange> cut_rows(int outputs, int groups, int parts, int multiple) {
    std::vector<RowRange> out;
    const int rows = outputs / groups;
    parts = std::max(1, std::min(parts, rows / multiple));
    for (int g = 0; g < groups; ++g)
        for (int i = 0; i < parts; ++i) {
            const int units = (rows + multiple - 1) / multiple;
            const int begin = int(std::min<int64_t>(rows, int64_t(units) * i / parts * multiple));
            const int end = int(std::min<int64_t>(rows, int64_t(units) * (i + 1) / parts * multiple));
            if (begin < end) out.push_back({g * rows + begin, g * rows + end, g});
        }
    return out;
}

int64_t touched(std::vector<int32_t> taps, int64_t panel) {
    std::sort(taps.begin(), taps.end());
    int64_t sum = 0, reached = INT64_MIN;
    for (int64_t tap : taps) {
        sum += std::max<int64_t>(0, tap + panel - std::max(tap, reached));
        reached = std::max(reached, tap + panel);
    }
    return sum;
}

}  // namespace mmrt
