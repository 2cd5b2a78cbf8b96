// .mmrt files that are taken apart, changed and put together again, and which of them are little enough work to be run: for test_loader and
// for the fuzzer (fuzz/mmrt_file.cc).
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "file/plan.h"
#include "file/sha256.h"

namespace mmrt {

using Words = std::vector<int32_t>;
using Buffer = std::vector<uint8_t>;

struct File {
    Words plan;
    Buffer data;
    Buffer bytes() const;
};

inline void put(Buffer* out, size_t at, const void* from, size_t size) { std::memcpy(out->data() + at, from, size); }

inline size_t up(size_t n) { return (n + 63) / 64 * 64; }

inline Buffer File::bytes() const {
    Buffer words(plan.size() * 4);
    if (!plan.empty()) put(&words, 0, plan.data(), words.size());
    const std::vector<std::pair<std::string, Buffer>> sections = {{"PLAN", words}, {"DATA", data}, {"META", {'{', '}'}}};
    Buffer out(64 + 64 * sections.size());
    for (size_t i = 0; i < sections.size(); ++i) {
        const Buffer& content = sections[i].second;
        const uint64_t where[2] = {out.size(), content.size()};
        const size_t row = 64 + 64 * i;
        put(&out, row, sections[i].first.data(), 4);
        put(&out, row + 8, where, 16);
        put(&out, row + 24, sha256(content.data(), content.size()).data(), 32);
        out.insert(out.end(), content.begin(), content.end());
        out.resize(up(out.size()));
    }
    const uint32_t numbers[2] = {1, uint32_t(sections.size())};
    const uint64_t size = out.size();
    put(&out, 0, "MMRT\r\n\x1a\n", 8);
    put(&out, 8, numbers, 8);
    put(&out, 16, &size, 8);
    put(&out, 24, sha256(out.data() + 64, 64 * sections.size()).data(), 32);
    return out;
}

inline double elements(const View& view) {
    double out = 1;
    for (int64_t dim : view.dims) out *= double(dim);
    return out;
}

// Whether a plan that was accepted asks for little enough work to be run here.
struct Work {
    double operator()(const LinearDesc& d) const { return double(d.y.count) * d.x.count / d.groups * double(d.taps.size()) * d.y.positions; }
    double operator()(const DepthwiseDesc& d) const { return double(d.y.count) * d.y.positions * double(d.taps.size()); }
    double operator()(const PoolDesc& d) const { return double(d.y.count) * d.y.positions * double(d.taps.size()); }
    double operator()(const MatmulDesc& d) const { return elements(d.c) * double(d.a.dims.back()); }
    double operator()(const HaloDesc& d) const { return double(d.image.dims[0]) * double(d.before + d.after + d.image.dims[1] * d.image.strides[1]); }
    double operator()(const ReduceDesc& d) const { return elements(d.src); }
    double operator()(const CopyDesc& d) const { return elements(d.dst); }
    double operator()(const UnaryDesc& d) const { return elements(d.dst); }
    double operator()(const BinaryDesc& d) const { return elements(d.dst); }
    double operator()(const SoftmaxDesc& d) const { return elements(d.dst); }
    double operator()(const NormDesc& d) const { return elements(d.dst); }
    double operator()(const QLinearDesc& d) const { return 16.0 * d.y.count * d.x.count / d.groups * double(d.taps.size()) * d.y.positions; }
    double operator()(const QDepthwiseDesc& d) const { return 4.0 * d.y.count * d.y.positions * double(d.taps.size()); }
    double operator()(const QMeanDesc& d) const { return 4.0 * double(elements(d.x)); }
    double operator()(const QPoolDesc& d) const { return double(d.y.count) * d.y.positions * double(d.taps.size()); }
    double operator()(const QMatmulDesc& d) const { return (*this)(d.floats); }
    double operator()(const QTableDesc& d) const { return 4.0 * d.y.count * d.y.positions; }
    double operator()(const QAddDesc& d) const { return 4.0 * d.y.count * d.y.positions; }
    double operator()(const QuantizeDesc& d) const { return 4.0 * d.y.count * d.y.positions; }
    double operator()(const DequantizeDesc& d) const { return 4.0 * d.x.count * d.y.positions; }
};

inline bool is_small(const Plan& plan, double most = 3e6) {
    double work = 0;
    for (const auto& ports : {plan.inputs, plan.outputs})
        for (const Port& port : ports) work += elements(port.view);
    for (const Operation& operation : plan.operations) work += std::visit(Work(), operation.desc);
    return work < most;
}

inline int32_t interesting(check::Random* random, int32_t old) {
    const int32_t fixed[] = {0, 1, 2, -1, 16, 64, 400, 0x7FFFFFFF, int32_t(0x80000000), 1 << 30, 1 << 20, 0x7FFFFFF0};
    switch (random->next() % 6) {
        case 0: return fixed[random->next() % (sizeof fixed / sizeof *fixed)];
        case 1: return int32_t(uint32_t(old) + 1);
        case 2: return int32_t(uint32_t(old) - 1);
        case 3: return int32_t(uint32_t(old) * 2);
        case 4: return int32_t(random->next() % 1000);
        default: return old ^ int32_t(1u << random->next() % 31);
    }
}

inline void mutate_plan(File* file, check::Random* random) {
    for (int n = 1 + int(random->next() % 3); n > 0 && !file->plan.empty(); --n) {
        const size_t at = random->next() % file->plan.size();
        switch (random->next() % 12) {
            case 0: file->plan.erase(file->plan.begin() + at); break;
            case 1: file->plan.insert(file->plan.begin() + at, int32_t(random->next() % 8)); break;
            case 2: file->plan.resize(at); break;
            case 3: file->plan[at] = file->plan[random->next() % file->plan.size()]; break;
            default: file->plan[at] = interesting(random, file->plan[at]);
        }
    }
}

}  // namespace mmrt
