// The loader: a model with every operation runs, each check of FORMAT.md refuses in its words, and mutated files are refused or run.
//     test_loader [mutated files, default 3000]
// Built with --sanitize the arena's ends are poisoned (model.cc), so that no mutation reads or writes outside unseen.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>

#include "check.h"
#include "file/sha256.h"
#include "kernels.h"
#include "mmrt.h"
#include "model.h"
#include "mutated.h"

using namespace mmrt;

namespace {

int32_t bits(float value) {
    int32_t out;
    std::memcpy(&out, &value, sizeof out);
    return out;
}

void append(Words* to, const Words& more) { to->insert(to->end(), more.begin(), more.end()); }

Words string(const std::string& text) {
    Words out(1 + (text.size() + 3) / 4, 0);
    out[0] = int32_t(text.size());
    std::memcpy(out.data() + 1, text.data(), text.size());
    return out;
}

Words view(int32_t offset, const Words& dims, const Words& strides, int32_t space = 0) {
    Words out = {space, 0, offset, int32_t(dims.size())};
    append(&out, dims);
    append(&out, strides);
    return out;
}

Words operation(int32_t opcode, const std::string& name, const std::vector<Words>& payload) {
    Words body = string(name);
    for (const Words& part : payload) append(&body, part);
    Words out = {opcode, int32_t(body.size())};
    append(&out, body);
    return out;
}

int32_t add_floats(Buffer* data, const std::vector<float>& values) {
    const size_t at = up(data->size());
    data->resize(at + up(values.size() * sizeof(float)));
    put(data, at, values.data(), values.size() * sizeof(float));
    return int32_t(at / 64);
}

int32_t add_bytes(Buffer* data, const Buffer& content) {
    const size_t at = up(data->size());
    data->resize(at + up(content.size()));
    put(data, at, content.data(), content.size());
    return int32_t(at / 64);
}

const Words NO_ACT = {0, 0, 0};
const Words RELU = {1, 0, 0x7F800000};

// The operations on uint8, one after the other, from an image of floats at 80 to three rows of floats at 1600.
void append_quantized(File* file, std::vector<Words>* operations) {
    Buffer blocks(64 + 9 * 4), bytes(36);  // 4 outputs of 1 word and 9 taps: every fourth block
    for (int i = 0; i < 36; i += 4) blocks[i / 8] |= 1 << i % 8;
    for (size_t i = 64; i < blocks.size(); ++i) blocks[i] = uint8_t(i % 2 ? i % 60 : -int(i) / 2);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = uint8_t(i % 3 ? i : -int(i));
    const int32_t kept = add_bytes(&file->data, blocks), weights = add_bytes(&file->data, bytes), biases = add_bytes(&file->data, Buffer(64));
    const int32_t factors = add_floats(&file->data, {0.01f, 0.02f, 0.005f, 0.01f});
    const Words a = view(1000, {1, 23}, {48, 1}), b = view(1100, {1, 23}, {48, 1});
    const Words c = view(1200, {1, 23}, {48, 1}), d = view(1300, {1, 23}, {48, 1}), e = view(1400, {1, 23}, {48, 1});
    const Words taps = {9, -7, -6, -5, -1, 0, 1, 5, 6, 7}, rounding = {128, 0, 255};
    operations->push_back(operation(16, "quantize", {view(80, {3, 4, 5}, {48, 6, 1}), a, {bits(0.02f)}, rounding}));
    operations->push_back(operation(19, "qhalo", {view(1000, {1, 4, 5}, {48, 6, 1}), {7, 8, int32_t(0x80808080)}}));
    operations->push_back(operation(12, "qconv", {a, taps, {1}, b, {kept, 9, factors, biases}, rounding, {0}}));
    operations->push_back(operation(13, "qdepthwise", {b, taps, c, {weights, factors, biases}, rounding}));
    operations->push_back(operation(14, "qpool", {c, {2, 0, 1}, d}));
    operations->push_back(operation(20, "qtable", {d, c, {add_bytes(&file->data, Buffer(256, 7))}}));
    const Words square = view(1600, {3, 3}, {48, 1});
    operations->push_back(
        operation(21, "qmatmul", {view(1700, {3, 3}, {8, 1}), square, view(1650, {3, 3}, {9, 1}), {bits(0.1f), 3, bits(0.2f), 4, bits(0.3f), 5, bits(0.07f)}}));
    operations->push_back(operation(15, "qadd", {a, d, e, {bits(0.5f), bits(0.4f), bits(-15.2f), 0, 250}}));
    operations->push_back(
        operation(12, "qsum", {e, {1, 0, 1}, a, {kept, 1, factors, biases}, rounding, {1}, d, {1, bits(1.f), bits(0.1f), bits(-128.3f), 0, 255}}));
    operations->push_back(operation(17, "dequantize", {a, view(1600, {3, 23}, {48, 1}), {bits(0.1f), 100}}));
    operations->push_back(operation(18, "qmean", {view(1000, {1, 4, 5}, {48, 6, 1}), view(1500, {1, 1}, {1, 1}), {bits(0.05f), -2560}, rounding}));
    operations->push_back(operation(7, "both", {{0}, view(780, {3, 3}, {5, 1}), view(780, {3, 3}, {5, 1}), view(1600, {3, 3}, {48, 1}), NO_ACT}));
}

// Every operation once, two LINEARs. The numbers do not matter, the shapes do: an image of 3 x 4 x 5 (pitch 6, rows of 48), then
// rows of 16 positions, then columns.
File everything() {
    File file;
    check::Random random(1);
    std::vector<float> numbers(64);
    for (float& v : numbers) v = random.signed_uniform();
    const int32_t blob = add_floats(&file.data, numbers);
    const int32_t sparse = int32_t(file.data.size() / 64);
    Buffer mask(64 + 64);  // 2 of 3 * 4 weights
    mask[0] = 0x11;
    const float two[2] = {0.5f, -2.f};
    put(&mask, 64, two, sizeof two);
    file.data.insert(file.data.end(), mask.begin(), mask.end());
    const Words image = view(80, {3, 4, 5}, {48, 6, 1}), x = view(80, {3, 23}, {48, 1}), y = view(300, {3, 23}, {48, 1});
    const Words z = view(460, {4, 23}, {48, 1}), small = view(300, {3, 2, 2}, {48, 12, 2}), pieces = view(700, {3, 2, 2}, {16, 2, 1});
    const Words tokens = view(700, {3, 4}, {16, 1}), mixed = view(760, {3, 4}, {1, 3}), square = view(780, {3, 3}, {5, 1});
    const Words turned = view(760, {4, 3}, {3, 1}), mean = view(800, {3}, {1}), none = view(0, {}, {}, 1);
    std::vector<Words> operations = {
        operation(4, "halo", {image, {7, 8, 0}}),
        operation(1, "conv", {x, {9, -7, -6, -5, -1, 0, 1, 5, 6, 7, 1}, y, {0, 0, blob, 0}, {-1, 0}, NO_ACT, {0}}),
        operation(2, "depthwise", {x, {2, 0, 1}, y, {blob, blob, 1}, x, {4, 0, 0}}),
        operation(1, "sparse", {y, {1, 0, 1}, z, {1, 0, sparse, 2}, {-1, 0}, RELU, {2}}),
        operation(3, "pool", {{0}, z, {2, 0, 1}, view(500, {4, 23}, {48, 1}), {bits(0.5f)}}),
        operation(5, "phases", {pieces, small}),
        operation(6, "gelu", {tokens, tokens, {7, 0, 0}}),
        operation(10, "norm", {mixed, tokens, {bits(1e-5f)}, view(blob, {4}, {1}, 1), none}),
        operation(9, "softmax", {tokens, view(760, {3, 4}, {1, 3})}),
        operation(11, "matmul", {square, tokens, turned, {bits(0.25f)}}),
        operation(7, "add", {{0}, square, square, view(blob, {3, 3}, {0, 1}, 1), RELU}),
        operation(8, "mean", {{0, 1}, mean, square, {bits(1.f / 3)}}),
        operation(1, "fc", {view(800, {3, 1}, {1, 1}), {1, 0, 1}, view(820, {4, 1}, {1, 1}), {0, 0, blob, 12}, {blob, 0}, NO_ACT, {1}}),
    };
    // conv has 3 x 3 x 9 weights: more than the 64 numbers
    std::vector<float> weights(81);
    for (float& v : weights) v = random.signed_uniform();
    const int32_t large = add_floats(&file.data, weights);
    operations[1] = operation(1, "conv", {x, {9, -7, -6, -5, -1, 0, 1, 5, 6, 7, 1}, y, {0, 0, large, 81}, {-1, 0}, NO_ACT, {0}});
    append_quantized(&file, &operations);
    file.plan = {1800, 1};
    append(&file.plan, string("image"));
    append(&file.plan, view(80, {1, 3, 4, 5}, {0, 48, 6, 1}));
    file.plan.push_back(2);
    append(&file.plan, string("logits"));
    append(&file.plan, view(820, {1, 4}, {4, 1}));
    append(&file.plan, string("square"));
    append(&file.plan, square);
    file.plan.push_back(int32_t(operations.size()));
    for (const Words& words : operations) append(&file.plan, words);
    return file;
}

// One operation on an arena of 400 elements, with 4096 bytes of zeros in DATA.
File with(const Words& one) {
    File file;
    file.data.resize(4096);
    file.plan = {400, 1};
    append(&file.plan, string("in"));
    append(&file.plan, view(0, {4}, {1}));
    file.plan.push_back(1);
    append(&file.plan, string("out"));
    append(&file.plan, view(0, {4}, {1}));
    file.plan.push_back(1);
    append(&file.plan, one);
    return file;
}

std::vector<std::vector<float>> outputs_of(Model* model) {
    std::vector<std::vector<float>> arrays;
    auto make = [&](const std::vector<Port>& ports) {
        for (const Port& port : ports) {
            int64_t count = 1;
            for (int64_t dim : port.view.dims) count *= dim;
            arrays.emplace_back(size_t(count), 0.5f);
        }
    };
    make(model->inputs());
    make(model->outputs());
    const size_t inputs = model->inputs().size();
    std::vector<float*> pointers;
    for (auto& array : arrays) pointers.push_back(array.data());
    for (size_t i = 0; i < inputs; ++i)
        for (size_t k = 0; k < arrays[i].size(); ++k) arrays[i][k] = float(k % 7) - 3;
    model->run(pointers.data(), pointers.data() + inputs);
    return {arrays.begin() + inputs, arrays.end()};
}

void test_everything() {
    const Buffer file = everything().bytes();
    Model one(file, 1), three(file, 3);
    check::that(one.steps().size() == 25 && one.inputs()[0].name == "image" && one.outputs().size() == 2, "the model with everything");
    std::set<size_t> kinds;
    for (const Operation& operation : read_plan(file).operations) kinds.insert(operation.desc.index());
    check::that(kinds.size() == std::variant_size_v<OperationDesc>, "everything() has an operation of each struct of operations.inc");
    const auto first = outputs_of(&one);
    for (int repeat = 0; repeat < 5; ++repeat) {
        check::that(outputs_of(&one) == first, "a second run gives the same bits");
        check::that(outputs_of(&three) == first, "three threads give the same bits");
    }
    Buffer moved(file.size() + 1);  // the caller's memory need not be aligned, and may go
    put(&moved, 1, file.data(), file.size());
    mmrt_model* model = nullptr;
    check::that(mmrt_load_memory(moved.data() + 1, file.size(), 1, &model) == MMRT_OK, "load from memory that is not aligned");
    std::fill(moved.begin(), moved.end(), 0);
    std::vector<float> image(60), logits(4), square(9);
    for (size_t k = 0; k < image.size(); ++k) image[k] = float(k % 7) - 3;
    const float* inputs[] = {image.data()};
    float* outputs[] = {logits.data(), square.data()};
    check::that(mmrt_run(model, inputs, outputs) == MMRT_OK && logits == first[0] && square == first[1], "the C API gives the same");
    char json[8000];
    const int64_t needed = mmrt_profile(model, inputs, outputs, json, sizeof json);
    check::that(needed == int64_t(std::strlen(json)) + 1 && std::strstr(json, "\"op\": \"SOFTMAX\""), "a profile");
    int64_t dims[8];
    check::that(mmrt_input_shape(model, 0, dims) == 4 && dims[3] == 5 && mmrt_input_shape(model, 1, dims) == MMRT_BAD_ARGUMENT, "shapes");
    check::that(!mmrt_output_name(model, 2) && std::strstr(mmrt_last_error(), "2"), "an index out of range");
    check::that(mmrt_run(model, inputs, nullptr) == MMRT_BAD_ARGUMENT, "a null pointer is an error");
    const auto before = logits;
    image[2 * 20 + 3 * 5 + 4] = NAN;
    check::that(mmrt_run(model, inputs, outputs) == MMRT_NOT_FINITE && std::strstr(mmrt_last_error(), "input image: element [0, 2, 3, 4] is nan"),
                "NaN is refused");
    image[2 * 20 + 3 * 5 + 4] = -INFINITY;
    check::that(mmrt_run(model, inputs, outputs) == MMRT_NOT_FINITE, "infinity is refused");
    for (size_t k = 0; k < image.size(); ++k) image[k] = float(k % 7) - 3;
    check::that(mmrt_run(model, inputs, outputs) == MMRT_OK && logits == before, "the next run answers");
    mmrt_free(model);
    check::that(mmrt_load("/nonexistent.mmrt", 1, &model) == MMRT_FAILED && !model, "a missing file");
    check::that(mmrt_load_memory(file.data(), file.size() - 1, 1, &model) == MMRT_BAD_FILE, "a short file");
}

// Two inputs and two outputs, one of them what the file holds: y = x + z, and a constant.
File two_ends() {
    File file;
    const int32_t constant = add_floats(&file.data, {3, -1});
    file.plan = {256, 2};
    append(&file.plan, string("x"));
    append(&file.plan, view(0, {1, 3}, {3, 1}));
    append(&file.plan, string("z"));
    append(&file.plan, view(16, {1, 3}, {3, 1}));
    file.plan.push_back(2);
    append(&file.plan, string("y"));
    append(&file.plan, view(64, {1, 3}, {3, 1}));
    append(&file.plan, string("anchors"));
    append(&file.plan, view(constant, {1, 2}, {2, 1}, 1));
    file.plan.push_back(1);
    append(&file.plan, operation(7, "add", {{0}, view(64, {3}, {1}), view(0, {3}, {1}), view(16, {3}, {1}), NO_ACT}));
    return file;
}

void test_batch() {
    const Buffer file = everything().bytes();
    for (int threads : {1, 3}) {
        mmrt_model* model = nullptr;
        check::that(mmrt_load_memory(file.data(), file.size(), threads, &model) == MMRT_OK, "the model with everything");
        constexpr int N = 5, IN = 60, LOGITS = 4, SQUARE = 9;
        check::Random random(7);
        std::vector<float> images(N * IN), logits(N * LOGITS), square(N * SQUARE), one(N * LOGITS), other(N * SQUARE);
        for (float& v : images) v = random.signed_uniform();
        for (int n = 0; n < N; ++n) {
            const float* in[] = {images.data() + n * IN};
            float* out[] = {one.data() + n * LOGITS, other.data() + n * SQUARE};
            check::that(mmrt_run(model, in, out) == MMRT_OK, "one by one");
        }
        const float* inputs[] = {images.data()};
        float* outputs[] = {logits.data(), square.data()};
        check::that(mmrt_run_batch(model, N, inputs, outputs) == MMRT_OK && logits == one && square == other, "a batch has the bits of one by one");
        check::that(one[0] != one[LOGITS] || other[0] != other[SQUARE], "and its images differ");
        std::fill(logits.begin(), logits.end(), 7.f);
        check::that(mmrt_run_batch(model, 0, inputs, outputs) == MMRT_OK && logits == std::vector<float>(N * LOGITS, 7.f), "an empty batch writes nothing");
        check::that(mmrt_run_batch(model, -1, inputs, outputs) == MMRT_BAD_ARGUMENT && std::strstr(mmrt_last_error(), "-1"), "a negative count");
        check::that(mmrt_run_batch(model, 2, nullptr, outputs) == MMRT_BAD_ARGUMENT, "a null pointer is an error");
        check::that(mmrt_run_batch(nullptr, 2, inputs, outputs) == MMRT_BAD_ARGUMENT, "so is no model");
        images[3 * IN + 59] = NAN;
        check::that(mmrt_run_batch(model, N, inputs, outputs) == MMRT_NOT_FINITE &&
                        std::strstr(mmrt_last_error(), "number 3 of the batch: input image: element [0, 2, 3, 4] is nan"),
                    "NaN is refused by its place in the batch");
        mmrt_free(model);
    }
}

void test_two_ends() {
    const Buffer file = two_ends().bytes();
    mmrt_model* model = nullptr;
    check::that(mmrt_load_memory(file.data(), file.size(), 1, &model) == MMRT_OK, "two inputs and two outputs");
    check::that(mmrt_input_count(model) == 2 && mmrt_output_count(model) == 2, "are counted");
    check::that(!std::strcmp(mmrt_input_name(model, 1), "z") && !std::strcmp(mmrt_output_name(model, 1), "anchors"), "are named");
    int64_t dims[8];
    check::that(mmrt_input_shape(model, 1, dims) == 2 && dims[1] == 3 && mmrt_output_shape(model, 1, dims) == 2 && dims[1] == 2, "have shapes");
    const std::vector<float> x = {1, 2, 3, 4, 5, 6}, z = {10, 20, 30, 40, 50, 60};
    std::vector<float> y(6), anchors(4);
    const float* inputs[] = {x.data(), z.data()};
    float* outputs[] = {y.data(), anchors.data()};
    check::that(mmrt_run_batch(model, 2, inputs, outputs) == MMRT_OK && y == std::vector<float>({11, 22, 33, 44, 55, 66}) &&
                    anchors == std::vector<float>({3, -1, 3, -1}),
                "a batch of both");
    const float* half[] = {x.data(), nullptr};
    check::that(mmrt_run(model, half, outputs) == MMRT_BAD_ARGUMENT, "the second input must be there");
    mmrt_free(model);
}

// What was read of a file can be read when the file is gone, and a model keeps no part of it.
void test_memory() {
    auto file = std::make_shared<Buffer>(everything().bytes());
    std::shared_ptr<const uint8_t> mapped(file, file->data());
    const auto kept = [&] { return mapped.use_count() - 2; };
    {
        const Bytes bytes(mapped, int64_t(file->size()));
        const Plan plan = read_plan(bytes);
        check::that(kept() > 1, "weights share the file's memory");
        Model model(bytes, 1);
        const auto before = outputs_of(&model);
        const long shares = kept();
        Model other(bytes, 1);
        check::that(kept() == shares, "a model keeps no part of the file");
        std::fill(file->begin(), file->end(), uint8_t(0xAA));
        check::that(outputs_of(&model) == before && outputs_of(&other) == before, "nor reads it");
    }
    check::that(kept() == 0, "nothing keeps the file");
    *file = everything().bytes();
    Plan plan = read_plan(Bytes({file, file->data()}, int64_t(file->size())));
    const LinearDesc& conv = std::get<LinearDesc>(plan.operations[1].desc);
    const Buffer weights(conv.weights.data.begin(), conv.weights.data.end());
    std::weak_ptr<Buffer> gone = file;
    mapped.reset();
    file.reset();
    check::that(!gone.expired() && std::equal(weights.begin(), weights.end(), conv.weights.data.begin()), "weights hold the file");
    plan.operations.clear();
    check::that(gone.expired(), "and let it go");
    const Bytes none;
    check::that(none.empty() && none.data() == nullptr, "an empty array");
    try {
        Bytes(Buffer(3)).part(1, 3);
        check::that(false, "a part outside its array is an error");
    } catch (const std::out_of_range&) {
        check::that(true, "");
    }
}

// y = relu(W x + b) by hand: W = [[1, 2], [0, -1]], b = [0.5, 1], x = [[1, 2, 3], [4, 5, -6]].
void test_numbers() {
    File file;
    const int32_t weights = add_floats(&file.data, {1, 2, 0, -1}), bias = add_floats(&file.data, {0.5f, 1});
    file.plan = {128, 1};
    append(&file.plan, string("x"));
    append(&file.plan, view(0, {2, 3}, {16, 1}));
    file.plan.push_back(1);
    append(&file.plan, string("y"));
    append(&file.plan, view(64, {2, 3}, {16, 1}));
    file.plan.push_back(1);
    append(&file.plan, operation(1, "fc", {view(0, {2, 3}, {16, 1}), {1, 0, 1}, view(64, {2, 3}, {16, 1}), {0, 0, weights, 4}, {bias, 0}, RELU, {0}}));
    const Buffer bytes = file.bytes();
    Model model(bytes, 1);
    const std::vector<float> x = {1, 2, 3, 4, 5, -6};
    std::vector<float> y(6);
    const float* inputs[] = {x.data()};
    float* outputs[] = {y.data()};
    model.run(inputs, outputs);
    check::that(y == std::vector<float>({9.5f, 12.5f, 0, 0, 0, 7}), "relu(W x + b)");
}

void refused(const File& file, const std::string& words) {
    const Buffer bytes = file.bytes();
    try {
        read_plan(bytes);
        check::that(false, ("not refused: " + words).c_str());
    } catch (const FormatError& err) {
        const bool said = std::string(err.what()).find(words) != std::string::npos;
        check::that(said, ("refused for another reason: " + words + ": " + err.what()).c_str());
    }
}

void test_views() {
    const Words fine = view(0, {4}, {1}), other = view(32, {4}, {1});
    const auto copy = [](const Words& dst, const Words& src) { return with(operation(5, "c", {dst, src})); };
    const Buffer good = copy(fine, other).bytes();
    check::that(read_plan(good).operations.size() == 1, "a good one is read");
    refused(copy(view(397, {4}, {1}), other), "operation c: dst ends at element 400 of an arena of 400");
    refused(copy(fine, view(1, {4}, {200}, 0)), "src ends at element");
    refused(copy(fine, view(64, {4}, {1}, 1)), "src lies outside DATA");
    refused(copy(view(0, {4}, {1}, 1), other), "dst would write into DATA");
    refused(copy(view(0, {4}, {0}), other), "dst would write one element many times");
    refused(copy(view(0, {4, 4}, {3, 1}), view(32, {4, 4}, {4, 1})), "dst would write one element many times");
    refused(copy(fine, view(32, {5}, {1})), "different dims");
    refused(copy(fine, view(32, {0}, {1})), "a dim is 0");
    refused(copy(fine, view(32, {4}, {-1})), "a stride is -1");
    refused(copy(fine, {0, 1, 32, 1, 4, 1}), "not float32");
    refused(copy(fine, {0, 0, 32, 9, 4, 1}), "rank is 9");
    refused(copy(fine, {2, 0, 32, 1, 4, 1}), "space is 2");
    refused(copy(fine, {0, 0, -1, 1, 4, 1}), "offset is -1");
    // 2^20 * 2^20 * 2^24 = 2^64, which is 0 where overflow goes unseen
    refused(copy(fine, view(0, {1 << 20, 1 << 20, 1 << 24}, {0, 0, 0})), "too many elements");
    File cut = copy(fine, other);
    cut.plan.pop_back();
    refused(cut, "length is");
    File longer = copy(fine, other);
    longer.plan.push_back(0);
    refused(longer, "words after the last operation");
    refused(with(operation(5, "c", {fine, other, {0}})), "its payload does not end where its length says");
    refused(with(operation(22, "c", {fine, other})), "there is no operation 22");
    refused(with(operation(0, "c", {fine, other})), "there is no operation 0");
    File many = copy(fine, other);
    many.plan[1] = 65;
    refused(many, "the number of inputs is 65");
    refused(with(operation(6, "u", {fine, other, {22, 0, 0}})), "an activation is 22");
    refused(with(operation(7, "b", {{7}, fine, other, other, NO_ACT})), "fn is 7");
    refused(with(operation(3, "p", {{2}, fine, {1, 0}, other, {0}})), "kind is 2");
    refused(with(operation(8, "r", {{4, 1}, fine, other, {0}})), "kind is 4");
    refused(with(operation(8, "r", {{0, 1}, fine, other, {0}})), "dst does not have the dims that remain");
    refused(with(operation(9, "s", {view(0, {}, {}), view(1, {}, {})})), "there is no last dim");
    refused(with(operation(10, "n", {fine, other, {0}, view(0, {5}, {1}, 1), view(0, {}, {}, 1)})), "gain is not a vector of 4");
    refused(with(operation(4, "h", {view(5, {2, 3, 4}, {40, 6, 1}), {6, 0, 0}})), "the halo leaves the arena");
    refused(with(operation(4, "h", {view(5, {2, 3, 4}, {40, 6, 1}), {5, 400, 0}})), "the halo leaves the arena");
    refused(with(operation(11, "m", {view(0, {2, 2}, {2, 1}), view(4, {2, 3}, {3, 1}), view(16, {2, 2}, {2, 1}), {0}})), "its matrices do not fit");
}

void test_rows() {
    struct Linear {
        Words x = view(64, {2, 16}, {32, 1}), taps = {1, 0}, groups = {1}, y = view(128, {2, 16}, {32, 1}), weights = {0, 0, 0, 4}, bias = {-1};
        Words residual = {0};
        File file() const { return with(operation(1, "l", {x, taps, groups, y, weights, bias, residual, NO_ACT, {0}})); }
    };
    const Buffer good = Linear().file().bytes();
    check::that(read_plan(good).operations.size() == 1, "a good LINEAR is read");
    Linear l;
    l.taps = {1, -65};
    refused(l.file(), "a tap of -65 leaves the arena");
    l.taps = {1, 400};
    refused(l.file(), "a tap of 400 leaves the arena");
    l.taps = {0};
    refused(l.file(), "the number of taps is 0");
    l = Linear();
    l.groups = {3};
    refused(l.file(), "groups is 3");
    l = Linear();
    l.y = view(128, {2, 9}, {9, 1});
    refused(l.file(), "the rows of y overlap");
    l.y = view(128, {2, 15}, {32, 1});
    refused(l.file(), "different numbers of positions");
    l = Linear();
    l.weights = {0, 0, 0, 5};
    refused(l.file(), "have 5 values and need 4");
    l.weights = {1, 0, 0, 1};  // the mask is all zeros
    refused(l.file(), "have 1 values and need 0");
    l.weights = {0, 0, 64, 4};
    refused(l.file(), "weights lies outside DATA");
    l.weights = {0, 2, 0, 4};
    refused(l.file(), "the weights' type is 2");
    l = Linear();
    l.bias = {64};
    refused(l.file(), "bias lies outside DATA");
    l = Linear();
    l.residual = {1};
    append(&l.residual, view(128, {2, 15}, {32, 1}));
    refused(l.file(), "residual has another shape");
    l.residual = {1};
    append(&l.residual, view(384, {2, 16}, {0, 1}));
    const Buffer end = l.file().bytes();
    check::that(read_plan(end).operations.size() == 1, "a residual whose rows repeat");
    // A column is read as one piece, whatever the residual's stride says
    l.x = view(64, {1, 1}, {1, 1});
    l.y = view(0, {300, 1}, {1, 1});
    l.weights = {1, 0, 0, 0};
    l.residual = {1};
    append(&l.residual, view(399, {300, 1}, {0, 1}));
    refused(l.file(), "residual is not a column as y is");
    // 2^8 outputs * 2^30 inputs * 2^16 taps = 2^54: no mask holds so many, and no multiplication may come near 2^64
    l = Linear();
    l.x = view(0, {1 << 30, 1}, {0, 1});
    l.y = view(0, {256, 1}, {1, 1});
    l.taps.assign((1 << 16) + 1, 0);
    l.taps[0] = 1 << 16;
    l.weights = {1, 0, 0, 0};
    refused(l.file(), "too many weights");
}

void test_quantized() {
    const Words x = view(100, {2, 16}, {16, 1}), y = view(200, {1, 16}, {16, 1}), rounding = {3, 0, 255};
    auto linear = [&](const Words& taps, const Words& weights, const Words& end, const Words& in) {
        return with(operation(12, "q", {in, taps, {1}, y, weights, end, {0}}));
    };
    const Buffer fine = linear({1, 0}, {0, 0, 0, 0}, rounding, x).bytes();
    check::that(read_plan(fine).operations.size() == 1, "a quantized layer of zeros");
    refused(linear({1, 500}, {0, 0, 0, 0}, rounding, x), "a tap of 500 leaves the arena");
    refused(linear({1, 0}, {0, 1, 0, 0}, rounding, x), "have 1 blocks and need 0");
    refused(linear({1, 0}, {64, 0, 0, 0}, rounding, x), "weights lies outside DATA");
    refused(linear({1, 0}, {0, 0, 64, 0}, rounding, x), "multiplier lies outside DATA");
    refused(linear({1, 0}, {0, 0, 0, 64}, rounding, x), "bias lies outside DATA");
    refused(linear({1, 0}, {0, 0, 0, 0}, {256, 0, 255}, x), "a zero point is 256");
    refused(linear({1, 0}, {0, 0, 0, 0}, {3, 9, 8}, x), "the highest value is 8");
    refused(linear({1, 0}, {0, 0, 0, 0}, rounding, view(100, {2, 15}, {16, 1})), "different numbers of positions");
    File large = linear({1, 0}, {0, 1, 0, 0}, rounding, x);
    large.data[0] = 1, large.data[64] = 65;
    refused(large, "a weight is beyond 64");
    File far = linear({1, 0}, {0, 0, 0, 1}, rounding, x);
    std::fill(far.data.begin() + 64, far.data.begin() + 67, 0xFF);
    far.data[64 + 3] = 0x7F;  // the largest bias: fine, as long as nothing is added
    const Buffer largest = far.bytes();
    check::that(read_plan(largest).operations.size() == 1, "the largest bias");
    File added = linear({1, 0}, {0, 1, 0, 2}, rounding, x);
    added.data[0] = 1, added.data[64] = 1;
    std::memcpy(added.data.data() + 128, far.data.data() + 64, 4);
    refused(added, "a sum may leave 32 bits");
    refused(with(operation(16, "q", {x, y, {bits(0.f)}, rounding})), "its scale is no positive number");
    refused(with(operation(16, "q", {view(100, {9, 16}, {16, 1}), y, {bits(1.f)}, rounding})), "x and y have different shapes");
    const Words small = view(200, {1, 15}, {16, 1});
    const Buffer lines = with(operation(16, "q", {view(100, {2, 3, 4}, {16, 5, 1}), view(200, {1, 14}, {16, 1}), {bits(1.f)}, rounding})).bytes();
    const Plan plan = read_plan(lines);
    const auto& quantize = std::get<QuantizeDesc>(plan.operations[0].desc);
    check::that(quantize.x.positions == 14 && quantize.width == 4 && quantize.pitch == 5, "an image that is quantized");
    refused(with(operation(16, "q", {view(100, {2, 3, 5}, {16, 4, 1}), small, {bits(1.f)}, rounding})), "x is no image whose lines are contiguous");
    refused(with(operation(16, "q", {view(100, {2, 3, 5}, {16, 0, 1}), small, {bits(1.f)}, rounding})), "x is no image whose lines are contiguous");
    refused(with(operation(16, "q", {view(100, {2, 3, 5}, {16, 5, 2}), small, {bits(1.f)}, rounding})), "x is no image whose lines are contiguous");
    refused(with(operation(16, "q", {view(100, {2, 3, 5}, {16, 6, 1}), small, {bits(1.f)}, rounding})), "x and y have different shapes");
    refused(with(operation(17, "q", {y, view(0, {5, 16}, {16, 1}), {bits(1.f), 0}})), "x and y have different shapes");
    refused(with(operation(15, "q", {x, y, y, {0, 0, 0, 0, 0, 0, 255}})), "a, b and y have different shapes");
    refused(with(operation(13, "q", {x, {1, 0}, y, {0, 0, 0}, rounding})), "x and y have different shapes");
}

// ---- mutated files ----

int ran = 0, refusals = 0;

void load_and_run(const Buffer& mutated) {
    const Buffer bytes(mutated);  // exactly as large as the file: reading past it is seen
    try {
        if (!is_small(read_plan(bytes))) return;
        Model model(bytes, 1);
        outputs_of(&model);
        ++ran;
    } catch (const std::exception&) {
        ++refusals;
    }
}

// Numbers of the header and of the table of sections, whose sha256 is then made right.
void mutate_header(Buffer* bytes, check::Random* random) {
    const size_t rows = 3, at = 8 + random->next() % (64 * (rows + 1) - 8);
    (*bytes)[at] = uint8_t(random->next() % 3 ? random->next() : random->next() % 4);
    put(bytes, 24, sha256(bytes->data() + 64, 64 * rows).data(), 32);
}

void fuzz(int count) {
    const File seed = everything();
    const Buffer whole = seed.bytes();
    check::Random random(2026);
    for (int i = 0; i < count; ++i) {
        File file = seed;
        Buffer bytes = whole;
        switch (i % 8) {
            case 0: bytes.resize(random.next() % whole.size()); break;
            case 1: bytes[random.next() % bytes.size()] ^= uint8_t(1 + random.next() % 255); break;
            case 2: mutate_header(&bytes, &random); break;
            case 3:
                file.data[random.next() % file.data.size()] ^= uint8_t(1 + random.next() % 255);
                bytes = file.bytes();
                break;
            default: mutate_plan(&file, &random); bytes = file.bytes();
        }
        load_and_run(bytes);
    }
    std::printf("%d mutated files: %d refused, %d run, %d too large to run here\n", count, refusals, ran, count - refusals - ran);
    check::that(refusals > count / 4 && ran > count / 50, "mutations are refused and run");
}

}  // namespace

int main(int argc, char** argv) {
    test_everything();
    test_batch();
    test_two_ends();
    test_memory();
    test_numbers();
    test_views();
    test_rows();
    test_quantized();
    fuzz(argc > 1 ? std::atoi(argv[1]) : 3000);
    std::printf("%s: %d checks passed\n", choose_kernels(cpu_features(), std::getenv("MMRT_ISA")).name, check::passed);
    return check::finish();
}
