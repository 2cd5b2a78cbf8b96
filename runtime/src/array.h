// Constants that cannot be read once they are gone.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

namespace mmrt {

// Elements that nobody changes. Copies and parts of an array share its memory, which lives as long as any of them: numbers that were
// given to it, or a mapped file.
template <class T>
class Array {
  public:
    Array() = default;
    Array(std::vector<T> values) : size_(int64_t(values.size())) {
        auto owner = std::make_shared<const std::vector<T>>(std::move(values));
        first_ = {owner, owner->data()};
    }
    Array(std::shared_ptr<const T> first, int64_t size) : first_(std::move(first)), size_(size) {}

    const T* data() const { return first_.get(); }
    const T* begin() const { return data(); }
    const T* end() const { return data() + size_; }
    const T& operator[](int64_t i) const { return data()[i]; }
    int64_t size() const { return size_; }
    bool empty() const { return size_ == 0; }

    template <class U = T>
    Array<U> part(int64_t begin, int64_t size) const {
        static_assert(sizeof(T) == 1 && sizeof(U) == 1, "only bytes may be seen as elements of another type");
        if (begin < 0 || size < 0 || begin > size_ - size) throw std::out_of_range("a part that lies outside its array");
        return {std::shared_ptr<const U>(first_, reinterpret_cast<const U*>(data() + begin)), size};
    }

  private:
    std::shared_ptr<const T> first_;
    int64_t size_ = 0;
};

using Bytes = Array<uint8_t>;

}  // namespace mmrt
