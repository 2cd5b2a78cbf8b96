// A loaded model: its steps, its arena, its threads.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "file/plan.h"
#include "kernels.h"
#include "threads.h"

namespace mmrt {

// What mmrt_run refuses to compute with: the message names the input and the element, or the operation.
struct NotFinite : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Model {
  public:
    Model(const Bytes& file, int threads);
    void run(const float* const* inputs, float* const* outputs);
    // `count` runs, one after the other, on what lies one after the other in each array: as many calls of run, bit for bit.
    void run_batch(int64_t count, const float* const* inputs, float* const* outputs);

    const Kernels& kernels() const { return kernels_; }
    const std::vector<Port>& inputs() const { return plan_.inputs; }
    const std::vector<Port>& outputs() const { return plan_.outputs; }
    const std::vector<Step>& steps() const { return steps_; }
    const std::vector<double>& seconds() const { return seconds_; }  // of each step in the last run
    void time_steps(bool on) { timed_ = on; }

  private:
    struct Unmap {
        size_t bytes;
        void operator()(void* p) const;
    };
    bool all_finite(const float* const* inputs) const;

    const Kernels& kernels_;
    Plan plan_;
    std::vector<Step> steps_;
    std::vector<double> seconds_;
    bool timed_ = false;
    bool finite_only_ = false;  // some operation makes integers of floats, and integers cannot say NaN
    std::unique_ptr<void, Unmap> memory_;
    float* arena_ = nullptr;
    Threads threads_;
};

std::unique_ptr<Model> load_file(const std::string& path, int threads);

}  // namespace mmrt
