// The payloads of the operations on uint8.
#include <cstdlib>
#include <limits>

#include "weights.h"
#include "words.h"

namespace mmrt {
namespace {

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

void check_weights(const Words& words, const Array<int8_t>& values) {
    for (int8_t value : values)
        if (value > MOST_WEIGHT || value < -MOST_WEIGHT) words.refuse("a weight is beyond 64");
}

// What outputs are multiplied by, and their biases: two vectors of 4 * rows.
void read_outputs(Words& words, int rows, Array<float>* multiplier, Array<int32_t>* bias) {
    *multiplier = words.constants<float>("multiplier", int64_t(rows) * 4);
    *bias = words.constants<int32_t>("bias", int64_t(rows) * 4);
}

// No sum leaves int32: kernels read inputs within [-128, 255], some of them with what that changes in the bias. `sizes`: of each output, the
// sum of its weights' absolute values.
void check_sums(const Words& words, const Array<int32_t>& bias, const std::vector<int64_t>& sizes) {
    for (size_t i = 0; i < sizes.size(); ++i)
        if (std::abs(int64_t(bias[int64_t(i)])) + 256 * sizes[i] > INT32_MAX) words.refuse("a sum may leave 32 bits");
}

// The rows of an image [C, H, W], what is between its lines included.
Rows rows_of_lines(const Words& words, const View& x) {
    const int64_t height = x.dims[1], width = x.dims[2], pitch = height > 1 ? x.strides[1] : width;
    if ((width > 1 && x.strides[2] != 1) || pitch < width) words.refuse("x is no image whose lines are contiguous");
    View rows = x;
    rows.dims = {x.dims[0], (height - 1) * pitch + width};
    rows.strides = {x.strides[0], 1};
    return checked_rows(words, rows, "x");
}

float read_scale(Words& words) {
    const float scale = words.real();
    if (!(scale > 0) || scale > std::numeric_limits<float>::max()) words.refuse("its scale is no positive number");
    return scale;
}

Number read_number(Words& words) {
    Number out;
    out.scale = read_scale(words);
    out.zero = float(words.number("a zero point", 0, 255));
    return out;
}

}  // namespace

QLinearDesc read_qlinear(Words& words) {
    QLinearDesc d;
    d.x = as_rows(words, words.view("x"), "x");
    d.taps = read_taps(words, d.x);
    d.groups = int(words.number("groups", 1, d.x.count));
    d.y = output_rows(words);
    if (d.x.count % d.groups || d.y.count % d.groups) words.refuse("its words do not fall into its groups");
    if (d.x.positions != d.y.positions) words.refuse("x and y have different numbers of positions");
    const int64_t per_row = product(d.x.count / d.groups, int64_t(d.taps.size())), elements = product(4 * int64_t(d.y.count), per_row);
    if (elements > MOST) words.refuse("too many weights");
    const int32_t unit = words.word();
    d.blocks = words.number("the number of blocks", 0, std::numeric_limits<int32_t>::max());
    const Bytes weights = words.blob(unit, "weights", bitmask_bytes(elements) + 4 * d.blocks);
    d.mask = weights.part(0, bitmask_bytes(elements));
    d.values = weights.part<int8_t>(d.mask.size(), 4 * d.blocks);
    if (const int64_t expected = ones(d.mask, elements); d.blocks != expected)
        words.refuse("the weights have " + std::to_string(d.blocks) + " blocks and need " + std::to_string(expected));
    check_weights(words, d.values);
    read_outputs(words, d.y.count, &d.multiplier, &d.bias);
    std::vector<int64_t> sizes(size_t(4 * d.y.count));
    const uint8_t* mask = d.mask.data();
    const int8_t* values = d.values.data();
    for (int64_t bit = 0; bit < elements; ++bit)
        if (mask[bit >> 3] >> (bit & 7) & 1)
            for (int k = 0; k < 4; ++k) sizes[bit / per_row] += std::abs(*values++);
    check_sums(words, d.bias, sizes);
    d.out = read_rounding(words);
    d.has_residual = read_residual(words, d.y, &d.residual);
    if (d.has_residual) {
        d.residual_first = words.number("residual_first", 0, 1) == 1;
        d.sum = read_sum(words);
    }
    return d;
}

QDepthwiseDesc read_qdepthwise(Words& words) {
    QDepthwiseDesc d;
    d.x = as_rows(words, words.view("x"), "x");
    d.taps = read_taps(words, d.x);
    d.y = output_rows(words);
    same_shape(words, d.x, d.y);
    const int64_t count = 4 * product(d.y.count, int64_t(d.taps.size()));
    d.weights = words.constants<int8_t>("weights", count);
    check_weights(words, d.weights);
    read_outputs(words, d.y.count, &d.multiplier, &d.bias);
    std::vector<int64_t> sizes(size_t(4 * d.y.count));
    for (int64_t i = 0; i < count; ++i) sizes[i / 4 / int64_t(d.taps.size()) * 4 + i % 4] += std::abs(d.weights[i]);
    check_sums(words, d.bias, sizes);
    d.out = read_rounding(words);
    return d;
}

QPoolDesc read_qpool(Words& words) {
    QPoolDesc d;
    d.x = as_rows(words, words.view("x"), "x");
    d.taps = read_taps(words, d.x);
    d.y = output_rows(words);
    same_shape(words, d.x, d.y);
    return d;
}

QTableDesc read_qtable(Words& words) {
    QTableDesc d;
    d.x = input_rows(words, "x");
    d.y = output_rows(words);
    same_shape(words, d.x, d.y);
    d.table = words.constants<uint8_t>("table", 256);
    return d;
}

QAddDesc read_qadd(Words& words) {
    QAddDesc d;
    d.a = input_rows(words, "a");
    d.b = input_rows(words, "b");
    d.y = output_rows(words);
    if (d.a.count != d.y.count || d.b.count != d.y.count || d.a.positions != d.y.positions || d.b.positions != d.y.positions)
        words.refuse("a, b and y have different shapes");
    d.sum = read_sum(words);
    return d;
}

QuantizeDesc read_quantize(Words& words) {
    QuantizeDesc d;
    const View x = words.view("x");
    if (x.dims.size() == 3) {
        d.x = rows_of_lines(words, x);
        d.width = x.dims[2];
        d.pitch = x.dims[1] > 1 ? x.strides[1] : x.dims[2];
    } else {
        d.x = checked_rows(words, x, "x");
    }
    d.y = output_rows(words);
    if ((d.x.count + 3) / 4 != d.y.count || d.x.positions != d.y.positions) words.refuse("x and y have different shapes");
    d.scale = read_scale(words);
    d.out = read_rounding(words);
    return d;
}

DequantizeDesc read_dequantize(Words& words) {
    DequantizeDesc d;
    d.x = input_rows(words, "x");
    d.y = output_rows(words);
    if ((d.y.count + 3) / 4 != d.x.count || d.x.positions != d.y.positions) words.refuse("x and y have different shapes");
    d.scale = read_scale(words);
    d.zero = float(words.number("a zero point", 0, 255));
    return d;
}

QMatmulDesc read_qmatmul(Words& words) {
    QMatmulDesc d;
    d.floats = read_matrices(words);
    d.a = read_number(words);
    d.b = read_number(words);
    d.c = read_number(words);
    d.multiplier = read_scale(words);
    if (d.floats.a.dims.back() > INT32_MAX / (255 * 255)) words.refuse("a sum may leave 32 bits");
    return d;
}

QMeanDesc read_qmean(Words& words) {
    QMeanDesc d;
    d.x = words.view("x");
    d.y = output_rows(words);
    if (!d.x.constant.empty() || d.x.dims.size() != 3 || d.x.dims[0] != d.y.count || d.y.positions != 1)
        words.refuse("x is no image in the arena of as many rows as y, or y has not one position");
    d.multiplier = read_scale(words);
    d.bias = words.word();
    if (255 * product(d.x.dims[1], d.x.dims[2]) + std::abs(int64_t(d.bias)) > INT32_MAX) words.refuse("a sum may leave 32 bits");
    d.out = read_rounding(words);
    return d;
}

}  // namespace mmrt
