#include "nd.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <stdexcept>

namespace mmrt {
namespace {

constexpr int64_t ITEM = 16 * 1024;  // elements of work in an item: some microseconds
constexpr int64_t LINE = 256;        // elements that go through a buffer where strides do not suit the kernels

// Nested loops over some operands: one size and each operand's stride a dim, outermost first.
struct Loops {
    std::vector<int64_t> dims;
    std::vector<std::vector<int64_t>> strides;  // [operand][dim]

    int64_t count() const { return std::accumulate(dims.begin(), dims.end(), int64_t(1), std::multiplies<int64_t>()); }

    int64_t offset(size_t operand, int64_t index) const {
        int64_t out = 0;
        for (size_t i = dims.size(); i-- > 0; index /= dims[i]) out += index % dims[i] * strides[operand][i];
        return out;
    }
};

// The same loops with as few dims as possible: those of one element go, the first operand's strides put them in order, neighbours
// that every operand walks as one are merged.
Loops collapse(const Loops& in) {
    std::vector<size_t> order;
    for (size_t i = 0; i < in.dims.size(); ++i)
        if (in.dims[i] > 1) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) { return in.strides[0][i] > in.strides[0][j]; });
    Loops out;
    out.strides.resize(in.strides.size());
    for (size_t i : order) {
        bool merge = !out.dims.empty();
        for (size_t o = 0; merge && o < in.strides.size(); ++o) merge = out.strides[o].back() == in.strides[o][i] * in.dims[i];
        if (merge) out.dims.back() *= in.dims[i];
        else out.dims.push_back(in.dims[i]);
        for (size_t o = 0; o < in.strides.size(); ++o) {
            if (merge) out.strides[o].back() = in.strides[o][i];
            else out.strides[o].push_back(in.strides[o][i]);
        }
    }
    return out;
}

// Loops cut into lines of the innermost dim, no longer than ITEM; a line is what a kernel is called for.
struct Lines {
    Loops outer;                  // over lines
    int64_t length = 1;           // of a whole line
    std::vector<int64_t> inner;   // each operand's stride in it
    int64_t pieces = 1;           // a long line is cut in so many
    int64_t lines_per_item = 1;

    int items() const { return int((outer.count() * pieces + lines_per_item - 1) / lines_per_item); }

    // f(offsets of the operands, elements) for the lines of an item. Counts like an odometer: lines may be as short as 7 elements,
    // and dividing for each would cost more than they do.
    template <class F>
    void each(int item, F f) const {
        const int64_t begin = item * lines_per_item / pieces, first_piece = item * lines_per_item % pieces;
        int64_t left = std::min(outer.count() * pieces - item * lines_per_item, lines_per_item);
        const int rank = int(outer.dims.size()), operands = int(inner.size());
        int64_t at[8] = {}, offsets[4] = {};
        for (int64_t i = rank, rest = begin; i-- > 0; rest /= outer.dims[i]) at[i] = rest % outer.dims[i];
        for (int o = 0; o < operands; ++o) offsets[o] = outer.offset(o, begin);
        for (int64_t piece = first_piece; left > 0; --left) {
            if (pieces == 1) {
                f(offsets, length);
            } else {
                int64_t shifted[4];
                for (int o = 0; o < operands; ++o) shifted[o] = offsets[o] + piece * ITEM * inner[o];
                f(shifted, std::min(ITEM, length - piece * ITEM));
                if (++piece < pieces) continue;
                piece = 0;
            }
            for (int i = rank; i-- > 0;) {
                for (int o = 0; o < operands; ++o) offsets[o] += outer.strides[o][i];
                if (++at[i] < outer.dims[i]) break;
                for (int o = 0; o < operands; ++o) offsets[o] -= outer.strides[o][i] * outer.dims[i];
                at[i] = 0;
            }
        }
    }
};

Lines cut(Loops loops) {
    Lines out;
    loops = collapse(loops);
    for (auto& strides : loops.strides) {
        out.inner.push_back(strides.empty() ? 1 : strides.back());
        if (!strides.empty()) strides.pop_back();
    }
    if (!loops.dims.empty()) {
        out.length = loops.dims.back();
        loops.dims.pop_back();
    }
    out.outer = loops;
    out.pieces = (out.length + ITEM - 1) / ITEM;
    out.lines_per_item = std::max<int64_t>(1, ITEM / std::min(out.length, ITEM));
    return out;
}

// n elements as contiguous ones: in place where they are, else through the buffer.
const float* gather(const float* x, int64_t stride, int64_t n, float* buffer) {
    if (stride == 1) return x;
    for (int64_t i = 0; i < n; ++i) buffer[i] = x[i * stride];
    return buffer;
}

void scatter(const float* x, float* y, int64_t stride, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i * stride] = x[i];
}

// N to 2 N elements in two moves that may overlap; all is read before anything is written.
template <int N>
void copy_ends(const float* x, float* y, int64_t n) {
    float first[N], last[N];
    std::memcpy(first, x, sizeof first);
    std::memcpy(last, x + n - N, sizeof last);
    std::memcpy(y, first, sizeof first);
    std::memcpy(y + n - N, last, sizeof last);
}

// y[i] = x[2 i] by fours, the last ones from the end: lines are as short as 4 and as common as strided convolutions. Every target has
// vectors of four. Reads x[2 n - 1].
void copy_every_second(const float* x, float* y, int64_t n) {
    typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
    auto four = [&](int64_t i) {
        const Four a = *reinterpret_cast<const Four*>(x + 2 * i), b = *reinterpret_cast<const Four*>(x + 2 * i + 4);
        *reinterpret_cast<Four*>(y + i) = Four{a[0], a[2], b[0], b[2]};
    };
    for (int64_t i = 0; i + 4 <= n; i += 4) four(i);
    if (n % 4) four(n - 4);
}

void copy_line(const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t n) {
    if (x_stride == 1 && y_stride == 1) {
        if (n >= 4 && n <= 8) copy_ends<4>(x, y, n);  // windows of attention are 7 wide
        else if (n > 8 && n <= 16) copy_ends<8>(x, y, n);
        else std::memmove(y, x, size_t(n) * sizeof(float));  // a hostile plan's operands may overlap
    } else if (x_stride == 0 && y_stride == 1) {
        std::fill(y, y + n, *x);
    } else {
        for (int64_t i = 0; i < n; ++i) y[i * y_stride] = x[i * x_stride];
    }
}

Step step_of(const Kernels& kernels) {
    Step step;
    step.kernel = std::string("nd ") + kernels.name;
    return step;
}

// One phase of a strided convolution's input. What is read beyond the last element lies in the arena or the slack behind it.
bool is_every_second(const Lines& lines, const CopyDesc& d) {
    return lines.inner[0] == 1 && lines.inner[1] == 2 && lines.length >= 4 && lines.pieces == 1 && d.src.constant.empty();
}

}  // namespace

Step make_copy(const CopyDesc& d, const Kernels& kernels, int) {
    auto lines = std::make_shared<Lines>(cut({d.dst.dims, {d.dst.strides, d.src.strides}}));
    Step step = step_of(kernels);
    step.items = lines->items();
    step.run = [lines, dst = d.dst, src = d.src, every_second = is_every_second(*lines, d)](int item, float* arena) {
        const float* x = base(src, arena);
        float* y = arena + dst.offset;
        if (every_second) lines->each(item, [&](const int64_t* at, int64_t n) { copy_every_second(x + at[1], y + at[0], n); });
        else lines->each(item, [&](const int64_t* at, int64_t n) { copy_line(x + at[1], lines->inner[1], y + at[0], lines->inner[0], n); });
    };
    return step;
}

Step make_unary(const UnaryDesc& desc, const Kernels& kernels, int) {
    auto d = std::make_shared<UnaryDesc>(desc);
    auto lines = std::make_shared<Lines>(cut({desc.dst.dims, {desc.dst.strides, desc.src.strides}}));
    Step step = step_of(kernels);
    step.items = lines->items();
    step.run = [d, lines, &kernels](int item, float* arena) {
        lines->each(item, [&](const int64_t* at, int64_t n) {
            const float* x = base(d->src, arena) + at[1];
            float* y = arena + d->dst.offset + at[0];
            if (lines->inner[0] == 1 && lines->inner[1] == 1) return kernels.unary(d->act, x, y, n);
            float buffer[LINE];
            for (int64_t i = 0; i < n; i += LINE) {
                const int64_t take = std::min(LINE, n - i);
                kernels.unary(d->act, gather(x + i * lines->inner[1], lines->inner[1], take, buffer), buffer, take);
                scatter(buffer, y + i * lines->inner[0], lines->inner[0], take);
            }
        });
    };
    return step;
}

Step make_binary(const BinaryDesc& desc, const Kernels& kernels, int) {
    auto d = std::make_shared<BinaryDesc>(desc);
    auto lines = std::make_shared<Lines>(cut({desc.dst.dims, {desc.dst.strides, desc.a.strides, desc.b.strides}}));
    Step step = step_of(kernels);
    step.items = lines->items();
    step.run = [d, lines, &kernels](int item, float* arena) {
        const int64_t ys = lines->inner[0], as = lines->inner[1], bs = lines->inner[2];
        lines->each(item, [&](const int64_t* at, int64_t n) {
            float* y = arena + d->dst.offset + at[0];
            const float *a = base(d->a, arena) + at[1], *b = base(d->b, arena) + at[2];
            if (ys == 1 && as <= 1 && bs <= 1) return kernels.binary(int(d->fn), d->act, a, int(as), b, int(bs), y, n);
            float one[LINE], two[LINE];
            for (int64_t i = 0; i < n; i += LINE) {
                const int64_t take = std::min(LINE, n - i);
                const float *p = gather(a + i * as, as, take, one), *q = gather(b + i * bs, bs, take, two);
                kernels.binary(int(d->fn), d->act, p, 1, q, 1, one, take);
                scatter(one, y + i * ys, ys, take);
            }
        });
    };
    return step;
}

namespace {

struct Reduce {
    ReduceDesc d;
    Loops kept, reduced;  // kept: dst, src; reduced: src
    int64_t columns = 1;  // of the kept dims' innermost that go at once, in the vertical case
    bool vertical = false;
};

double start(Reduction kind) {
    switch (kind) {
        case Reduction::max: return -std::numeric_limits<double>::infinity();
        case Reduction::min: return std::numeric_limits<double>::infinity();
        case Reduction::sum:
        case Reduction::l2: return 0;
    }
    throw std::logic_error("no such reduction");
}

double combine(Reduction kind, double a, double b) {  // NaN stays
    switch (kind) {
        case Reduction::max: return b > a || b != b ? b : a;
        case Reduction::min: return b < a || b != b ? b : a;
        case Reduction::sum:
        case Reduction::l2: return a + b;
    }
    throw std::logic_error("no such reduction");
}

double finish(const ReduceDesc& d, double folded) {
    switch (d.kind) {
        case Reduction::sum: return folded * double(d.scale);
        case Reduction::l2: return std::sqrt(folded);
        case Reduction::max:
        case Reduction::min: return folded;
    }
    throw std::logic_error("no such reduction");
}

float reduce_one(const Reduce& r, const float* x, const Kernels& kernels) {
    const bool contiguous = !r.reduced.dims.empty() && r.reduced.strides[0].back() == 1;
    const int64_t n = contiguous ? r.reduced.dims.back() : 1, rows = r.reduced.count() / n;
    double out = start(r.d.kind);
    for (int64_t i = 0; i < rows; ++i) out = combine(r.d.kind, out, kernels.reduce_row(int(r.d.kind), x + r.reduced.offset(0, i * n), n));
    return float(finish(r.d, out));
}

}  // namespace

Step make_reduce(const ReduceDesc& desc, const Kernels& kernels, int) {
    auto r = std::make_shared<Reduce>();
    r->d = desc;
    const size_t n = desc.dst.dims.size();
    r->kept = collapse({desc.dst.dims, {desc.dst.strides, {desc.src.strides.begin(), desc.src.strides.begin() + n}}});
    r->reduced = collapse({{desc.src.dims.begin() + n, desc.src.dims.end()}, {{desc.src.strides.begin() + n, desc.src.strides.end()}}});
    r->vertical = r->reduced.dims.size() == 1 && !r->kept.dims.empty() && r->kept.strides[0].back() == 1 && r->kept.strides[1].back() == 1;
    if (r->vertical) {
        r->columns = r->kept.dims.back();
        r->kept.dims.pop_back();
        for (auto& strides : r->kept.strides) strides.pop_back();
    }
    Step step = step_of(kernels);
    const int64_t total = r->kept.count();
    step.items = int(std::min<int64_t>(total, std::max<int64_t>(1, total * r->columns * r->reduced.count() / ITEM)));
    step.run = [r, total, items = step.items, &kernels](int item, float* arena) {
        for (int64_t i = total * item / items; i < total * (item + 1) / items; ++i) {
            const float* x = base(r->d.src, arena) + r->kept.offset(1, i);
            float* y = arena + r->d.dst.offset + r->kept.offset(0, i);
            if (r->vertical) kernels.reduce(int(r->d.kind), x, r->reduced.strides[0][0], r->reduced.dims[0], y, r->columns, r->d.scale);
            else *y = reduce_one(*r, x, kernels);
        }
    };
    return step;
}

namespace {

// Softmax and normalization go over the last dim of two views: columns where that dim is an outer one in memory, else rows.
struct Axis {
    View dst, src;
    Loops others;              // dst, src
    int64_t length = 1, dst_stride = 1, src_stride = 1;
    int64_t columns = 1, columns_per_item = 1;  // columns = 1: by rows
    int64_t pieces = 1;
    bool by_columns = false;
};

Axis make_axis(const View& dst, const View& src) {
    Axis out;
    out.dst = dst;
    out.src = src;
    out.length = dst.dims.back();
    out.dst_stride = dst.strides.back();
    out.src_stride = src.strides.back();
    auto most = [](const std::vector<int64_t>& all) { return std::vector<int64_t>(all.begin(), all.end() - 1); };
    out.others = collapse({most(dst.dims), {most(dst.strides), most(src.strides)}});
    const bool rows = out.dst_stride == 1 && out.src_stride == 1;
    if (!rows && !out.others.dims.empty() && out.others.strides[0].back() == 1 && out.others.strides[1].back() == 1) {
        out.by_columns = true;
        out.columns = out.others.dims.back();
        out.others.dims.pop_back();
        for (auto& strides : out.others.strides) strides.pop_back();
        out.columns_per_item = std::max<int64_t>(64, ITEM / out.length / 64 * 64);  // whole vectors of every ISA
        out.pieces = (out.columns + out.columns_per_item - 1) / out.columns_per_item;
    }
    return out;
}

template <class Columns, class Row>
Step axis_step(const View& dst, const View& src, const Kernels& kernels, Columns columns, Row row) {
    auto axis = std::make_shared<Axis>(make_axis(dst, src));
    Step step = step_of(kernels);
    const int64_t total = axis->others.count() * axis->pieces;
    const int64_t per_item = std::max<int64_t>(1, ITEM / (axis->length * std::min(axis->columns, axis->columns_per_item)));
    step.items = int((total + per_item - 1) / per_item);
    step.run = [axis, total, per_item, columns, row](int item, float* arena) {
        std::vector<float> line;
        for (int64_t i = item * per_item; i < std::min(total, (item + 1) * per_item); ++i) {
            const float* x = base(axis->src, arena) + axis->others.offset(1, i / axis->pieces);
            float* y = arena + axis->dst.offset + axis->others.offset(0, i / axis->pieces);
            if (axis->by_columns) {
                const int64_t begin = i % axis->pieces * axis->columns_per_item;
                columns(x + begin, axis->src_stride, y + begin, axis->dst_stride, axis->length, std::min(axis->columns_per_item, axis->columns - begin));
            } else if (axis->src_stride == 1 && axis->dst_stride == 1) {
                row(x, y, axis->length);
            } else {
                line.resize(size_t(2 * axis->length));
                const float* in = gather(x, axis->src_stride, axis->length, line.data());
                row(in, line.data() + axis->length, axis->length);
                scatter(line.data() + axis->length, y, axis->dst_stride, axis->length);
            }
        }
    };
    return step;
}

}  // namespace

Step make_softmax(const SoftmaxDesc& d, const Kernels& kernels, int) { return axis_step(d.dst, d.src, kernels, kernels.softmax, kernels.softmax_row); }

Step make_norm(const NormDesc& d, const Kernels& kernels, int) {
    return axis_step(
        d.dst, d.src, kernels,
        [eps = d.eps, gain = d.gain, bias = d.bias, &kernels](const float* x, int64_t x_row, float* y, int64_t y_row, int64_t length, int64_t n) {
            kernels.norm(x, x_row, y, y_row, length, n, eps, gain.data(), bias.data());
        },
        [eps = d.eps, gain = d.gain, bias = d.bias, &kernels](const float* x, float* y, int64_t n) {
            kernels.norm_row(x, y, n, eps, gain.data(), bias.data());
        });
}

namespace {

std::vector<int64_t> dense_strides(const std::vector<int64_t>& dims) {
    std::vector<int64_t> out(dims.size(), 1);
    for (size_t i = dims.size(); i-- > 1;) out[i - 1] = out[i] * dims[i];
    return out;
}

}  // namespace

void read_view(const View& view, const float* arena, float* out) {
    const Lines lines = cut({view.dims, {dense_strides(view.dims), view.strides}});
    for (int item = 0; item < lines.items(); ++item)
        lines.each(item, [&](const int64_t* at, int64_t n) { copy_line(base(view, arena) + at[1], lines.inner[1], out + at[0], lines.inner[0], n); });
}

void write_view(const View& view, float* arena, const float* in) {
    const Lines lines = cut({view.dims, {view.strides, dense_strides(view.dims)}});
    for (int item = 0; item < lines.items(); ++item)
        lines.each(item, [&](const int64_t* at, int64_t n) { copy_line(in + at[1], lines.inner[1], arena + view.offset + at[0], lines.inner[0], n); });
}

}  // namespace mmrt
