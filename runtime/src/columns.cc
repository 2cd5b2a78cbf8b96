// A dense LINEAR whose vectors hold outputs of one position (kernels/columns.h).
#include <memory>

#include "copies.h"
#include "linear.h"
#include "weights.h"

namespace mmrt {
namespace {

struct Columns {
    LinearDesc d;
    std::optional<HaloDesc> halo;
    std::vector<float> weights, bias;
    std::vector<int32_t> offsets;  // of one group
    std::vector<int64_t> begins;   // of each range's weights
    std::vector<Panel> panels;
    std::vector<RowRange> ranges;
};

}  // namespace

Step make_columns(const LinearDesc& d, const Kernels& kernels, int threads, const HaloDesc* halo) {
    auto packed = std::make_shared<Columns>();
    Columns& p = *packed;
    p.d = d;
    if (halo) p.halo = *halo;
    const int width = kernels.width, most = kernels.columns.outputs, channels = d.x.count / d.groups, taps = int(d.taps.size());
    const int64_t inputs = int64_t(channels) * taps;
    for (int c = 0; c < channels; ++c)
        for (int t = 0; t < taps; ++t) p.offsets.push_back(byte_offset(d, c, t));
    byte_offset(d, d.x.count - 1, 0);  // refuses what is too large
    p.panels = cut_panels(d.y.positions, width, COLUMN_PANEL / width);
    p.ranges = cut_rows(d.y.count, d.groups, (fewest_items(threads) + int(p.panels.size()) - 1) / int(p.panels.size()), width);
    p.bias.assign(d.bias.begin(), d.bias.end());
    p.bias.resize(size_t(d.y.count + width));  // a range's last vector reads on
    int64_t size = width;
    for (const RowRange& range : p.ranges)
        for (int row = range.begin; row < range.end; row += most) size += inputs * ((std::min(most, range.end - row) + width - 1) / width * width);
    p.weights.resize(size_t(size));
    int64_t written = int64_t(-reinterpret_cast<uintptr_t>(p.weights.data()) / sizeof(float)) & (width - 1);  // to a cache line
    RowReader reader(d.weights, d.y.count, inputs);
    std::vector<float> line(inputs);
    for (const RowRange& range : p.ranges) {
        p.begins.push_back(written);
        for (int row = range.begin; row < range.end; row += most) {
            const int rows = std::min(most, range.end - row), step = (rows + width - 1) / width * width;
            for (int r = 0; r < rows; ++r) {
                reader.next(line.data());
                for (int64_t k = 0; k < inputs; ++k) p.weights[size_t(written + k * step + r)] = line[k];
            }
            written += inputs * step;
        }
    }
    p.d.weights = {};  // the file may go
    Step step;
    step.kernel = std::string("dense columns ") + kernels.name;
    step.items = int(p.panels.size() * p.ranges.size());
    step.run = [packed, width, most, run = kernels.columns.run](int item, float* arena) {
        const Columns& p = *packed;
        const size_t part = item % p.ranges.size();
        const Panel& panel = p.panels[item / p.ranges.size()];
        const RowRange& range = p.ranges[part];
        ColumnsTask task;
        task.x = arena + p.d.x.offset + int64_t(range.group) * (p.d.x.count / p.d.groups) * p.d.x.stride + panel.begin;
        task.y = arena + p.d.y.offset + range.begin * p.d.y.stride + panel.begin;
        task.y_stride = p.d.y.stride;
        task.positions = int(std::min<int64_t>(p.d.y.positions - panel.begin, int64_t(panel.vectors) * width));
        task.outputs = range.end - range.begin;
        task.inputs = int(p.offsets.size());
        task.offsets = p.offsets.data();
        task.weights = p.weights.data() + p.begins[part];
        task.bias = p.bias.data() + range.begin;
        task.sums = reinterpret_cast<float*>(scratch(Scratch::SUMS, int64_t(task.positions) * most));
        task.residual = p.d.has_residual ? arena + p.d.residual.offset + range.begin * p.d.residual.stride + panel.begin : nullptr;
        task.residual_stride = p.d.residual.stride;
        task.act = p.d.act;
        run(task);
        finish_halo(p.halo, arena, range, panel, panel, width);
    };
    return step;
}

}  // namespace mmrt
