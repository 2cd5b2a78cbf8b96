#include "words.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace mmrt {
namespace {

constexpr int64_t MOST_WORD = std::numeric_limits<int32_t>::max();

int64_t whole_vectors(int64_t positions) { return (positions + OVER - 1) / OVER * OVER; }

// Behind the last element that is read or written of rows.
int64_t end_of(const Rows& rows, int64_t positions) { return rows.offset + (rows.count - 1) * rows.stride + positions; }

}  // namespace

Words::Words(const Bytes& plan, const Bytes& data) : plan_(plan), data_(data) { arena_ = number("the arena's size", 0, MOST_WORD); }

void Words::refuse(const std::string& what) const { mmrt::refuse((name_.empty() ? "" : "operation " + name_ + ": ") + what); }

int32_t Words::word() {
    if (left() == 0) refuse("the plan ends too early");
    return read<int32_t>(plan_.data() + 4 * at_++);
}

float Words::real() {
    const int32_t bits = word();
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

int64_t Words::number(const char* what, int64_t low, int64_t high) {
    const int64_t out = word();
    if (out < low || out > high) refuse(std::string(what) + " is " + std::to_string(out) + ", outside " + std::to_string(low) + " to " + std::to_string(high));
    return out;
}

std::string Words::string() {
    const int64_t bytes = number("a name's length", 0, 4096), words = (bytes + 3) / 4;
    if (words > left()) refuse("a name runs past the plan");
    const Bytes text = plan_.part(4 * at_, bytes);
    at_ += words;
    return {text.begin(), text.end()};
}

Bytes Words::blob(int64_t unit, const char* what, int64_t bytes) const {
    if (unit < 0 || bytes < 0 || unit * 64 > data_.size() || bytes > data_.size() - unit * 64) refuse(std::string(what) + " lies outside DATA");
    return data_.part(unit * 64, bytes);
}

View Words::view(const char* what) {
    View out;
    const int64_t space = number("a view's space", 0, 1);
    if (word() != 0) refuse(std::string(what) + " is not float32, the only type of version 1");
    out.offset = number("a view's offset", 0, MOST_WORD);
    const int64_t rank = number("a view's rank", 0, MOST_RANK);
    int64_t last = 0, elements = 1;
    for (int64_t i = 0; i < rank; ++i) {
        out.dims.push_back(number("a dim", 1, MOST_WORD));
        elements = product(elements, out.dims.back());
        if (elements > MOST) refuse(std::string(what) + " has too many elements");
    }
    for (int64_t i = 0; i < rank; ++i) {
        out.strides.push_back(number("a stride", 0, MOST_WORD));
        last += (out.dims[i] - 1) * out.strides[i];
        if (last > MOST) refuse(std::string(what) + " is too large");
    }
    if (space == 1) {
        out.constant = copied<float>(blob(out.offset, what, (last + 1) * int64_t(sizeof(float))));
    } else if (out.offset + last >= arena_) {
        refuse(std::string(what) + " ends at element " + std::to_string(out.offset + last) + " of an arena of " + std::to_string(arena_));
    }
    return out;
}

// Each axis steps over all that the axes of smaller strides reach, so no two indices share an element and threads may write in any order.
View Words::writable(const char* what) {
    View out = view(what);
    if (!out.constant.empty()) refuse(std::string(what) + " would write into DATA");
    std::vector<std::pair<int64_t, int64_t>> axes;  // stride, dim
    for (size_t i = 0; i < out.dims.size(); ++i)
        if (out.dims[i] > 1) axes.emplace_back(out.strides[i], out.dims[i]);
    std::sort(axes.begin(), axes.end());
    int64_t reach = 0;
    for (const auto& [stride, dim] : axes) {
        if (stride <= reach) refuse(std::string(what) + " would write one element many times");
        reach += (dim - 1) * stride;
    }
    return out;
}

Act Words::act() {
    Act out;
    out.code = int(number("an activation", 0, ACTIVATIONS - 1));
    out.a = real();
    out.b = real();
    return out;
}

Rows as_rows(const Words& words, const View& view, const char* what) {
    if (!view.constant.empty() || view.dims.size() != 2 || (view.strides[1] != 1 && view.dims[1] != 1))
        words.refuse(std::string(what) + " is not rows of the arena");
    return {view.offset, view.strides[0], int(view.dims[0]), int(view.dims[1])};
}

Rows checked_rows(const Words& words, const View& view, const char* what) {
    const Rows x = as_rows(words, view, what);
    if (end_of(x, whole_vectors(x.positions)) > words.arena() + SLACK) words.refuse(std::string(what) + "'s last row runs past the arena");
    return x;
}

Rows input_rows(Words& words, const char* what) { return checked_rows(words, words.view(what), what); }

Rows output_rows(Words& words) {
    const Rows y = as_rows(words, words.writable("y"), "y");
    const int64_t written = is_column(y) ? 1 : whole_vectors(y.positions);
    if (y.count > 1 && y.stride < written) words.refuse("the rows of y overlap");
    if (end_of(y, written) > words.arena() + SLACK) words.refuse("y's last row runs past the arena");
    return y;
}

std::vector<int32_t> read_taps(Words& words, const Rows& x) {
    std::vector<int32_t> taps(size_t(words.number("the number of taps", 1, std::min<int64_t>(words.left() - 1, 1 << 16))));
    for (int32_t& tap : taps) {
        tap = words.word();
        if (x.offset + tap < 0 || end_of(x, whole_vectors(x.positions)) + tap > words.arena() + SLACK)
            words.refuse("a tap of " + std::to_string(tap) + " leaves the arena");
    }
    return taps;
}

bool read_residual(Words& words, const Rows& y, Rows* residual) {
    if (words.number("has_residual", 0, 1) == 0) return false;
    *residual = as_rows(words, words.view("residual"), "residual");
    if (residual->count != y.count || residual->positions != y.positions) words.refuse("residual has another shape than y");
    if (is_column(y) && y.count > 1 && residual->stride != 1)
        words.refuse("residual is not a column as y is: its stride is " + std::to_string(residual->stride));
    if (end_of(*residual, whole_vectors(y.positions)) > words.arena() + SLACK) words.refuse("residual's last row runs past the arena");
    return true;
}

void same_shape(const Words& words, const Rows& x, const Rows& y) {
    if (x.count != y.count || x.positions != y.positions) words.refuse("x and y have different shapes");
}

void same_dims(const Words& words, const View& a, const View& b, const char* what) {
    if (a.dims != b.dims) words.refuse(std::string(what) + " have different dims");
}

int64_t ones(const Bytes& bits, int64_t count) {
    int64_t out = 0;
    for (int64_t i = 0; i < count / 8; ++i) out += __builtin_popcount(bits[i]);
    if (count % 8) out += __builtin_popcount(bits[count / 8] & ((1 << count % 8) - 1));
    return out;
}

MatmulDesc read_matrices(Words& words) {
    MatmulDesc d;
    d.c = words.writable("c");
    d.a = words.view("a");
    d.b = words.view("b");
    const size_t rank = d.c.dims.size();
    if (rank < 2 || d.a.dims.size() != rank || d.b.dims.size() != rank) words.refuse("its views have different ranks");
    for (size_t i = 0; i + 2 < rank; ++i)
        if (d.a.dims[i] != d.c.dims[i] || d.b.dims[i] != d.c.dims[i]) words.refuse("its batches differ");
    const int64_t m = d.c.dims[rank - 2], n = d.c.dims[rank - 1], k = d.a.dims[rank - 1];
    if (d.a.dims[rank - 2] != m || d.b.dims[rank - 2] != k || d.b.dims[rank - 1] != n) words.refuse("its matrices do not fit");
    if (n > 1 && (d.c.strides[rank - 1] != 1 || d.b.strides[rank - 1] != 1)) words.refuse("the last stride of b and c is not 1");
    if (!d.b.constant.empty()) words.refuse("b lies in DATA, where kernels must not read past its end");
    int64_t batch = 1;
    for (size_t i = 0; i + 2 < rank; ++i) batch *= d.c.dims[i];
    if (batch > std::numeric_limits<int>::max()) words.refuse("its batch is too large");
    return d;
}

}  // namespace mmrt
