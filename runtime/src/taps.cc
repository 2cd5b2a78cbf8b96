// DEPTHWISE and POOL: an item is a few channels.
#include <algorithm>
#include <memory>
#include <stdexcept>

#include "kernels.h"

namespace mmrt {
namespace {

constexpr int64_t ITEM_ELEMENTS = 32 * 1024;  // of output: large enough to be worth a thread's while

int channels_per_item(const Rows& y) { return int(std::max<int64_t>(1, ITEM_ELEMENTS / std::max(1, y.positions))); }

int items(const Rows& y) { return (y.count + channels_per_item(y) - 1) / channels_per_item(y); }

bool takes_maximum(Pooling kind) {
    switch (kind) {
        case Pooling::max: return true;
        case Pooling::sum: return false;
    }
    throw std::logic_error("no such pool");
}

// Kernels write whole vectors; a single position is written alone, since with a stride of 1 its neighbour is another channel.
void run_row(const Kernels& kernels, const TapsTask& task) {
    if (task.positions > 1) return kernels.taps(task);
    float result = task.maximum ? task.x[task.taps[0]] : task.start;
    for (int t = 0; t < task.n_taps; ++t) {
        const float x = task.x[task.taps[t]];
        if (task.maximum) result = x > result || x != x ? x : result;  // NaN stays
        else result += task.weights ? task.weights[t] * x : task.scale * x;
    }
    if (task.residual) result += *task.residual;
    *task.y = result;
    if (task.act.code) kernels.unary(task.act, task.y, task.y, 1);
}

}  // namespace

Step make_depthwise(const DepthwiseDesc& desc, const Kernels& kernels, int) {
    auto shared = std::make_shared<DepthwiseDesc>(desc);
    Step step;
    step.kernel = std::string("taps ") + kernels.name;
    step.macs = step.needed_macs = step.done_macs = double(desc.y.count) * desc.y.positions * double(desc.taps.size());
    step.items = items(desc.y);
    step.run = [shared, &kernels](int item, float* arena) {
        const DepthwiseDesc& d = *shared;
        const int begin = item * channels_per_item(d.y), end = std::min(d.y.count, begin + channels_per_item(d.y));
        for (int c = begin; c < end; ++c) {
            TapsTask task{};
            task.x = arena + d.x.offset + c * d.x.stride;
            task.y = arena + d.y.offset + c * d.y.stride;
            task.positions = d.y.positions;
            task.taps = d.taps.data();
            task.n_taps = int(d.taps.size());
            task.weights = d.weights.data() + c * d.taps.size();
            task.start = d.bias.empty() ? 0.f : d.bias[c];
            task.residual = d.has_residual ? arena + d.residual.offset + c * d.residual.stride : nullptr;
            task.act = d.act;
            run_row(kernels, task);
        }
    };
    return step;
}

Step make_pool(const PoolDesc& desc, const Kernels& kernels, int) {
    auto d = std::make_shared<PoolDesc>(desc);
    Step step;
    step.kernel = std::string("taps ") + kernels.name;
    step.items = items(desc.y);
    step.run = [d, maximum = takes_maximum(desc.kind), &kernels](int item, float* arena) {
        const int begin = item * channels_per_item(d->y), end = std::min(d->y.count, begin + channels_per_item(d->y));
        for (int c = begin; c < end; ++c) {
            TapsTask task{};
            task.x = arena + d->x.offset + c * d->x.stride;
            task.y = arena + d->y.offset + c * d->y.stride;
            task.positions = d->y.positions;
            task.taps = d->taps.data();
            task.n_taps = int(d->taps.size());
            task.maximum = maximum;
            task.scale = d->scale;
            run_row(kernels, task);
        }
    };
    return step;
}

}  // namespace mmrt
