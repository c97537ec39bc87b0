#include "cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace {

size_t element_bytes(const CacheSizes& sizes) { return sizes.halves ? 2 : 4; }

// Tokens that a head has room for, in whole strips.
size_t slots(const CacheSizes& sizes) { return (size_t)whole_strips(sizes.capacity) * STRIP; }

size_t head_key_bytes(const CacheSizes& sizes) {
    return slots(sizes) * sizes.head_dim * element_bytes(sizes);
}

size_t head_value_bytes(const CacheSizes& sizes) {
    return slots(sizes) * whole_strips(sizes.head_dim) * STRIP * element_bytes(sizes);
}

size_t heads(const CacheSizes& sizes) {
    return (size_t)sizes.layers * sizes.batch * sizes.kv_heads;
}

// Channel after channel of one token into its column of a strip of keys.
template <typename Element>
void scatter(const Element* key, int channels, Element* column) {
    for (int channel = 0; channel < channels; channel++) {
        column[(size_t)channel * STRIP] = key[channel];
    }
}

}  // namespace

void Cache::Unmap::operator()(uint8_t* memory) const { munmap(memory, bytes); }

Cache::Memory Cache::zeros(size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    madvise(memory, bytes, MADV_HUGEPAGE);  // advice: a system without them goes on as before
#endif
    return Memory((uint8_t*)memory, Unmap{bytes});
}

Cache::Cache(const CacheSizes& wanted)
    : sizes(wanted),
      all_keys(zeros(heads(wanted) * head_key_bytes(wanted))),
      all_values(zeros(heads(wanted) * head_value_bytes(wanted))) {}

size_t Cache::bytes(const CacheSizes& sizes) {
    return heads(sizes) * (head_key_bytes(sizes) + head_value_bytes(sizes));
}

size_t Cache::head_index(int layer, int sequence, int head) const {
    return ((size_t)layer * sizes.batch + sequence) * sizes.kv_heads + head;
}

const uint8_t* Cache::keys(int layer, int sequence, int head, int position) const {
    return all_keys.get() + head_index(layer, sequence, head) * head_key_bytes(sizes) +
           (size_t)position * sizes.head_dim * element_bytes(sizes);
}

const uint8_t* Cache::values(int layer, int sequence, int head, int strip, int position) const {
    const size_t row = strip * slots(sizes) + position;
    return all_values.get() + head_index(layer, sequence, head) * head_value_bytes(sizes) +
           row * STRIP * element_bytes(sizes);
}

void Cache::store(const Ops& ops, int layer, int sequence, int position, const float* key,
                  const float* value) {
    const int slot = position % STRIP, width = sizes.head_dim;
    for (int head = 0; head < sizes.kv_heads; head++) {
        uint8_t* strip = const_cast<uint8_t*>(keys(layer, sequence, head, position - slot));
        for (int first = 0; first < width; first += STRIP) {
            const int count = std::min(STRIP, width - first);
            const size_t from = (size_t)head * width + first;
            uint8_t* row =
                const_cast<uint8_t*>(values(layer, sequence, head, first / STRIP, position));
            if (sizes.halves) {
                uint16_t narrow[STRIP];
                ops.to_f16(key + from, count, narrow);
                scatter(narrow, count, (uint16_t*)strip + (size_t)first * STRIP + slot);
                ops.to_f16(value + from, count, (uint16_t*)row);
            } else {
                scatter(key + from, count, (float*)strip + (size_t)first * STRIP + slot);
                memcpy(row, value + from, count * sizeof(float));
            }
        }
    }
}
