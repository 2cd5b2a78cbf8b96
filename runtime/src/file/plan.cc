#include "plan.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "weights.h"
#include "words.h"

namespace mmrt {
namespace {

Weights read_weights(Words& words, int64_t elements) {
    Weights out;
    out.encoding = int(words.number("the weights' encoding", 0, 1));
    out.dtype = int(words.number("the weights' type", 0, 1));
    const int32_t unit = words.word();
    out.values = words.number("the number of values", 0, std::numeric_limits<int32_t>::max());
    const int64_t mask = out.encoding == 1 ? bitmask_bytes(elements) : 0;
    out.data = words.blob(unit, "weights", mask + out.values * (out.dtype == 1 ? 2 : 4));
    const int64_t expected = out.encoding == 1 ? ones(out.data, elements) : elements;
    if (out.values != expected) words.refuse("the weights have " + std::to_string(out.values) + " values and need " + std::to_string(expected));
    return out;
}

HaloDesc read_halo_flipped(Words& words, uint32_t flipped) {
    HaloDesc d;
    d.image = words.writable("image");
    if (d.image.dims.size() != 3 || d.image.strides[2] != 1 || d.image.strides[1] < d.image.dims[2]) words.refuse("image is not planes");
    d.before = words.number("before", 0, words.arena());
    d.after = words.number("after", 0, words.arena());
    const uint32_t bits = uint32_t(words.word()) ^ flipped;
    std::memcpy(&d.value, &bits, sizeof bits);
    const int64_t end = d.image.offset + (d.image.dims[0] - 1) * d.image.strides[0] + (d.image.dims[1] - 1) * d.image.strides[1] + d.image.dims[2];
    if (d.before > d.image.offset || end + d.after > words.arena()) words.refuse("the halo leaves the arena");
    return d;
}

Array<float> read_vector(Words& words, const char* what, int64_t length) {
    const View view = words.view(what);
    if (view.dims.empty()) return {};
    if (view.constant.empty() || view.dims.size() != 1 || view.dims[0] != length || view.strides[0] != 1)
        words.refuse(std::string(what) + " is not a vector of " + std::to_string(length) + " in DATA");
    return view.constant;
}

OperationDesc read_payload(int32_t number, Words& words) {
    switch (number) {
#define OPERATION(number, NAME, name, Desc) \
    case number: return read_##name(words);
#define OPERATION_READ_AS(number, NAME, name, Desc) \
    case number: return read_##name(words);
#include "operations.inc"
        default: words.refuse("there is no operation " + std::to_string(number) + "; a newer library may know it");
    }
}

Operation read_operation(Words& words) {
    words.enter("");
    const int32_t number = words.word();
    const int64_t length = words.number("an operation's length", 1, words.left() - 1), end = words.position() + length;
    const std::string name = words.string();
    words.enter(name);
    Operation out{name, read_payload(number, words)};
    if (words.position() != end) words.refuse("its payload does not end where its length says");
    return out;
}

Port read_port(Words& words, bool written) {
    Port port;
    port.name = words.string();
    port.view = written ? words.writable("an input") : words.view("an output");
    int64_t elements = 1;
    for (int64_t dim : port.view.dims) elements = product(elements, dim);
    if (elements > std::numeric_limits<int32_t>::max()) refuse("the output " + port.name + " has too many elements");
    return port;
}

}  // namespace

LinearDesc read_linear(Words& words) {
    LinearDesc d;
    d.x = as_rows(words, words.view("x"), "x");
    d.taps = read_taps(words, d.x);
    d.groups = int(words.number("groups", 1, d.x.count));
    d.y = output_rows(words);
    if (d.x.count % d.groups || d.y.count % d.groups) words.refuse("its channels do not fall into its groups");
    if (d.x.positions != d.y.positions) words.refuse("x and y have different numbers of positions");
    const int64_t elements = product(product(d.y.count, d.x.count / d.groups), int64_t(d.taps.size()));
    if (elements > MOST) words.refuse("too many weights");
    d.weights = read_weights(words, elements);
    d.bias = words.constants<float>("bias", d.y.count, true);
    d.has_residual = read_residual(words, d.y, &d.residual);
    d.act = words.act();
    d.kernel = int(words.number("kernel", 0, 2));
    return d;
}

DepthwiseDesc read_depthwise(Words& words) {
    DepthwiseDesc d;
    d.x = as_rows(words, words.view("x"), "x");
    d.taps = read_taps(words, d.x);
    d.y = output_rows(words);
    same_shape(words, d.x, d.y);
    d.weights = words.constants<float>("weights", int64_t(d.y.count) * int64_t(d.taps.size()));
    d.bias = words.constants<float>("bias", d.y.count, true);
    d.has_residual = read_residual(words, d.y, &d.residual);
    d.act = words.act();
    return d;
}

PoolDesc read_pool(Words& words) {
    PoolDesc d;
    d.kind = Pooling(words.number("kind", 0, POOLINGS - 1));
    d.x = as_rows(words, words.view("x"), "x");
    d.taps = read_taps(words, d.x);
    d.y = output_rows(words);
    same_shape(words, d.x, d.y);
    d.scale = words.real();
    return d;
}

HaloDesc read_halo(Words& words) { return read_halo_flipped(words, 0); }
HaloDesc read_qhalo(Words& words) { return read_halo_flipped(words, FLIPPED); }

CopyDesc read_copy(Words& words) {
    CopyDesc d;
    d.dst = words.writable("dst");
    d.src = words.view("src");
    same_dims(words, d.dst, d.src, "dst and src");
    return d;
}

UnaryDesc read_unary(Words& words) {
    UnaryDesc d;
    d.dst = words.writable("dst");
    d.src = words.view("src");
    same_dims(words, d.dst, d.src, "dst and src");
    d.act = words.act();
    return d;
}

BinaryDesc read_binary(Words& words) {
    BinaryDesc d;
    d.fn = Binary(words.number("fn", 0, BINARIES - 1));
    d.dst = words.writable("dst");
    d.a = words.view("a");
    d.b = words.view("b");
    same_dims(words, d.dst, d.a, "dst and a");
    same_dims(words, d.dst, d.b, "dst and b");
    d.act = words.act();
    return d;
}

ReduceDesc read_reduce(Words& words) {
    ReduceDesc d;
    d.kind = Reduction(words.number("kind", 0, REDUCTIONS - 1));
    d.axes = int(words.number("n_axes", 1, MOST_RANK));
    d.dst = words.writable("dst");
    d.src = words.view("src");
    d.scale = words.real();
    const size_t kept = d.dst.dims.size();
    if (d.src.dims.size() != kept + size_t(d.axes) || !std::equal(d.dst.dims.begin(), d.dst.dims.end(), d.src.dims.begin()))
        words.refuse("dst does not have the dims that remain of src");
    return d;
}

SoftmaxDesc read_softmax(Words& words) {
    SoftmaxDesc d;
    d.dst = words.writable("dst");
    d.src = words.view("src");
    same_dims(words, d.dst, d.src, "dst and src");
    if (d.dst.dims.empty()) words.refuse("there is no last dim");
    return d;
}

NormDesc read_norm(Words& words) {
    NormDesc d;
    d.dst = words.writable("dst");
    d.src = words.view("src");
    same_dims(words, d.dst, d.src, "dst and src");
    if (d.dst.dims.empty()) words.refuse("there is no last dim");
    d.eps = words.real();
    d.gain = read_vector(words, "gain", d.dst.dims.back());
    d.bias = read_vector(words, "bias", d.dst.dims.back());
    return d;
}

MatmulDesc read_matmul(Words& words) {
    MatmulDesc d = read_matrices(words);
    d.scale = words.real();
    return d;
}

Plan read_plan(const Bytes& file) {
    check_header(file);
    section(file, "META");
    const Bytes words_of_plan = section(file, "PLAN");
    Words words(words_of_plan, section(file, "DATA"));
    Plan plan;
    plan.arena_elements = words.arena();
    for (int64_t i = words.number("the number of inputs", 1, 64); i > 0; --i) plan.inputs.push_back(read_port(words, true));
    for (int64_t i = words.number("the number of outputs", 1, 64); i > 0; --i) plan.outputs.push_back(read_port(words, false));
    for (int64_t i = words.number("the number of operations", 0, words.left() - 1); i > 0; --i) plan.operations.push_back(read_operation(words));
    if (words.left()) refuse("there are words after the last operation");
    return plan;
}

}  // namespace mmrt
