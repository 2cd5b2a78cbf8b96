// mmrt-bench FILE [--threads N] [--runs N] [--warmup N] [--input RAW] [--profile] [--json]
// Measures a model where there is no Python. Without --input the input is random. Times are of whole inferences; --profile adds a
// table of the steps, each with the median of its times in some runs of their own. --json prints one line instead, the profile in it.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "mmrt.h"

namespace {

constexpr char USAGE[] =
    "usage: mmrt-bench FILE [--threads N] [--runs N] [--warmup N] [--input RAW_FLOAT32] [--profile] [--json]\n"
    "example: mmrt-bench model.mmrt --threads 4 --runs 200\n";

[[noreturn]] void stop(const std::string& why, int code = 1) {
    std::fprintf(stderr, "Error: %s\n", why.c_str());
    std::exit(code);
}

int64_t elements(const int64_t* dims, int rank) {
    int64_t out = 1;
    for (int i = 0; i < rank; ++i) out *= dims[i];
    return out;
}

// One step of mmrt_profile's JSON, which is read as it is written: fields in their order, no escapes but \" and \\.
struct Layer {
    std::string name, op, kernel;
    double needed_macs = 0;
    std::vector<double> seconds;
};

std::string text_field(const char** at, const char* key) {
    const char* p = std::strstr(*at, key) + std::strlen(key) + 4;  // past `": "`
    std::string out;
    for (; *p != '"'; ++p) out += *p == '\\' ? *++p : *p;
    *at = p;
    return out;
}

double number_field(const char** at, const char* key) {
    *at = std::strstr(*at, key) + std::strlen(key) + 3;  // past `": `
    return std::strtod(*at, nullptr);
}

void add_profile(const char* json, std::vector<Layer>* layers) {
    const bool first = layers->empty();
    for (size_t i = 0; (json = std::strstr(json, "{\"name")); ++i) {
        Layer layer;
        layer.name = text_field(&json, "\"name");
        layer.op = text_field(&json, "\"op");
        layer.kernel = text_field(&json, "\"kernel");
        const double seconds = number_field(&json, "\"seconds");
        layer.needed_macs = number_field(&json, "\"needed_macs");
        if (first) layers->push_back(layer);
        (*layers)[i].seconds.push_back(seconds);
    }
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

void print_profile(const std::vector<Layer>& layers) {
    double total = 0;
    for (const Layer& layer : layers) total += median(layer.seconds);
    std::printf("%10s %6s %9s  %-10s %-24s %s\n", "ms", "%", "GMAC/s", "operation", "kernel", "name");
    for (const Layer& layer : layers) {
        const double seconds = median(layer.seconds);
        std::printf("%10.4f %6.1f %9.2f  %-10s %-24s %s\n", seconds * 1e3, total > 0 ? seconds / total * 100 : 0,
                    seconds > 0 ? layer.needed_macs / seconds / 1e9 : 0, layer.op.c_str(), layer.kernel.c_str(), layer.name.c_str());
    }
    std::printf("%10.4f  sum of the steps; GMAC/s counts multiplications by non-zeros\n", total * 1e3);
}

struct Buffers {
    std::vector<std::vector<float>> data;
    std::vector<float*> pointers;
    void add(int64_t count) {
        data.emplace_back(size_t(count));
        pointers.clear();
        for (auto& one : data) pointers.push_back(one.data());
    }
};

int number(const char* text) {
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    if (!*text || *end || value < 0 || value > 100000000) stop(std::string(text) + " is not a number of 0 or more\n" + USAGE, 2);
    return int(value);
}

}  // namespace

int main(int argc, char** argv) {
    std::string file, input;
    int threads = 1, runs = 100, warmup = 10;
    bool profile = false, json = false;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        auto value = [&]() -> const char* {
            if (++i == argc) stop(word + " needs a value\n" + USAGE, 2);
            return argv[i];
        };
        if (word == "--threads") threads = number(value());
        else if (word == "--runs") runs = std::max(1, number(value()));
        else if (word == "--warmup") warmup = number(value());
        else if (word == "--input") input = value();
        else if (word == "--profile") profile = true;
        else if (word == "--json") json = true;
        else if (word == "--help" || word == "-h") return std::printf("%s", USAGE), 0;
        else if (word[0] != '-' && file.empty()) file = word;
        else stop("unknown word " + word + "\n" + USAGE, 2);
    }
    if (file.empty()) stop(std::string("name a model\n") + USAGE, 2);
    mmrt_model* model = nullptr;
    if (mmrt_load(file.c_str(), threads, &model)) stop(mmrt_last_error());
    Buffers inputs, outputs;
    int64_t dims[8];
    for (int i = 0; i < mmrt_input_count(model); ++i) inputs.add(elements(dims, mmrt_input_shape(model, i, dims)));
    for (int i = 0; i < mmrt_output_count(model); ++i) outputs.add(elements(dims, mmrt_output_shape(model, i, dims)));
    uint32_t state = 1;
    for (auto& one : inputs.data)
        for (float& v : one) v = float((state = state * 1664525u + 1013904223u) >> 8) / float(1 << 23) - 1.f;
    if (!input.empty()) {
        std::FILE* f = std::fopen(input.c_str(), "rb");
        if (!f || std::fread(inputs.data[0].data(), sizeof(float), inputs.data[0].size(), f) != inputs.data[0].size())
            stop(input + " does not hold " + std::to_string(inputs.data[0].size()) + " float32 values");
        std::fclose(f);
    }
    std::vector<double> seconds;
    for (int i = -warmup; i < runs; ++i) {
        const auto began = std::chrono::steady_clock::now();
        if (mmrt_run(model, inputs.pointers.data(), outputs.pointers.data())) stop(mmrt_last_error());
        if (i >= 0) seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
    }
    std::sort(seconds.begin(), seconds.end());
    const double p50 = seconds[seconds.size() / 2], p90 = seconds[seconds.size() * 9 / 10];
    std::vector<Layer> layers;
    std::vector<char> steps(1 << 16);
    for (int i = 0; profile && i < std::min(runs, 25);) {
        const int64_t needed = mmrt_profile(model, inputs.pointers.data(), outputs.pointers.data(), steps.data(), steps.size());
        if (needed < 0) stop(mmrt_last_error());
        if (needed > int64_t(steps.size())) {
            steps.resize(size_t(needed) + 4096);
            continue;
        }
        add_profile(steps.data(), &layers);
        ++i;
    }
    if (json) {
        std::printf("{\"file\": \"%s\", \"mmrt\": \"%s\", \"kernels\": \"%s\", \"threads\": %d, \"runs\": %d, \"p50_s\": %.9f, \"p90_s\": %.9f, \"min_s\": %.9f",
                    file.c_str(), mmrt_version(), mmrt_kernels(model), threads, runs, p50, p90, seconds.front());
        std::printf(profile ? ", \"steps\": %s}\n" : "}\n", steps.data());
    } else {
        std::printf("%s, mmrt %s, kernels %s, %d thread(s), %d runs: p50 %.3f ms, p90 %.3f ms, least %.3f ms\n", file.c_str(), mmrt_version(),
                    mmrt_kernels(model), threads, runs, p50 * 1e3, p90 * 1e3, seconds.front() * 1e3);
    }
    if (profile && !json) print_profile(layers);
    mmrt_free(model);
}
