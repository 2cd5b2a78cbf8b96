#include "plan.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "sha256.h"
#include "weights.h"

namespace mmrt {
namespace {

constexpr char MAGIC[8] = {'M', 'M', 'R', 'T', '\r', '\n', '\x1a', '\n'};
constexpr uint32_t VERSION = 1;
constexpr size_t HEADER = 64, ROW = 64;
constexpr int64_t OVER = 16;                // elements that a kernel may read or write past the end of a row
constexpr int64_t MOST = int64_t(1) << 40;  // no product of counts may come near overflow
constexpr int MOST_RANK = 8;

struct Span {
    const uint8_t* data = nullptr;
    size_t size = 0;
};

[[noreturn]] void refuse(const std::string& what) { throw FormatError("not a usable .mmrt file: " + what); }

template <class T>
T read(const uint8_t* at) {
    T out;
    std::memcpy(&out, at, sizeof out);
    return out;
}

void check_sha(Span what, const uint8_t* expected, const std::string& name) {
    if (std::memcmp(sha256(what.data, what.size).data(), expected, 32) != 0)
        refuse("the sha256 of " + name + " is not the recorded one: it was damaged, copy it again");
}

Span section(const uint8_t* file, size_t size, const char* name) {
    const uint32_t count = read<uint32_t>(file + 12);
    for (uint32_t i = 0; i < count; ++i) {
        const uint8_t* row = file + HEADER + i * ROW;
        if (std::memcmp(row, name, 4) != 0) continue;
        const uint64_t offset = read<uint64_t>(row + 8), bytes = read<uint64_t>(row + 16);
        if (offset % 64 || offset > size || bytes > size - offset) refuse(std::string("section ") + name + " lies outside the file");
        const Span found{file + offset, size_t(bytes)};
        check_sha(found, row + 24, std::string("section ") + name);
        return found;
    }
    refuse(std::string("there is no section ") + name);
}

void check_header(const uint8_t* file, size_t size) {
    if (size < HEADER || std::memcmp(file, MAGIC, sizeof MAGIC) != 0) refuse("it does not begin with the magic of one");
    const uint32_t version = read<uint32_t>(file + 8), count = read<uint32_t>(file + 12);
    if (version != VERSION) refuse("its version is " + std::to_string(version) + ", this library reads " + std::to_string(VERSION));
    if (read<uint64_t>(file + 16) != size)
        refuse("it has " + std::to_string(size) + " bytes and says " + std::to_string(read<uint64_t>(file + 16)) + ": it was cut short, copy it again");
    if (count > 64 || HEADER + count * ROW > size) refuse("its section table is longer than the file");
    check_sha({file + HEADER, count * ROW}, file + 24, "the section table");
}

// Of counts above 0: anything above MOST stands for more than is allowed.
int64_t product(int64_t a, int64_t b) { return a > MOST / b ? MOST + 1 : a * b; }

// Takes words off the plan, one operation's at a time.
class Words {
  public:
    Words(Span plan, Span data) : at_(plan.data), end_(plan.data + plan.size / 4 * 4), data_(data) {}

    int32_t word() {
        if (at_ == end_) refuse(where() + "the plan ends too early");
        const int32_t out = read<int32_t>(at_);
        at_ += 4;
        return out;
    }

    float real() {
        const int32_t bits = word();
        float out;
        std::memcpy(&out, &bits, sizeof out);
        return out;
    }

    // A count or size in [low, high].
    int64_t number(const char* what, int64_t low, int64_t high) {
        const int64_t out = word();
        if (out < low || out > high)
            refuse(where() + what + " is " + std::to_string(out) + ", outside " + std::to_string(low) + " to " + std::to_string(high));
        return out;
    }

    std::string string() {
        const int64_t bytes = number("a name's length", 0, 4096), words = (bytes + 3) / 4;
        if (words * 4 > end_ - at_) refuse(where() + "a name runs past the plan");
        std::string out(reinterpret_cast<const char*>(at_), size_t(bytes));
        at_ += words * 4;
        return out;
    }

    int64_t left() const { return (end_ - at_) / 4; }

    // A blob of `bytes`, or null for -1 where that is allowed.
    const uint8_t* blob(const char* what, int64_t bytes, bool optional = false) {
        const int32_t unit = word();
        if (unit == -1 && optional) return nullptr;
        return blob_at(unit, what, bytes);
    }

    const uint8_t* blob_at(int64_t unit, const char* what, int64_t bytes) {
        if (unit < 0 || bytes < 0 || unit * 64 > int64_t(data_.size) || bytes > int64_t(data_.size) - unit * 64) refuse(where() + what + " lies outside DATA");
        return data_.data + unit * 64;
    }

    View view(const char* what, int64_t arena) {
        View out;
        const int64_t space = number("a view's space", 0, 1);
        if (word() != 0) refuse(where() + what + " is not float32, the only type of version 1");
        out.offset = number("a view's offset", 0, std::numeric_limits<int32_t>::max());
        const int64_t rank = number("a view's rank", 0, MOST_RANK);
        int64_t last = 0, elements = 1;
        for (int64_t i = 0; i < rank; ++i) {
            out.dims.push_back(number("a dim", 1, std::numeric_limits<int32_t>::max()));
            elements = product(elements, out.dims.back());
            if (elements > MOST) refuse(where() + what + " has too many elements");
        }
        for (int64_t i = 0; i < rank; ++i) {
            out.strides.push_back(number("a stride", 0, std::numeric_limits<int32_t>::max()));
            last += (out.dims[i] - 1) * out.strides[i];
            if (last > MOST) refuse(where() + what + " is too large");
        }
        if (space == 1) {
            const int64_t begin = out.offset * 64, bytes = (last + 1) * 4;
            if (begin > int64_t(data_.size) || bytes > int64_t(data_.size) - begin) refuse(where() + what + " lies outside DATA");
            out.constant = reinterpret_cast<const float*>(data_.data + begin);
        } else if (out.offset + last >= arena) {
            refuse(where() + what + " ends at element " + std::to_string(out.offset + last) + " of an arena of " + std::to_string(arena));
        }
        return out;
    }

    // A view for results: each axis steps over all that the axes of smaller strides reach, so no two indices share an element and
    // threads may write in any order.
    View writable(const char* what, int64_t arena) {
        View out = view(what, arena);
        if (out.constant) refuse(where() + what + " would write into DATA");
        std::vector<std::pair<int64_t, int64_t>> axes;  // stride, dim
        for (size_t i = 0; i < out.dims.size(); ++i)
            if (out.dims[i] > 1) axes.emplace_back(out.strides[i], out.dims[i]);
        std::sort(axes.begin(), axes.end());
        int64_t reach = 0;
        for (const auto& [stride, dim] : axes) {
            if (stride <= reach) refuse(where() + what + " would write one element many times");
            reach += (dim - 1) * stride;
        }
        return out;
    }

    Act act() {
        Act out;
        out.code = int(number("an activation", 0, 21));
        out.a = real();
        out.b = real();
        return out;
    }

    std::string where() const { return name_.empty() ? "" : "operation " + name_ + ": "; }
    void enter(const std::string& name) { name_ = name; }
    const uint8_t* position() const { return at_; }

  private:
    const uint8_t *at_, *end_;
    Span data_;
    std::string name_;
};

Rows as_rows(const View& view, const Words& words, const char* what) {
    if (view.constant || view.dims.size() != 2 || (view.strides[1] != 1 && view.dims[1] != 1)) refuse(words.where() + what + " is not rows of the arena");
    return {view.offset, view.strides[0], int(view.dims[0]), int(view.dims[1])};
}

// Rows whose kernels write up to the next multiple of 16 positions.
Rows output_rows(Words& words, int64_t arena) {
    const Rows y = as_rows(words.writable("y", arena), words, "y");
    const int64_t written = y.positions == 1 && y.stride == 1 ? 1 : (y.positions + OVER - 1) / OVER * OVER;
    if (y.count > 1 && y.stride < written) refuse(words.where() + "the rows of y overlap");
    if (y.offset + (y.count - 1) * y.stride + written > arena + SLACK) refuse(words.where() + "y's last row runs past the arena");
    return y;
}

std::vector<int32_t> read_taps(Words& words, const Rows& x, int64_t positions, int64_t arena) {
    std::vector<int32_t> taps(size_t(words.number("the number of taps", 1, std::min<int64_t>(words.left() - 1, 1 << 16))));
    for (int32_t& tap : taps) {
        tap = words.word();
        if (x.offset + tap < 0 || x.offset + (x.count - 1) * x.stride + tap + (positions + OVER - 1) / OVER * OVER > arena + SLACK)
            refuse(words.where() + "a tap of " + std::to_string(tap) + " leaves the arena");
    }
    return taps;
}

void read_residual(Words& words, int64_t arena, const Rows& y, bool* has, Rows* residual) {
    *has = words.number("has_residual", 0, 1) == 1;
    if (!*has) return;
    *residual = as_rows(words.view("residual", arena), words, "residual");
    if (residual->count != y.count || residual->positions != y.positions) refuse(words.where() + "residual has another shape than y");
    if (y.positions == 1 && y.stride == 1 && y.count > 1 && residual->stride != 1)
        refuse(words.where() + "residual is not a column as y is: its stride is " + std::to_string(residual->stride));
    if (residual->offset + (y.count - 1) * residual->stride + (y.positions + OVER - 1) / OVER * OVER > arena + SLACK)
        refuse(words.where() + "residual's last row runs past the arena");
}

void same_dims(const Words& words, const View& a, const View& b, const char* what) {
    if (a.dims != b.dims) refuse(words.where() + what + " have different dims");
}

int64_t ones(const uint8_t* bits, int64_t count) {
    int64_t out = 0;
    for (int64_t i = 0; i < count / 8; ++i) out += __builtin_popcount(bits[i]);
    if (count % 8) out += __builtin_popcount(bits[count / 8] & ((1 << count % 8) - 1));
    return out;
}

Weights read_weights(Words& words, int64_t elements) {
    Weights out;
    out.encoding = int(words.number("the weights' encoding", 0, 1));
    out.dtype = int(words.number("the weights' type", 0, 1));
    const int32_t unit = words.word();
    out.values = words.number("the number of values", 0, std::numeric_limits<int32_t>::max());
    const int64_t mask = out.encoding == 1 ? bitmask_bytes(elements) : 0;
    out.data = words.blob_at(unit, "weights", mask + out.values * (out.dtype == 1 ? 2 : 4));
    const int64_t expected = out.encoding == 1 ? ones(out.data, elements) : elements;
    if (out.values != expected)
        refuse(words.where() + "the weights have " + std::to_string(out.values) + " values and need " + std::to_string(expected));
    return out;
}

LinearDesc read_linear(Words& words, int64_t arena) {
    LinearDesc d;
    d.x = as_rows(words.view("x", arena), words, "x");
    d.taps = read_taps(words, d.x, d.x.positions, arena);
    d.groups = int(words.number("groups", 1, d.x.count));
    d.y = output_rows(words, arena);
    if (d.x.count % d.groups || d.y.count % d.groups) refuse(words.where() + "its channels do not fall into its groups");
    if (d.x.positions != d.y.positions) refuse(words.where() + "x and y have different numbers of positions");
    const int64_t elements = product(product(d.y.count, d.x.count / d.groups), int64_t(d.taps.size()));
    if (elements > MOST) refuse(words.where() + "too many weights");
    d.weights = read_weights(words, elements);
    d.bias = reinterpret_cast<const float*>(words.blob("bias", int64_t(d.y.count) * 4, true));
    read_residual(words, arena, d.y, &d.has_residual, &d.residual);
    d.act = words.act();
    d.kernel = int(words.number("kernel", 0, 2));
    return d;
}

DepthwiseDesc read_depthwise(Words& words, int64_t arena) {
    DepthwiseDesc d;
    d.x = as_rows(words.view("x", arena), words, "x");
    d.taps = read_taps(words, d.x, d.x.positions, arena);
    d.y = output_rows(words, arena);
    if (d.x.count != d.y.count || d.x.positions != d.y.positions) refuse(words.where() + "x and y have different shapes");
    d.weights = reinterpret_cast<const float*>(words.blob("weights", int64_t(d.y.count) * int64_t(d.taps.size()) * 4));
    d.bias = reinterpret_cast<const float*>(words.blob("bias", int64_t(d.y.count) * 4, true));
    read_residual(words, arena, d.y, &d.has_residual, &d.residual);
    d.act = words.act();
    return d;
}

PoolDesc read_pool(Words& words, int64_t arena) {
    PoolDesc d;
    d.kind = int(words.number("kind", 0, 1));
    d.x = as_rows(words.view("x", arena), words, "x");
    d.taps = read_taps(words, d.x, d.x.positions, arena);
    d.y = output_rows(words, arena);
    if (d.x.count != d.y.count || d.x.positions != d.y.positions) refuse(words.where() + "x and y have different shapes");
    d.scale = words.real();
    return d;
}

HaloDesc read_halo(Words& words, int64_t arena, uint32_t flipped = 0) {
    HaloDesc d;
    d.image = words.writable("image", arena);
    if (d.image.dims.size() != 3 || d.image.strides[2] != 1 || d.image.strides[1] < d.image.dims[2]) refuse(words.where() + "image is not planes");
    d.before = words.number("before", 0, arena);
    d.after = words.number("after", 0, arena);
    const uint32_t bits = uint32_t(words.word()) ^ flipped;
    std::memcpy(&d.value, &bits, sizeof bits);
    const int64_t end = d.image.offset + (d.image.dims[0] - 1) * d.image.strides[0] + (d.image.dims[1] - 1) * d.image.strides[1] + d.image.dims[2];
    if (d.before > d.image.offset || end + d.after > arena) refuse(words.where() + "the halo leaves the arena");
    return d;
}

CopyDesc read_copy(Words& words, int64_t arena) {
    CopyDesc d;
    d.dst = words.writable("dst", arena);
    d.src = words.view("src", arena);
    same_dims(words, d.dst, d.src, "dst and src");
    return d;
}

UnaryDesc read_unary(Words& words, int64_t arena) {
    UnaryDesc d;
    d.dst = words.writable("dst", arena);
    d.src = words.view("src", arena);
    same_dims(words, d.dst, d.src, "dst and src");
    d.act = words.act();
    return d;
}

BinaryDesc read_binary(Words& words, int64_t arena) {
    BinaryDesc d;
    d.fn = int(words.number("fn", 0, 6));
    d.dst = words.writable("dst", arena);
    d.a = words.view("a", arena);
    d.b = words.view("b", arena);
    same_dims(words, d.dst, d.a, "dst and a");
    same_dims(words, d.dst, d.b, "dst and b");
    d.act = words.act();
    return d;
}

ReduceDesc read_reduce(Words& words, int64_t arena) {
    ReduceDesc d;
    d.kind = int(words.number("kind", 0, 3));
    d.axes = int(words.number("n_axes", 1, MOST_RANK));
    d.dst = words.writable("dst", arena);
    d.src = words.view("src", arena);
    d.scale = words.real();
    const size_t kept = d.dst.dims.size();
    if (d.src.dims.size() != kept + size_t(d.axes) || !std::equal(d.dst.dims.begin(), d.dst.dims.end(), d.src.dims.begin()))
        refuse(words.where() + "dst does not have the dims that remain of src");
    return d;
}

SoftmaxDesc read_softmax(Words& words, int64_t arena) {
    SoftmaxDesc d;
    d.dst = words.writable("dst", arena);
    d.src = words.view("src", arena);
    same_dims(words, d.dst, d.src, "dst and src");
    if (d.dst.dims.empty()) refuse(words.where() + "there is no last dim");
    return d;
}

const float* read_vector(Words& words, int64_t arena, const char* what, int64_t length) {
    const View view = words.view(what, arena);
    if (view.dims.empty()) return nullptr;
    if (!view.constant || view.dims.size() != 1 || view.dims[0] != length || view.strides[0] != 1)
        refuse(words.where() + what + " is not a vector of " + std::to_string(length) + " in DATA");
    return view.constant;
}

NormDesc read_norm(Words& words, int64_t arena) {
    NormDesc d;
    d.dst = words.writable("dst", arena);
    d.src = words.view("src", arena);
    same_dims(words, d.dst, d.src, "dst and src");
    if (d.dst.dims.empty()) refuse(words.where() + "there is no last dim");
    d.eps = words.real();
    d.gain = read_vector(words, arena, "gain", d.dst.dims.back());
    d.bias = read_vector(words, arena, "bias", d.dst.dims.back());
    return d;
}

MatmulDesc read_matrices(Words& words, int64_t arena) {
    MatmulDesc d;
    d.c = words.writable("c", arena);
    d.a = words.view("a", arena);
    d.b = words.view("b", arena);
    const size_t rank = d.c.dims.size();
    if (rank < 2 || d.a.dims.size() != rank || d.b.dims.size() != rank) refuse(words.where() + "its views have different ranks");
    for (size_t i = 0; i + 2 < rank; ++i)
        if (d.a.dims[i] != d.c.dims[i] || d.b.dims[i] != d.c.dims[i]) refuse(words.where() + "its batches differ");
    const int64_t m = d.c.dims[rank - 2], n = d.c.dims[rank - 1], k = d.a.dims[rank - 1];
    if (d.a.dims[rank - 2] != m || d.b.dims[rank - 2] != k || d.b.dims[rank - 1] != n) refuse(words.where() + "its matrices do not fit");
    if ((n > 1 && (d.c.strides[rank - 1] != 1 || d.b.strides[rank - 1] != 1))) refuse(words.where() + "the last stride of b and c is not 1");
    if (d.b.constant) refuse(words.where() + "b lies in DATA, where kernels must not read past its end");
    int64_t batch = 1;
    for (size_t i = 0; i + 2 < rank; ++i) batch *= d.c.dims[i];
    if (batch > std::numeric_limits<int>::max()) refuse(words.where() + "its batch is too large");
    return d;
}

MatmulDesc read_matmul(Words& words, int64_t arena) {
    MatmulDesc d = read_matrices(words, arena);
    d.scale = words.real();
    return d;
}

// Clamped before it is rounded, so the bounds are bytes around the zero point.
Rounding read_rounding(Words& words) {
    Rounding out;
    out.zero = float(words.number("a zero point", 0, 255));
    out.low = float(words.number("the lowest value", 0, 255));
    out.high = float(words.number("the highest value", int64_t(out.low), 255));
    return out;
}

Sum read_sum(Words& words) {
    Sum sum;
    sum.a_ratio = words.real();
    sum.b_ratio = words.real();
    sum.offset = words.real();
    sum.low = float(words.number("the lowest value", 0, 255));
    sum.high = float(words.number("the highest value", int64_t(sum.low), 255));
    return sum;
}

void check_weights(const Words& words, const int8_t* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
        if (values[i] > MOST_WEIGHT || values[i] < -MOST_WEIGHT) refuse(words.where() + "a weight is beyond 64");
}

// What outputs are multiplied by, and their biases: two vectors of 4 * rows.
void read_outputs(Words& words, int rows, const float** multiplier, const int32_t** bias) {
    *multiplier = reinterpret_cast<const float*>(words.blob("multiplier", int64_t(rows) * 16));
    *bias = reinterpret_cast<const int32_t*>(words.blob("bias", int64_t(rows) * 16));
}

// No sum leaves int32: kernels read inputs within [-128, 255], some of them with what that changes in the bias. `sizes`: of each output, the
// sum of its weights' absolute values.
void check_sums(const Words& words, const int32_t* bias, const std::vector<int64_t>& sizes) {
    for (size_t i = 0; i < sizes.size(); ++i)
        if (std::abs(int64_t(bias[i])) + 256 * sizes[i] > INT32_MAX) refuse(words.where() + "a sum may leave 32 bits");
}

QLinearDesc read_qlinear(Words& words, int64_t arena) {
    QLinearDesc d;
    d.x = as_rows(words.view("x", arena), words, "x");
    d.taps = read_taps(words, d.x, d.x.positions, arena);
    d.groups = int(words.number("groups", 1, d.x.count));
    d.y = output_rows(words, arena);
    if (d.x.count % d.groups || d.y.count % d.groups) refuse(words.where() + "its words do not fall into its groups");
    if (d.x.positions != d.y.positions) refuse(words.where() + "x and y have different numbers of positions");
    const int64_t per_row = product(d.x.count / d.groups, int64_t(d.taps.size())), elements = product(4 * int64_t(d.y.count), per_row);
    if (elements > MOST) refuse(words.where() + "too many weights");
    const int32_t unit = words.word();
    d.blocks = words.number("the number of blocks", 0, std::numeric_limits<int32_t>::max());
    d.mask = words.blob_at(unit, "weights", bitmask_bytes(elements) + 4 * d.blocks);
    d.values = reinterpret_cast<const int8_t*>(d.mask + bitmask_bytes(elements));
    if (const int64_t expected = ones(d.mask, elements); d.blocks != expected)
        refuse(words.where() + "the weights have " + std::to_string(d.blocks) + " blocks and need " + std::to_string(expected));
    check_weights(words, d.values, 4 * d.blocks);
    read_outputs(words, d.y.count, &d.multiplier, &d.bias);
    std::vector<int64_t> sizes(size_t(4 * d.y.count));
    const int8_t* values = d.values;
    for (int64_t bit = 0; bit < elements; ++bit)
        if (d.mask[bit >> 3] >> (bit & 7) & 1)
            for (int k = 0; k < 4; ++k) sizes[bit / per_row] += std::abs(*values++);
    check_sums(words, d.bias, sizes);
    d.out = read_rounding(words);
    read_residual(words, arena, d.y, &d.has_residual, &d.residual);
    if (d.has_residual) {
        d.residual_first = words.number("residual_first", 0, 1) == 1;
        d.sum = read_sum(words);
    }
    return d;
}

QDepthwiseDesc read_qdepthwise(Words& words, int64_t arena) {
    QDepthwiseDesc d;
    d.x = as_rows(words.view("x", arena), words, "x");
    d.taps = read_taps(words, d.x, d.x.positions, arena);
    d.y = output_rows(words, arena);
    if (d.x.count != d.y.count || d.x.positions != d.y.positions) refuse(words.where() + "x and y have different shapes");
    const int64_t count = 4 * product(d.y.count, int64_t(d.taps.size()));
    d.weights = reinterpret_cast<const int8_t*>(words.blob("weights", count));
    check_weights(words, d.weights, count);
    read_outputs(words, d.y.count, &d.multiplier, &d.bias);
    std::vector<int64_t> sizes(size_t(4 * d.y.count));
    for (int64_t i = 0; i < count; ++i) sizes[i / 4 / int64_t(d.taps.size()) * 4 + i % 4] += std::abs(d.weights[i]);
    check_sums(words, d.bias, sizes);
    d.out = read_rounding(words);
    return d;
}

QPoolDesc read_qpool(Words& words, int64_t arena) {
    QPoolDesc d;
    d.x = as_rows(words.view("x", arena), words, "x");
    d.taps = read_taps(words, d.x, d.x.positions, arena);
    d.y = output_rows(words, arena);
    if (d.x.count != d.y.count || d.x.positions != d.y.positions) refuse(words.where() + "x and y have different shapes");
    return d;
}

// Rows that are read in whole vectors.
Rows checked_rows(const Words& words, const View& view, int64_t arena, const char* what) {
    const Rows x = as_rows(view, words, what);
    if (x.offset + (x.count - 1) * x.stride + (x.positions + OVER - 1) / OVER * OVER > arena + SLACK) refuse(words.where() + what + "'s last row runs past the arena");
    return x;
}

Rows input_rows(Words& words, int64_t arena, const char* what) { return checked_rows(words, words.view(what, arena), arena, what); }

// The rows of an image [C, H, W], what is between its lines included.
Rows rows_of_lines(const Words& words, const View& x, int64_t arena) {
    const int64_t height = x.dims[1], width = x.dims[2], pitch = height > 1 ? x.strides[1] : width;
    if ((width > 1 && x.strides[2] != 1) || pitch < width) refuse(words.where() + "x is no image whose lines are contiguous");
    View rows = x;
    rows.dims = {x.dims[0], (height - 1) * pitch + width};
    rows.strides = {x.strides[0], 1};
    return checked_rows(words, rows, arena, "x");
}

QTableDesc read_qtable(Words& words, int64_t arena) {
    QTableDesc d;
    d.x = input_rows(words, arena, "x");
    d.y = output_rows(words, arena);
    if (d.x.count != d.y.count || d.x.positions != d.y.positions) refuse(words.where() + "x and y have different shapes");
    d.table = words.blob("table", 256);
    return d;
}

QAddDesc read_qadd(Words& words, int64_t arena) {
    QAddDesc d;
    d.a = input_rows(words, arena, "a");
    d.b = input_rows(words, arena, "b");
    d.y = output_rows(words, arena);
    if (d.a.count != d.y.count || d.b.count != d.y.count || d.a.positions != d.y.positions || d.b.positions != d.y.positions)
        refuse(words.where() + "a, b and y have different shapes");
    d.sum = read_sum(words);
    return d;
}

float read_scale(Words& words) {
    const float scale = words.real();
    if (!(scale > 0) || scale > std::numeric_limits<float>::max()) refuse(words.where() + "its scale is no positive number");
    return scale;
}

QuantizeDesc read_quantize(Words& words, int64_t arena) {
    QuantizeDesc d;
    const View x = words.view("x", arena);
    if (x.dims.size() == 3) {
        d.x = rows_of_lines(words, x, arena);
        d.width = x.dims[2];
        d.pitch = x.dims[1] > 1 ? x.strides[1] : x.dims[2];
    } else {
        d.x = checked_rows(words, x, arena, "x");
    }
    d.y = output_rows(words, arena);
    if ((d.x.count + 3) / 4 != d.y.count || d.x.positions != d.y.positions) refuse(words.where() + "x and y have different shapes");
    d.scale = read_scale(words);
    d.out = read_rounding(words);
    return d;
}

DequantizeDesc read_dequantize(Words& words, int64_t arena) {
    DequantizeDesc d;
    d.x = input_rows(words, arena, "x");
    d.y = output_rows(words, arena);
    if ((d.y.count + 3) / 4 != d.x.count || d.x.positions != d.y.positions) refuse(words.where() + "x and y have different shapes");
    d.scale = read_scale(words);
    d.zero = float(words.number("a zero point", 0, 255));
    return d;
}

Number read_number(Words& words) {
    Number out;
    out.scale = read_scale(words);
    out.zero = float(words.number("a zero point", 0, 255));
    return out;
}

QMatmulDesc read_qmatmul(Words& words, int64_t arena) {
    QMatmulDesc d;
    d.floats = read_matrices(words, arena);
    d.a = read_number(words);
    d.b = read_number(words);
    d.c = read_number(words);
    d.multiplier = words.real();
    if (d.floats.a.dims.back() > INT32_MAX / (255 * 255)) refuse(words.where() + "a sum may leave 32 bits");
    return d;
}

QMeanDesc read_qmean(Words& words, int64_t arena) {
    QMeanDesc d;
    d.x = words.view("x", arena);
    d.y = output_rows(words, arena);
    if (d.x.constant || d.x.dims.size() != 3 || d.x.dims[0] != d.y.count || d.y.positions != 1)
        refuse(words.where() + "x is no image in the arena of as many rows as y, or y has not one position");
    d.multiplier = words.real();
    d.bias = words.word();
    if (255 * product(d.x.dims[1], d.x.dims[2]) + std::abs(int64_t(d.bias)) > INT32_MAX) refuse(words.where() + "a sum may leave 32 bits");
    d.out = read_rounding(words);
    return d;
}

Port read_port(Words& words, int64_t arena, bool written) {
    Port port;
    port.name = words.string();
    port.view = written ? words.writable("an input", arena) : words.view("an output", arena);
    int64_t elements = 1;
    for (int64_t dim : port.view.dims) elements = product(elements, dim);
    if (elements > std::numeric_limits<int32_t>::max()) refuse("the output " + port.name + " has too many elements");
    return port;
}

Operation read_operation(Words& words, int64_t arena) {
    words.enter("");
    const int32_t opcode = words.word();
    const int64_t length = words.number("an operation's length", 1, words.left() - 1);
    const uint8_t* end = words.position() + 4 * length;
    Operation out;
    out.name = words.string();
    words.enter(out.name);
    switch (opcode) {
        case 1: out.desc = read_linear(words, arena); break;
        case 2: out.desc = read_depthwise(words, arena); break;
        case 3: out.desc = read_pool(words, arena); break;
        case 4: out.desc = read_halo(words, arena); break;
        case 5: out.desc = read_copy(words, arena); break;
        case 6: out.desc = read_unary(words, arena); break;
        case 7: out.desc = read_binary(words, arena); break;
        case 8: out.desc = read_reduce(words, arena); break;
        case 9: out.desc = read_softmax(words, arena); break;
        case 10: out.desc = read_norm(words, arena); break;
        case 11: out.desc = read_matmul(words, arena); break;
        case 12: out.desc = read_qlinear(words, arena); break;
        case 13: out.desc = read_qdepthwise(words, arena); break;
        case 14: out.desc = read_qpool(words, arena); break;
        case 15: out.desc = read_qadd(words, arena); break;
        case 16: out.desc = read_quantize(words, arena); break;
        case 17: out.desc = read_dequantize(words, arena); break;
        case 18: out.desc = read_qmean(words, arena); break;
        case 19: out.desc = read_halo(words, arena, FLIPPED); break;
        case 20: out.desc = read_qtable(words, arena); break;
        case 21: out.desc = read_qmatmul(words, arena); break;
        default: refuse(words.where() + "there is no operation " + std::to_string(opcode) + "; a newer library may know it");
    }
    if (words.position() != end) refuse(words.where() + "its payload does not end where its length says");
    return out;
}

}  // namespace

Plan read_plan(const uint8_t* file, size_t size) {
    check_header(file, size);
    section(file, size, "META");
    Words words(section(file, size, "PLAN"), section(file, size, "DATA"));
    Plan plan;
    plan.arena_elements = words.number("the arena's size", 0, std::numeric_limits<int32_t>::max());
    for (int64_t i = words.number("the number of inputs", 1, 64); i > 0; --i) plan.inputs.push_back(read_port(words, plan.arena_elements, true));
    for (int64_t i = words.number("the number of outputs", 1, 64); i > 0; --i) plan.outputs.push_back(read_port(words, plan.arena_elements, false));
    for (int64_t i = words.number("the number of operations", 0, words.left() - 1); i > 0; --i)
        plan.operations.push_back(read_operation(words, plan.arena_elements));
    if (words.left()) refuse("there are words after the last operation");
    return plan;
}

}  // namespace mmrt
