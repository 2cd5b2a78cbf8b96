// mmrt-bench FILE [--threads N] [--batch N] [--runs N] [--warmup N] [--input RAW ...] [--profile] [--json], or mmrt-bench --kernels [--json]
// Measures a model where there is no Python. An input without an --input is random. Times are of whole inferences; --profile adds a
// table of the steps, each with the median of its times in some runs of their own and how near it comes to the roofline: what this
// core's multiply-adds and its reads from L1 and L2 allow at best, measured at the end. --json prints one line instead, all in it.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernel_bench.h"
#include "kernels.h"
#include "mmrt.h"

namespace {

constexpr char USAGE[] =
    "usage: mmrt-bench FILE [--threads N] [--batch N] [--runs N] [--warmup N] [--input RAW_FLOAT32 ...] [--profile] [--json]\n"
    "       --input once for each input, in their order; --batch N: a time is that of N inferences, one after the other\n"
    "       mmrt-bench --kernels [--json]    every kernel by itself, a line each\n"
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
    double needed_macs = 0, cost = 0;
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
        layer.cost = number_field(&json, "\"cost");
        if (first) layers->push_back(layer);
        (*layers)[i].seconds.push_back(seconds);
    }
}

std::string escaped(const std::string& text) {
    std::string out;
    for (char c : text) out += c == '"' || c == '\\' ? std::string("\\") + c : std::string(1, c);
    return out;
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

// One core's rates, in single floats a second.
struct Limits {
    int width = 1;
    double multiply_adds = 0, l1 = 0, l2 = 0;
};

double seconds_since(std::chrono::steady_clock::time_point began) { return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count(); }

Limits measure_limits(const char* set) {
    constexpr int64_t L1_FLOATS = 16 * 1024 / 4, L2_FLOATS = 256 * 1024 / 4, N = 48 * 1024 * 1024;
    const mmrt::Kernels& kernels = mmrt::choose_kernels(mmrt::cpu_features(), set);
    std::vector<float> room(L2_FLOATS + 16, 1.f);
    const float* data = room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64) / sizeof(float);  // a cache line's start
    Limits out;
    out.width = kernels.width;
    volatile float sink = 0;
    for (int i = 0; i < 10; ++i) {
        auto began = std::chrono::steady_clock::now();
        sink = kernels.multiply_adds(N);
        out.multiply_adds = std::max(out.multiply_adds, N / seconds_since(began));
        began = std::chrono::steady_clock::now();
        sink = kernels.read_floats(data, L1_FLOATS, N / L1_FLOATS);
        out.l1 = std::max(out.l1, N / seconds_since(began));
        began = std::chrono::steady_clock::now();
        sink = kernels.read_floats(data, L2_FLOATS, N / L2_FLOATS);
        out.l2 = std::max(out.l2, N / seconds_since(began));
    }
    (void)sink;
    return out;
}

// The least time of a step on one core: its multiplications by non-zeros; in the sparse kernel also a vector read from L1 for each vector
// multiplied, one more for every weight that T vectors share, and the weight with its offset from L2. 0: no multiplications, or of bytes, whose limit is not
// known here.
double least_seconds(const Layer& layer, const Limits& limits) {
    if (layer.op[0] == 'Q') return 0;
    const double macs = layer.needed_macs;
    int vectors = 0;
    if (std::sscanf(layer.kernel.c_str(), "sparse %*s T%d", &vectors) != 1) return macs / limits.multiply_adds;
    const double weights = macs / vectors / limits.width;
    return std::max({macs / limits.multiply_adds, (macs + weights * limits.width) / limits.l1, 2 * weights / limits.l2});
}

void print_profile(const std::vector<Layer>& layers, const Limits& limits, int threads) {
    double total = 0, least = 0, bound = 0;
    for (const Layer& layer : layers) total += median(layer.seconds);
    std::printf("%10s %6s %9s %9s  %-10s %-24s %s\n", "ms", "%", "GMAC/s", "of limit", "operation", "kernel", "name");
    for (const Layer& layer : layers) {
        const double seconds = median(layer.seconds), possible = least_seconds(layer, limits) / threads;
        char share[16] = "";
        if (possible > 0 && seconds > 0) {
            std::snprintf(share, sizeof share, "%.0f %%", possible / seconds * 100);
            least += possible;
            bound += seconds;
        }
        std::printf("%10.4f %6.1f %9.2f %9s  %-10s %-24s %s\n", seconds * 1e3, total > 0 ? seconds / total * 100 : 0,
                    seconds > 0 ? layer.needed_macs / seconds / 1e9 : 0, share, layer.op.c_str(), layer.kernel.c_str(), layer.name.c_str());
    }
    std::printf("%10.4f  sum of the steps; GMAC/s counts multiplications by non-zeros\n", total * 1e3);
    std::printf("%10.4f  what the steps that multiply would take at the limit: %.0f %% of their time\n", least * 1e3, bound > 0 ? least / bound * 100 : 0);
    std::printf("limits of one core: %.1f G multiply-adds/s, %.1f G floats/s from L1, %.1f from L2\n", limits.multiply_adds / 1e9, limits.l1 / 1e9,
                limits.l2 / 1e9);
}

void print_steps(const std::vector<Layer>& layers, const Limits& limits, int threads) {
    std::printf(", \"limits\": {\"multiply_adds_per_s\": %.4g, \"l1_floats_per_s\": %.4g, \"l2_floats_per_s\": %.4g}, \"steps\": [", limits.multiply_adds,
                limits.l1, limits.l2);
    for (const Layer& layer : layers)
        std::printf("%s{\"name\": \"%s\", \"op\": \"%s\", \"kernel\": \"%s\", \"seconds\": %.9f, \"needed_macs\": %.0f, \"least_seconds\": %.9f, \"cost\": %g}",
                    &layer == &layers[0] ? "" : ", ", escaped(layer.name).c_str(), layer.op.c_str(), layer.kernel.c_str(), median(layer.seconds),
                    layer.needed_macs, least_seconds(layer, limits) / threads, layer.cost);
    std::printf("]");
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
    std::string file;
    std::vector<std::string> given;  // files of inputs
    int threads = 1, batch = 1, runs = 100, warmup = 10;
    bool profile = false, json = false, kernels = false;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        auto value = [&]() -> const char* {
            if (++i == argc) stop(word + " needs a value\n" + USAGE, 2);
            return argv[i];
        };
        if (word == "--threads") threads = number(value());
        else if (word == "--runs") runs = std::max(1, number(value()));
        else if (word == "--warmup") warmup = number(value());
        else if (word == "--batch") batch = std::max(1, number(value()));
        else if (word == "--input") given.push_back(value());
        else if (word == "--profile") profile = true;
        else if (word == "--kernels") kernels = true;
        else if (word == "--json") json = true;
        else if (word == "--help" || word == "-h") return std::printf("%s", USAGE), 0;
        else if (word[0] != '-' && file.empty()) file = word;
        else stop("unknown word " + word + "\n" + USAGE, 2);
    }
    if (kernels && !file.empty()) stop(std::string("--kernels takes no model\n") + USAGE, 2);
    if (kernels) {
        try {
            return bench_kernels(json), 0;
        } catch (const std::runtime_error& err) {
            stop(err.what());
        }
    }
    if (file.empty()) stop(std::string("name a model\n") + USAGE, 2);
    mmrt_model* model = nullptr;
    if (mmrt_load(file.c_str(), threads, &model)) stop(mmrt_last_error());
    Buffers inputs, outputs;
    int64_t dims[8];
    for (int i = 0; i < mmrt_input_count(model); ++i) inputs.add(batch * elements(dims, mmrt_input_shape(model, i, dims)));
    for (int i = 0; i < mmrt_output_count(model); ++i) outputs.add(batch * elements(dims, mmrt_output_shape(model, i, dims)));
    uint32_t state = 1;
    for (auto& one : inputs.data)
        for (float& v : one) v = float((state = state * 1664525u + 1013904223u) >> 8) / float(1 << 23) - 1.f;
    if (given.size() > inputs.data.size()) stop("the model has " + std::to_string(inputs.data.size()) + " input(s), but --input was given more often");
    for (size_t i = 0; i < given.size(); ++i) {
        std::vector<float>& one = inputs.data[i];
        std::FILE* f = std::fopen(given[i].c_str(), "rb");
        if (!f || std::fread(one.data(), sizeof(float), one.size(), f) != one.size())
            stop(given[i] + " does not hold " + std::to_string(one.size()) + " float32 values");
        std::fclose(f);
    }
    std::vector<double> seconds;
    for (int i = -warmup; i < runs; ++i) {
        const auto began = std::chrono::steady_clock::now();
        if (mmrt_run_batch(model, batch, inputs.pointers.data(), outputs.pointers.data())) stop(mmrt_last_error());
        if (i >= 0) seconds.push_back(seconds_since(began));
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
    Limits limits;
    if (profile) limits = measure_limits(mmrt_kernels(model));
    if (json) {
        std::printf(
            "{\"file\": \"%s\", \"mmrt\": \"%s\", \"kernels\": \"%s\", \"threads\": %d, \"batch\": %d, \"runs\": %d, \"p50_s\": %.9f, \"p90_s\": %.9f, "
            "\"min_s\": %.9f",
            escaped(file).c_str(), mmrt_version(), mmrt_kernels(model), threads, batch, runs, p50, p90, seconds.front());
        if (profile) print_steps(layers, limits, threads);
        std::printf("}\n");
    } else {
        std::printf("%s, mmrt %s, kernels %s, %d thread(s), batch %d, %d runs: p50 %.3f ms, p90 %.3f ms, least %.3f ms\n", file.c_str(), mmrt_version(),
                    mmrt_kernels(model), threads, batch, runs, p50 * 1e3, p90 * 1e3, seconds.front() * 1e3);
    }
    if (profile && !json) print_profile(layers, limits, threads);
    mmrt_free(model);
}
