// A pool of threads that share the items of one step at a time. One thread means the caller alone.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace mmrt {

// Each thread has a share of neighbouring items, the same share of every step, and takes from the others' ends when its own is done:
// what a step wrote is mostly read by the same core in the next, from its own cache.
class Threads {
  public:
    explicit Threads(int count);
    ~Threads();
    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;
    void run(int items, const std::function<void(int)>& work);  // returns when every item is done
    int count() const { return int(workers_.size()) + 1; }

  private:
    // The step's number in the upper 32 bits, so that a late thread takes nothing of the next step's; then begin and end of what is left
    struct alignas(64) Share {
        std::atomic<uint64_t> left{0};
    };

    void serve(int own);
    void start(uint64_t step);
    void stop();
    void take(int own, uint64_t step);
    static bool take_from(Share& share, uint64_t step, bool front, int* unit);
    std::vector<std::thread> workers_;
    std::unique_ptr<Share[]> shares_;
    std::mutex mutex_;
    std::condition_variable wake_;
    alignas(64) std::atomic<uint64_t> step_{0};
    alignas(64) std::atomic<int> done_{0};
    std::atomic<int> sleepers_{0};
    std::atomic<bool> stop_{false};
    int items_ = 0, grain_ = 1;  // a unit is `grain_` items: there are at most 65535 units
    const std::function<void(int)>* work_ = nullptr;
};

}  // namespace mmrt
