#include "model.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <numeric>

#include "nd.h"

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
    Step operator()(const LinearDesc& d) const { return make_linear(d, kernels, threads); }
    Step operator()(const DepthwiseDesc& d) const { return make_depthwise(d, kernels); }
    Step operator()(const PoolDesc& d) const { return make_pool(d, kernels); }
    Step operator()(const MatmulDesc& d) const { return make_matmul(d, kernels); }
    Step operator()(const QMatmulDesc& d) const { return make_qmatmul(d, kernels); }
    Step operator()(const HaloDesc& d) const { return make_halos({d}); }
    Step operator()(const CopyDesc& d) const { return make_copy(d, kernels); }
    Step operator()(const UnaryDesc& d) const { return make_unary(d, kernels); }
    Step operator()(const BinaryDesc& d) const { return make_binary(d, kernels); }
    Step operator()(const ReduceDesc& d) const { return make_reduce(d, kernels); }
    Step operator()(const SoftmaxDesc& d) const { return make_softmax(d, kernels); }
    Step operator()(const NormDesc& d) const { return make_norm(d, kernels); }
    Step operator()(const QLinearDesc& d) const { return make_qlinear(d, kernels, threads); }
    Step operator()(const QDepthwiseDesc& d) const { return make_qdepthwise(d, kernels); }
    Step operator()(const QMeanDesc& d) const { return make_qmean(d); }
    Step operator()(const QPoolDesc& d) const { return make_qpool(d, kernels); }
    Step operator()(const QTableDesc& d) const { return make_qtable(d, kernels); }
    Step operator()(const QAddDesc& d) const { return make_qadd(d, kernels); }
    Step operator()(const QuantizeDesc& d) const { return make_quantize(d, kernels); }
    Step operator()(const DequantizeDesc& d) const { return make_dequantize(d, kernels); }
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

// Constants that are read in place move out of the file, so that it need not stay in memory.
const float* Model::own(const float* values, int64_t count) {
    if (!values) return nullptr;
    constants_.emplace_back(values, values + count);
    return constants_.back().data();
}

void Model::own(View* view) {
    if (!view->constant) return;
    int64_t last = 0;
    for (size_t i = 0; i < view->dims.size(); ++i) last += (view->dims[i] - 1) * view->strides[i];
    view->constant = own(view->constant, last + 1);
}

Model::Model(const uint8_t* file, size_t size, int threads)
    : kernels_(choose_kernels(cpu_features(), std::getenv("MMRT_ISA"))), plan_(read_plan(file, size)), memory_(nullptr, Unmap{0}), threads_(threads) {
    for (Operation& operation : plan_.operations) {
        if (auto* d = std::get_if<CopyDesc>(&operation.desc)) own(&d->src);
        if (auto* d = std::get_if<UnaryDesc>(&operation.desc)) own(&d->src);
        if (auto* d = std::get_if<BinaryDesc>(&operation.desc)) own(&d->a), own(&d->b);
        if (auto* d = std::get_if<ReduceDesc>(&operation.desc)) own(&d->src);
        if (auto* d = std::get_if<SoftmaxDesc>(&operation.desc)) own(&d->src);
        if (auto* d = std::get_if<MatmulDesc>(&operation.desc)) own(&d->a);
        if (auto* d = std::get_if<QMatmulDesc>(&operation.desc)) own(&d->floats.a);
        if (auto* d = std::get_if<NormDesc>(&operation.desc)) {
            own(&d->src);
            d->gain = own(d->gain, d->dst.dims.back());
            d->bias = own(d->bias, d->dst.dims.back());
        }
    }
    for (size_t i = 0; i < plan_.operations.size(); ++i) {
        const std::string name = plan_.operations[i].name;
        steps_.push_back(make_step(plan_.operations, kernels_, threads, &i));
        steps_.back().name = name;
    }
    for (const Operation& operation : plan_.operations)
        if (std::holds_alternative<QuantizeDesc>(operation.desc) || std::holds_alternative<QMatmulDesc>(operation.desc)) finite_only_ = true;
    plan_.operations.clear();
    for (Port& port : plan_.outputs) own(&port.view);
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

std::unique_ptr<Model> load_file(const std::string& path, int threads) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat about {};
    if (fd < 0 || fstat(fd, &about) != 0) {
        const std::string why = std::strerror(errno);
        if (fd >= 0) close(fd);
        throw std::runtime_error(path + ": " + why);
    }
    const size_t size = size_t(about.st_size);
    void* file = size ? mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    close(fd);
    if (file == MAP_FAILED) throw FormatError(path + ": not a usable .mmrt file: it is empty or no file");
    struct Guard {
        void* file;
        size_t size;
        ~Guard() { munmap(file, size); }
    } guard{file, size};
    try {
        return std::make_unique<Model>(static_cast<const uint8_t*>(file), size, threads);
    } catch (const FormatError& err) {
        throw FormatError(path + ": " + err.what());
    }
}

}  // namespace mmrt
