#include "model.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <new>
#include <numeric>

#include "halo.h"
#include "nd.h"

#if !defined(__SANITIZE_ADDRESS__) && defined(__has_feature)  // GCC's macro, which clang has only since 19
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace mmrt {
namespace {

constexpr size_t HUGE_PAGE = 2 << 20;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct MakeStep {
    const Kernels& kernels;
    int threads;
#define OPERATION(number, NAME, name, Desc) \
    Step operator()(const Desc& d) const { return make_##name(d, kernels, threads); }
#include "operations.inc"
};

struct NameOf {
#define OPERATION(number, NAME, name, Desc) \
    const char* operator()(const Desc&) const { return #NAME; }
#include "operations.inc"
};

int64_t elements(const View& view) { return std::accumulate(view.dims.begin(), view.dims.end(), int64_t(1), std::multiplies<int64_t>()); }

// "input image: element [0, 2, 5, 7] is nan", of the first that is not finite.
std::string not_finite(const Port& port, const float* values, int64_t count) {
    int64_t at = std::find_if(values, values + count, [](float v) { return !std::isfinite(v); }) - values;
    std::string index, value = std::isnan(values[at]) ? "nan" : values[at] < 0 ? "-inf" : "inf";
    for (size_t i = port.view.dims.size(); i-- > 0; at /= port.view.dims[i])
        index = std::to_string(at % port.view.dims[i]) + (index.empty() ? "" : ", ") + index;
    return "input " + port.name + ": element [" + index + "] is " + value;
}

// The step of operation `at` and of those behind it that it takes in: threads wait for each other after every step.
Step make_step(const std::vector<Operation>& operations, const Kernels& kernels, int threads, size_t* at) {
    auto halo = [&](size_t i) { return i < operations.size() ? std::get_if<HaloDesc>(&operations[i].desc) : nullptr; };
    const OperationDesc& desc = operations[*at].desc;
    const HaloDesc* next = halo(*at + 1);
    if (auto* d = std::get_if<LinearDesc>(&desc); d && next && is_halo_of(*next, d->y)) {
        ++*at;
        return make_linear(*d, kernels, threads, next);
    }
    if (auto* d = std::get_if<QLinearDesc>(&desc); d && next && is_halo_of(*next, d->y)) {
        ++*at;
        return make_qlinear(*d, kernels, threads, next);
    }
    if (auto* d = std::get_if<HaloDesc>(&desc)) {
        std::vector<HaloDesc> halos{*d};
        for (; next && commute(*d, *next); next = halo(*at + 1)) {
            halos.push_back(*next);
            ++*at;
        }
        return make_halos(std::move(halos));
    }
    return std::visit(MakeStep{kernels, threads}, desc);
}

}  // namespace

void Model::Unmap::operator()(void* p) const {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(p, bytes);
#endif
    munmap(p, bytes);
}

Model::Model(const Bytes& file, int threads)
    : kernels_(choose_kernels(cpu_features(), std::getenv("MMRT_ISA"))), plan_(read_plan(file)), memory_(nullptr, Unmap{0}), threads_(threads) {
    for (size_t i = 0; i < plan_.operations.size(); ++i) {
        const Operation& first = plan_.operations[i];
        Step step = make_step(plan_.operations, kernels_, threads, &i);
        step.name = first.name;
        step.op = std::visit(NameOf(), first.desc);
        finite_only_ = finite_only_ || step.lost_nan;
        steps_.push_back(std::move(step));
    }
    plan_.operations.clear();
    seconds_.resize(steps_.size());
    // Zeroed by the kernel, page by page when touched; huge pages spare the many rows of a layer their TLB misses
    const size_t bytes = size_t(plan_.arena_elements + 2 * SLACK) * sizeof(float) + HUGE_PAGE;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = std::unique_ptr<void, Unmap>(memory, Unmap{bytes});
    const uintptr_t aligned = (reinterpret_cast<uintptr_t>(memory) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    if (bytes > 2 * HUGE_PAGE) madvise(reinterpret_cast<void*>(aligned), bytes - HUGE_PAGE, MADV_HUGEPAGE);
    arena_ = reinterpret_cast<float*>(aligned) + SLACK;
#if defined(__SANITIZE_ADDRESS__)  // no kernel reads or writes outside the arena and its slack unseen
    const char *begin = static_cast<char*>(memory), *end = reinterpret_cast<char*>(arena_ + plan_.arena_elements + SLACK);
    __asan_poison_memory_region(begin, size_t(reinterpret_cast<char*>(aligned) - begin));
    __asan_poison_memory_region(end, size_t(begin + bytes - end));
#endif
}

bool Model::all_finite(const float* const* inputs) const {
    for (size_t i = 0; i < plan_.inputs.size(); ++i) {
        const int64_t count = elements(plan_.inputs[i].view);
        if (kernels_.all_finite(inputs[i], count)) continue;
        if (finite_only_) throw NotFinite(not_finite(plan_.inputs[i], inputs[i], count) + ": a uint8 file takes finite numbers only, as integers have no NaN");
        return false;
    }
    return true;
}

void Model::run(const float* const* inputs, float* const* outputs) {
    const bool finite = all_finite(inputs);
    for (size_t i = 0; i < plan_.inputs.size(); ++i) write_view(plan_.inputs[i].view, arena_, inputs[i]);
    for (size_t i = 0; i < steps_.size(); ++i) {
        const double began = timed_ ? now() : 0;
        const Step& step = steps_[i];
        threads_.run(step.items, [&](int item) { step.run(item, arena_); });
        if (!finite && step.add_zeros) step.add_zeros(arena_);
        if (step.lost_nan && step.lost_nan->exchange(false)) throw NotFinite("operation " + step.name + ": a value is NaN, of which it would make an integer");
        if (timed_) seconds_[i] = now() - began;
    }
    for (size_t i = 0; i < plan_.outputs.size(); ++i) read_view(plan_.outputs[i].view, arena_, outputs[i]);
}

void Model::run_batch(int64_t count, const float* const* inputs, float* const* outputs) {
    std::vector<const float*> from(inputs, inputs + plan_.inputs.size());
    std::vector<float*> to(outputs, outputs + plan_.outputs.size());
    for (int64_t n = 0; n < count; ++n) {
        try {
            run(from.data(), to.data());
        } catch (const NotFinite& err) {
            throw NotFinite("number " + std::to_string(n) + " of the batch: " + err.what());
        }
        for (size_t i = 0; i < from.size(); ++i) from[i] += elements(plan_.inputs[i].view);
        for (size_t i = 0; i < to.size(); ++i) to[i] += elements(plan_.outputs[i].view);
    }
}

std::unique_ptr<Model> load_file(const std::string& path, int threads) {
    try {
        return std::make_unique<Model>(map_file(path), threads);
    } catch (const FormatError& err) {
        throw FormatError(path + ": " + err.what());
    }
}

}  // namespace mmrt
