// The elementwise kernels of every set that this CPU runs and the operations on strided views, against plain loops.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>

#include "each_set.h"
#include "file/sha256.h"
#include "halo.h"
#include "nd.h"
#include "reference_act.h"
#include "threads.h"

using namespace mmrt;

namespace {

bool close(double got, double want) { return std::fabs(got - want) <= 1e-6 + 3e-6 * std::fabs(want); }

void test_activations(const Kernels& kernels) {
    for (int code = 0; code < ACTIVATIONS; ++code) {
        const bool positive = code == 11 || code == 16;
        const Act act{code, code == 1 ? -0.5f : code == 21 ? 0.04f : 0.3f, code == 1 ? 2.f : code == 21 ? 130.f : 0.4f};
        for (int n : {1, 2, 7, 8, 9, 16, 31, 64, 65}) {
            std::vector<float> x(n), y(n + 1, 42.f);
            check::Random random(uint64_t(code * 100 + n));
            for (float& v : x) v = positive ? random.uniform() * 9 + 0.01f : random.signed_uniform() * 9 + 0.001f;
            kernels.unary(act, x.data(), y.data(), n);
            for (int i = 0; i < n; ++i)
                check::that(close(y[i], reference_act(act, x[i])), (std::string(kernels.name) + " activation " + std::to_string(code)).c_str());
            check::that(y[n] == 42.f, "unary wrote past its end");
        }
    }
    const float far[] = {-1000.f, -100.f, 100.f, 1000.f};
    float y[4];
    for (int code : {3, 4, 6, 7, 8, 9, 13}) {
        kernels.unary({code, 0, 0}, far, y, 4);
        for (int i = 0; i < 4; ++i) check::that(close(y[i], reference_act({code, 0, 0}, far[i])), "activation of a large number");
    }
}

// A view of these dims whose axes lie in memory in a drawn order, with a drawn gap after each line.
View random_view(const std::vector<int64_t>& dims, int64_t* end, check::Random& random) {
    View view;
    view.offset = *end;
    view.dims = dims;
    view.strides.resize(dims.size());
    std::vector<size_t> order(dims.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.next() % i]);
    int64_t step = 1 + random.next() % 5 / 3;
    for (size_t i : order) {
        view.strides[i] = step;
        step = step * dims[i] + random.next() % 3;
    }
    *end += step + 8;
    return view;
}

void each_index(const std::vector<int64_t>& dims, const std::function<void(const std::vector<int64_t>&)>& f) {
    std::vector<int64_t> at(dims.size(), 0);
    for (;;) {
        f(at);
        size_t i = dims.size();
        while (i > 0 && ++at[i - 1] == dims[i - 1]) at[--i] = 0;
        if (i == 0) return;
    }
}

int64_t place(const View& view, const std::vector<int64_t>& at) {
    int64_t out = view.offset;
    for (size_t i = 0; i < at.size(); ++i) out += at[i] * view.strides[i];
    return out;
}

void run(const Step& step, std::vector<float>& arena) {
    for (int item = step.items - 1; item >= 0; --item) step.run(item, arena.data());
}

std::vector<float> filled(int64_t size, check::Random& random) {
    std::vector<float> out(static_cast<size_t>(size));
    for (float& v : out) v = random.signed_uniform();
    return out;
}

void test_views(const Kernels& kernels, uint64_t seed) {
    check::Random random(seed);
    std::vector<int64_t> dims;
    for (uint32_t rank = random.next() % 5; dims.size() < rank;) dims.push_back(1 + random.next() % 9);
    int64_t end = 0;
    View dst = random_view(dims, &end, random), a = random_view(dims, &end, random), b = random_view(dims, &end, random);
    for (size_t i = 0; i < dims.size(); ++i)
        if (random.next() % 4 == 0) b.strides[i] = 0;
    std::vector<float> arena = filled(end + 8, random);
    const std::vector<float> before = arena;
    run(make_binary({Binary::mul, dst, a, b, {1, -0.5f, 0.5f}}, kernels), arena);
    each_index(dims, [&](const std::vector<int64_t>& at) {
        const double want = std::min(std::max(double(before[place(a, at)]) * before[place(b, at)], -0.5), 0.5);
        check::that(close(arena[place(dst, at)], want), "BINARY");
    });
    run(make_copy({dst, b}, kernels), arena);
    each_index(dims, [&](const std::vector<int64_t>& at) { check::that(arena[place(dst, at)] == before[place(b, at)], "COPY"); });
    run(make_unary({dst, a, {7, 0, 0}}, kernels), arena);
    each_index(dims,
               [&](const std::vector<int64_t>& at) { check::that(close(arena[place(dst, at)], reference_act({7, 0, 0}, before[place(a, at)])), "UNARY"); });
    if (dims.empty()) return;
    const size_t axes = 1 + random.next() % dims.size(), kept = dims.size() - axes;
    int64_t small_end = end;
    const View small = random_view({dims.begin(), dims.begin() + kept}, &small_end, random);
    arena.resize(small_end + 8);
    for (int kind = 0; kind < REDUCTIONS; ++kind) {
        run(make_reduce({Reduction(kind), int(axes), small, a, 0.5f}, kernels), arena);
        each_index(small.dims, [&](const std::vector<int64_t>& outer) {
            double want = kind == 1 ? -1e9 : kind == 2 ? 1e9 : 0;
            each_index({dims.begin() + kept, dims.end()}, [&](const std::vector<int64_t>& inner) {
                std::vector<int64_t> at = outer;
                at.insert(at.end(), inner.begin(), inner.end());
                const double v = before[place(a, at)];
                want = kind == 1 ? std::max(want, v) : kind == 2 ? std::min(want, v) : kind == 3 ? want + v * v : want + v;
            });
            if (kind == 0) want *= 0.5;
            if (kind == 3) want = std::sqrt(want);
            check::that(std::fabs(arena[place(small, outer)] - want) < 1e-4, "REDUCE");
        });
    }
    const int64_t length = dims.back();
    std::vector<float> gain = filled(length, random), bias = filled(length, random);
    run(make_softmax({dst, a}, kernels), arena);
    std::vector<float> soft = arena;
    run(make_norm({dst, a, 1e-5f, gain, bias}, kernels), arena);
    each_index({dims.begin(), dims.end() - 1}, [&](std::vector<int64_t> at) {
        double most = -1e9, sum = 0, mean = 0, squares = 0;
        at.push_back(0);
        auto x = [&](int64_t i) {
            at.back() = i;
            return double(before[place(a, at)]);
        };
        for (int64_t i = 0; i < length; ++i) most = std::max(most, x(i)), mean += x(i) / double(length);
        for (int64_t i = 0; i < length; ++i) sum += std::exp(x(i) - most), squares += (x(i) - mean) * (x(i) - mean) / double(length);
        for (int64_t i = 0; i < length; ++i) {
            const double value = x(i);
            check::that(close(soft[place(dst, at)], std::exp(value - most) / sum), "SOFTMAX");
            check::that(std::fabs(arena[place(dst, at)] - ((value - mean) / std::sqrt(squares + 1e-5) * gain[i] + bias[i])) < 2e-3, "NORM");
        }
    });
}

void test_large_axis(const Kernels& kernels, bool columns) {  // long enough to be cut into several items
    const int64_t length = 300, others = 1000;
    View a{{}, 0, {others, length}, columns ? std::vector<int64_t>{1, others} : std::vector<int64_t>{length, 1}};
    View dst = a;
    dst.offset = others * length;
    check::Random random(7);
    std::vector<float> arena = filled(2 * others * length + 64, random);
    run(make_softmax({dst, a}, kernels), arena);
    for (int64_t i = 0; i < others; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < length; ++j) sum += arena[dst.offset + i * dst.strides[0] + j * dst.strides[1]];
        check::that(std::fabs(sum - 1) < 1e-5, "a large SOFTMAX");
    }
}

void test_halo() {
    HaloDesc d;
    d.image.offset = 20;
    d.image.dims = {2, 3, 4};
    d.image.strides = {48, 6, 1};
    d.before = 7;
    d.after = 9;
    d.value = -3;
    std::vector<float> arena(120, 1.f);
    run(make_halos({d}), arena);
    for (int c = 0; c < 2; ++c)
        for (int i = -7; i < 2 * 6 + 4 + 9; ++i) {
            const bool inside = i >= 0 && i / 6 < 3 && i % 6 < 4;
            check::that(arena[20 + c * 48 + i] == (inside ? 1.f : -3.f), "HALO");
        }
    check::that(arena[12] == 1 && arena[20 + 48 - 8] == 1, "HALO wrote elsewhere");
}

void test_threads() {
    for (int count : {1, 2, 4}) {
        Threads threads(count);
        for (int items : {0, 1, 2, 3, 100}) {
            for (int repeat = 0; repeat < 200; ++repeat) {
                std::vector<int> seen(items, 0);
                threads.run(items, [&](int i) { ++seen[i]; });
                check::that(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }), "every item once");
            }
        }
    }
}

void test_sha256() {
    const auto digest = sha256(reinterpret_cast<const uint8_t*>("abc"), 3);  // FIPS 180-4's own example
    const uint8_t expected[] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea};
    check::that(std::memcmp(digest.data(), expected, sizeof expected) == 0, "sha256 of abc");
}

void test_selection() {
    int count = 0;
    const Kernels* const* sets = all_kernels(&count);
    check::that(std::string(choose_kernels(0, nullptr).name) == "scalar", "no features: scalar");
    for (int i = 0; i < count; ++i) {
        check::that(&choose_kernels(sets[i]->needs, sets[i]->name) == sets[i], "a set forced by its name");
        check::that(&choose_kernels(~0u, nullptr) == sets[0], "all features: the best");
        if (const Kernels* base = sets[i]->builds_on)
            check::that(sets[i]->width == base->width && (sets[i]->needs & base->needs) == base->needs,
                        std::string(sets[i]->name) + " can run what it builds on");
        auto is_there = [](const auto& it) {
            if constexpr (std::is_pointer_v<std::decay_t<decltype(it)>>) return it != nullptr;
            else return it.run != nullptr;
        };
#define KERNEL(kernel, type) \
    if (std::string(#kernel).find("columns") == std::string::npos) check::that(is_there(sets[i]->kernel), std::string(sets[i]->name) + " has " #kernel);
#include "kernels.inc"
#undef KERNEL
        if (!sets[i]->needs) continue;
        try {
            choose_kernels(0, sets[i]->name);
            check::that(false, "a forced set that the CPU lacks is an error");
        } catch (const std::runtime_error& err) {
            check::that(std::string(err.what()).find("scalar") != std::string::npos, "the error names what there is");
        }
    }
    try {
        choose_kernels(~0u, "avx3");
        check::that(false, "an unknown set is an error");
    } catch (const std::runtime_error&) {
        check::that(true, "");
    }
}

void test_set(const Kernels& kernels) {
    test_activations(kernels);
    for (uint64_t seed = 0; seed < 150; ++seed) test_views(kernels, seed);
    test_large_axis(kernels, true);
    test_large_axis(kernels, false);
}

}  // namespace

int main() {
    test_selection();
    test_threads();
    test_sha256();
    test_halo();
    check::each_set(test_set);
    return check::finish();
}
