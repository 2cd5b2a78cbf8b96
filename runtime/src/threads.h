// A pool of threads that share the items of one step at a time. One thread means the caller alone.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace mmrt {

class Threads {
  public:
    explicit Threads(int count);
    ~Threads();
    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;
    void run(int items, const std::function<void(int)>& work);  // returns when every item is done
    int count() const { return int(workers_.size()) + 1; }

  private:
    void serve();
    void stop();
    void take(uint64_t generation);
    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<uint64_t> generation_{0};
    std::atomic<uint64_t> left_{0};  // generation in the upper half, items left in the lower: a late thread takes none of the next step's
    std::atomic<int> done_{0};
    bool stop_ = false;
    const std::function<void(int)>* work_ = nullptr;
};

}  // namespace mmrt
