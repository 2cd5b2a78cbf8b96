// libFuzzer's target for mmrt: a file is refused in words, or it runs, reads and writes nothing outside its arena and its arrays.
// fuzz/mmrt.py builds it; MMRT_ISA chooses the instruction set.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "../runtime/tests/mutated.h"
#include "file/container.h"
#include "model.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

namespace {

using namespace mmrt;

constexpr int64_t MOST_ARENA = 1 << 20;  // elements: more only makes a run slow,
constexpr double MOST_WORK = 2e5;        // as more products do

struct Arrays {
    std::vector<std::vector<float>> values;
    std::vector<float*> pointers;
    explicit Arrays(const std::vector<Port>& ports) {
        for (const Port& port : ports) values.emplace_back(size_t(elements(port.view)));  // exactly as large as the caller's
        for (auto& array : values) pointers.push_back(array.data());
    }
};

void fill(Arrays* arrays, float odd) {
    for (auto& array : arrays->values) {
        for (size_t k = 0; k < array.size(); ++k) array[k] = float(k % 7) - 3;
        array[array.size() / 2] = odd;
    }
}

void run(const Buffer& content) {
    const Bytes file(content);
    const Plan plan = read_plan(file);
    if (plan.arena_elements > MOST_ARENA || !is_small(plan, MOST_WORK)) return;
    Model model(file, 1);
    Arrays inputs(model.inputs()), outputs(model.outputs());
    for (float odd : {content.size() % 128 ? 1e30f : INFINITY, 0.5f}) {
        fill(&inputs, odd);
        try {
            model.run(inputs.pointers.data(), outputs.pointers.data());
        } catch (const NotFinite&) {
        }
    }
}

// The sections of a file that is not damaged; false for another.
bool take_apart(const uint8_t* data, size_t size, File* out) {
    try {
        const Bytes file(Buffer(data, data + size));
        check_header(file);
        const Bytes plan = section(file, "PLAN"), content = section(file, "DATA");
        out->plan.resize(size_t(plan.size()) / 4);
        if (!out->plan.empty()) std::memcpy(out->plan.data(), plan.data(), out->plan.size() * 4);
        out->data.assign(content.begin(), content.end());
        return true;
    } catch (const FormatError&) {
        return false;
    }
}

void mutate_bytes(std::vector<uint8_t>* bytes, size_t most) {
    const size_t size = bytes->size();
    bytes->resize(std::max(most, size) + 1);
    bytes->resize(LLVMFuzzerMutate(bytes->data(), size, std::max(most, size)));
}

}  // namespace

// Ends where MMRT_ISA names a set that this machine lacks.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
    try {
        choose_kernels(cpu_features(), std::getenv("MMRT_ISA"));
    } catch (const std::runtime_error& err) {
        std::fprintf(stderr, "%s\n", err.what());
        std::exit(2);
    }
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    try {
        run(Buffer(data, data + size));
    } catch (const FormatError&) {
    } catch (const NotFinite&) {
    } catch (const std::runtime_error&) {  // what the C API passes on as MMRT_FAILED; any other exception is a finding
    }
    return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
    check::Random random(seed);
    File file;
    const uint32_t kind = random.below(8);
    if (kind == 0 || !take_apart(data, size, &file)) return LLVMFuzzerMutate(data, size, most);
    if (kind < 4) {
        mutate_plan(&file, &random);
    } else if (kind < 6) {
        Buffer words(file.plan.size() * 4);
        if (!words.empty()) std::memcpy(words.data(), file.plan.data(), words.size());
        mutate_bytes(&words, most / 2);
        file.plan.resize(words.size() / 4);
        if (!file.plan.empty()) std::memcpy(file.plan.data(), words.data(), file.plan.size() * 4);
    } else {
        mutate_bytes(&file.data, most / 2);
        file.data.resize(up(file.data.size()));
    }
    const Buffer made = file.bytes();
    if (made.size() > most) return LLVMFuzzerMutate(data, size, most);
    std::memcpy(data, made.data(), made.size());
    return made.size();
}
