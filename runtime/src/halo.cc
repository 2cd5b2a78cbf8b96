#include "halo.h"

#include <algorithm>
#include <utility>

namespace mmrt {
namespace {

constexpr int64_t ITEM_LINES = 2048;

int64_t positions(const HaloDesc& d) { return (d.image.dims[1] - 1) * d.image.strides[1] + d.image.dims[2]; }

}  // namespace

bool commute(const HaloDesc& a, const HaloDesc& b) { return a.value == b.value && a.image.dims[0] == b.image.dims[0]; }

bool is_halo_of(const HaloDesc& d, const Rows& y) {
    return y.positions > 1 && d.image.offset == y.offset && d.image.dims[0] == y.count && (y.count == 1 || d.image.strides[0] == y.stride) &&
           positions(d) == y.positions;
}

void fill_halo(const HaloDesc& d, float* arena, int row, int end, int64_t begin, int64_t end_position) {
    const int64_t pitch = d.image.strides[1], width = d.image.dims[2], last = positions(d);
    const int64_t channels = d.image.dims[0], stride = d.image.strides[0], before = d.before, after = d.after;  // stores cannot change these
    const float value = d.value;
    for (int c = row; c < end; ++c) {
        float* plane = arena + d.image.offset + c * stride;
        for (int64_t gap = begin / pitch * pitch + width; gap < std::min(end_position, last); gap += pitch) {
            const int64_t from = std::max(gap, begin), to = std::min(gap + pitch - width, end_position);
            if (from < to) std::fill(plane + from, plane + to, value);
        }
        if (end_position < last) continue;
        std::fill(plane + last, plane + last + after, value);
        if (c == 0) std::fill(plane - before, plane, value);
        if (float* next = plane + stride; c + 1 < channels) std::fill(next - before, next, value);
    }
}

Step make_halo(const HaloDesc& d, const Kernels&, int) { return make_halos({d}); }

Step make_halos(std::vector<HaloDesc> halos) {
    int64_t lines = 0;
    for (const HaloDesc& halo : halos) lines += halo.image.dims[1];
    const int planes = int(halos.front().image.dims[0]), per_item = int(std::max<int64_t>(1, ITEM_LINES / lines));
    Step step;
    step.kernel = "fill";
    step.items = (planes + per_item - 1) / per_item;
    step.run = [halos = std::move(halos), planes, per_item](int item, float* arena) {
        const int begin = item * per_item, end = std::min(planes, begin + per_item);
        for (const HaloDesc& halo : halos) fill_halo(halo, arena, begin, end, 0, positions(halo));
    };
    return step;
}

}  // namespace mmrt
