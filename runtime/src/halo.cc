#include "halo.h"

#include <algorithm>
#include <memory>

namespace mmrt {
namespace {

constexpr int64_t ITEM_LINES = 2048;

int64_t positions(const HaloDesc& d) { return (d.image.dims[1] - 1) * d.image.strides[1] + d.image.dims[2]; }

}  // namespace

bool commute(const HaloDesc& a, const HaloDesc& b) { return a.value == b.value; }

bool is_halo_of(const HaloDesc& d, const Rows& y) {
    return y.positions > 1 && d.image.offset == y.offset && d.image.dims[0] == y.count && (y.count == 1 || d.image.strides[0] == y.stride) && positions(d) == y.positions;
}

void fill_halo(const HaloDesc& d, float* arena, int row, int end, int64_t begin, int64_t end_position) {
    const int64_t pitch = d.image.strides[1], width = d.image.dims[2], last = positions(d);
    for (int c = row; c < end; ++c) {
        float* plane = arena + d.image.offset + c * d.image.strides[0];
        for (int64_t gap = begin / pitch * pitch + width; gap < std::min(end_position, last); gap += pitch) {
            const int64_t from = std::max(gap, begin), to = std::min(gap + pitch - width, end_position);
            if (from < to) std::fill(plane + from, plane + to, d.value);
        }
        if (end_position < last) continue;
        std::fill(plane + last, plane + last + d.after, d.value);
        if (c == 0) std::fill(plane - d.before, plane, d.value);
        if (float* next = plane + d.image.strides[0]; c + 1 < d.image.dims[0]) std::fill(next - d.before, next, d.value);
    }
}

Step make_halos(std::vector<HaloDesc> halos) {
    struct Part {
        HaloDesc halo;
        int first_item, per_item;
    };
    auto parts = std::make_shared<std::vector<Part>>();
    int items = 0;
    for (HaloDesc& halo : halos) {
        const int per_item = int(std::max<int64_t>(1, ITEM_LINES / halo.image.dims[1]));
        const int planes = int(halo.image.dims[0]);
        parts->push_back({std::move(halo), items, per_item});
        items += (planes + per_item - 1) / per_item;
    }
    Step step;
    step.op = "HALO";
    step.kernel = "fill";
    step.items = items;
    step.run = [parts](int item, float* arena) {
        const Part& part = *std::find_if(parts->rbegin(), parts->rend(), [&](const Part& p) { return p.first_item <= item; });
        const int begin = (item - part.first_item) * part.per_item;
        const int end = int(std::min<int64_t>(part.halo.image.dims[0], begin + part.per_item));
        fill_halo(part.halo, arena, begin, end, 0, positions(part.halo));
    };
    return step;
}

}  // namespace mmrt
