// The C API: no exception leaves it.
#include <cstdio>
#include <cstring>
#include <new>

#include "../include/mmrt.h"
#include "model.h"

struct mmrt_model {
    std::unique_ptr<mmrt::Model> model;
};

namespace {

constexpr char VERSION[] = "0.1.0";
thread_local std::string last_error;

int fail(int code, const std::string& why) {
    last_error = why;
    return code;
}

template <class F>
int guarded(F f) {
    try {
        return f();
    } catch (const mmrt::FormatError& err) {
        return fail(MMRT_BAD_FILE, err.what());
    } catch (const mmrt::NotFinite& err) {
        return fail(MMRT_NOT_FINITE, err.what());
    } catch (const std::bad_alloc&) {
        return fail(MMRT_NO_MEMORY, "not enough memory for this model");
    } catch (const std::exception& err) {
        return fail(MMRT_FAILED, err.what());
    }
}

template <class Load>
int load(int threads, mmrt_model** model, Load make) {
    if (!model) return fail(MMRT_BAD_ARGUMENT, "model is null");
    *model = nullptr;
    if (threads < 1 || threads > 256) return fail(MMRT_BAD_ARGUMENT, "threads must be 1 to 256, not " + std::to_string(threads));
    return guarded([&] {
        *model = new mmrt_model{make()};
        return int(MMRT_OK);
    });
}

// A null model has no inputs and no outputs.
const std::vector<mmrt::Port>& inputs(const mmrt_model* model) {
    static const std::vector<mmrt::Port> none;
    return model ? model->model->inputs() : none;
}

const std::vector<mmrt::Port>& outputs(const mmrt_model* model) {
    static const std::vector<mmrt::Port> none;
    return model ? model->model->outputs() : none;
}

const mmrt::Port* port(const std::vector<mmrt::Port>& ports, int index) {
    if (index >= 0 && index < int(ports.size())) return &ports[size_t(index)];
    last_error = "there is no input or output " + std::to_string(index);
    return nullptr;
}

int shape(const mmrt::Port* found, int64_t* dims) {
    if (!found) return MMRT_BAD_ARGUMENT;
    for (size_t i = 0; i < found->view.dims.size(); ++i) dims[i] = found->view.dims[i];
    return int(found->view.dims.size());
}

bool any_null(const void* const* pointers, size_t count) {
    for (size_t i = 0; i < count; ++i)
        if (!pointers || !pointers[i]) return true;
    return false;
}

// `infer` computes the outputs, with the model and the arrays that were checked.
template <class Infer>
int run(mmrt_model* model, const float* const* inputs, float* const* outputs, Infer infer) {
    if (!model) return fail(MMRT_BAD_ARGUMENT, "model is null");
    const mmrt::Model& m = *model->model;
    if (any_null(reinterpret_cast<const void* const*>(inputs), m.inputs().size()) ||
        any_null(reinterpret_cast<const void* const*>(outputs), m.outputs().size()))
        return fail(MMRT_BAD_ARGUMENT, "an input or output is null");
    return guarded([&] {
        infer(*model->model);
        return int(MMRT_OK);
    });
}

int run(mmrt_model* model, const float* const* inputs, float* const* outputs) {
    return run(model, inputs, outputs, [&](mmrt::Model& m) { m.run(inputs, outputs); });
}

std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\') out += '\\';
        out += static_cast<unsigned char>(c) < 32 ? ' ' : c;
    }
    return out + "\"";
}

std::string profile_json(const mmrt::Model& model) {
    std::string text = "[";
    const auto& steps = model.steps();
    for (size_t i = 0; i < steps.size(); ++i) {
        char numbers[240];
        std::snprintf(numbers, sizeof numbers,
                      ", \"seconds\": %.9f, \"macs\": %.0f, \"needed_macs\": %.0f, \"done_macs\": %.0f, \"sparse_below\": %g, \"cost\": %g}",
                      model.seconds()[i], steps[i].macs, steps[i].needed_macs, steps[i].done_macs, steps[i].sparse_below, steps[i].cost);
        text += (i ? ", " : "") + std::string("{\"name\": ") + quoted(steps[i].name) + ", \"op\": " + quoted(steps[i].op) +
                ", \"kernel\": " + quoted(steps[i].kernel) + numbers;
    }
    text += "]";
    return text;
}

}  // namespace

extern "C" {

int mmrt_load(const char* path, int threads, mmrt_model** model) {
    if (!path) return fail(MMRT_BAD_ARGUMENT, "path is null");
    return load(threads, model, [&] { return mmrt::load_file(path, threads); });
}

int mmrt_load_memory(const void* data, size_t bytes, int threads, mmrt_model** model) {
    if (!data) return fail(MMRT_BAD_ARGUMENT, "data is null");
    return load(threads, model, [&] {
        const std::shared_ptr<const uint8_t> lent(static_cast<const uint8_t*>(data), [](const uint8_t*) {});  // only until this returns
        auto made = std::make_unique<mmrt::Model>(mmrt::Bytes(lent, int64_t(bytes)), threads);
        if (lent.use_count() > 1) throw std::logic_error("a step keeps a part of the file, which is the caller's");
        return made;
    });
}

void mmrt_free(mmrt_model* model) { delete model; }

int mmrt_input_count(const mmrt_model* model) { return int(inputs(model).size()); }
int mmrt_output_count(const mmrt_model* model) { return int(outputs(model).size()); }

const char* mmrt_input_name(const mmrt_model* model, int index) {
    const mmrt::Port* found = port(inputs(model), index);
    return found ? found->name.c_str() : nullptr;
}

const char* mmrt_output_name(const mmrt_model* model, int index) {
    const mmrt::Port* found = port(outputs(model), index);
    return found ? found->name.c_str() : nullptr;
}

int mmrt_input_shape(const mmrt_model* model, int index, int64_t dims[8]) { return shape(port(inputs(model), index), dims); }
int mmrt_output_shape(const mmrt_model* model, int index, int64_t dims[8]) { return shape(port(outputs(model), index), dims); }

int mmrt_run(mmrt_model* model, const float* const* inputs, float* const* outputs) { return run(model, inputs, outputs); }

int mmrt_run_batch(mmrt_model* model, int64_t count, const float* const* inputs, float* const* outputs) {
    if (count < 0) return fail(MMRT_BAD_ARGUMENT, "count must be 0 or more, not " + std::to_string(count));
    return run(model, inputs, outputs, [&](mmrt::Model& m) { m.run_batch(count, inputs, outputs); });
}

int64_t mmrt_profile(mmrt_model* model, const float* const* inputs, float* const* outputs, char* json, size_t bytes) {
    if (!model) return fail(MMRT_BAD_ARGUMENT, "model is null");
    model->model->time_steps(true);
    const int code = run(model, inputs, outputs);
    model->model->time_steps(false);
    if (code) return code;
    try {
        const std::string text = profile_json(*model->model);
        if (json && bytes) std::snprintf(json, bytes, "%s", text.c_str());
        return int64_t(text.size() + 1);
    } catch (const std::bad_alloc&) {
        return fail(MMRT_NO_MEMORY, "not enough memory for the profile");
    }
}

const char* mmrt_version(void) { return VERSION; }

const char* mmrt_kernels(const mmrt_model* model) {
    if (model) return model->model->kernels().name;
    static const std::string all = [] {
        int count = 0;
        const mmrt::Kernels* const* sets = mmrt::all_kernels(&count);
        std::string out;
        for (int i = 0; i < count; ++i) out += (i ? "," : "") + std::string(sets[i]->name);
        return out;
    }();
    return all.c_str();
}

const char* mmrt_last_error(void) { return last_error.c_str(); }

}  // extern "C"
