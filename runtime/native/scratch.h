// Memory that a thread keeps for its next product, so that a product allocates nothing.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

class Scratch {
  public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { free(memory); }

    // At least `bytes` bytes, aligned to 64; what they held before is lost.
    void* take(size_t bytes) {
        if (bytes > size) {
            free(memory);
            size = (bytes + 63) / 64 * 64;
            memory = std::aligned_alloc(64, size);
            if (memory == nullptr) throw std::bad_alloc();
        }
        return memory;
    }

  private:
    void* memory = nullptr;
    size_t size = 0;
};
