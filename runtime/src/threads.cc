#include "threads.h"

#include <stdexcept>
#include <string>
#include <system_error>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mmrt {
namespace {

constexpr int SPINS = 20000;  // some 100 microseconds: longer than the gap between two steps, shorter than anyone notices
constexpr int MOST = 256;

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

Threads::Threads(int count) {
    if (count < 1 || count > MOST) throw std::runtime_error("threads must be 1 to 256, not " + std::to_string(count));
    try {
        for (int i = 1; i < count; ++i) workers_.emplace_back([this] { serve(); });
    } catch (const std::system_error& err) {  // threads that did start must end before the vector goes
        const size_t started = workers_.size() + 1;
        stop();
        throw std::runtime_error("only " + std::to_string(started) + " of " + std::to_string(count) + " threads can be started: " + err.what());
    }
}

Threads::~Threads() { stop(); }

void Threads::stop() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
        ++generation_;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
}

void Threads::take(uint64_t generation) {
    const uint64_t tag = generation << 32;
    uint64_t next = left_.load(std::memory_order_acquire);
    while ((next >> 32 << 32) == tag && (next & 0xFFFFFFFF) != 0) {
        if (!left_.compare_exchange_weak(next, next - 1, std::memory_order_acq_rel)) continue;
        (*work_)(int(next & 0xFFFFFFFF) - 1);
        done_.fetch_add(1, std::memory_order_acq_rel);
        next = left_.load(std::memory_order_acquire);
    }
}

void Threads::run(int items, const std::function<void(int)>& work) {
    if (workers_.empty() || items == 1) {
        for (int i = 0; i < items; ++i) work(i);
        return;
    }
    uint64_t generation;
    {
        std::lock_guard<std::mutex> lock(mutex_);
        work_ = &work;
        done_.store(0, std::memory_order_relaxed);
        generation = (generation_.load() + 1) & 0xFFFFFFFF;
        left_.store(generation << 32 | uint64_t(items), std::memory_order_release);
        generation_.store(generation, std::memory_order_release);
    }
    wake_.notify_all();
    take(generation);
    for (int i = 0; done_.load(std::memory_order_acquire) < items; ++i) {
        if (i < SPINS) pause();
        else std::this_thread::yield();  // the last items' threads may be waiting for this very core
    }
}

void Threads::serve() {
    uint64_t seen = 0;
    for (;;) {
        for (int i = 0; i < SPINS && generation_.load(std::memory_order_acquire) == seen; ++i) pause();
        if (generation_.load(std::memory_order_acquire) == seen) {
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [&] { return generation_.load() != seen; });
        }
        seen = generation_.load(std::memory_order_acquire);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            if (stop_) return;
        }
        take(seen);
    }
}

}  // namespace mmrt
