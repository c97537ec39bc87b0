#include "cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace {

size_t element_bytes(const CacheSizes& sizes) { return sizes.halves ? 2 : 4; }

// Tokens that a head of a layer has room for, in whole strips.
size_t slots(const CacheSizes& sizes, int layer) {
    return (size_t)whole_strips(sizes.kept[layer]) * STRIP;
}

// Where the tokens of each layer start, and where the last one's end.
std::vector<size_t> starts_of(const CacheSizes& sizes) {
    std::vector<size_t> starts = {0};
    for (size_t layer = 0; layer < sizes.kept.size(); layer++) {
        starts.push_back(starts.back() + slots(sizes, (int)layer) * sizes.batch * sizes.kv_heads);
    }
    return starts;
}

size_t key_bytes(const CacheSizes& sizes) { return sizes.head_dim * element_bytes(sizes); }

size_t value_bytes(const CacheSizes& sizes) {
    return whole_strips(sizes.head_dim) * STRIP * element_bytes(sizes);
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
      layer_slots(starts_of(wanted)),
      all_keys(zeros(layer_slots.back() * key_bytes(wanted))),
      all_values(zeros(layer_slots.back() * value_bytes(wanted))) {}

size_t Cache::bytes(const CacheSizes& sizes) {
    return starts_of(sizes).back() * (key_bytes(sizes) + value_bytes(sizes));
}

size_t Cache::first_slot(int layer, int sequence, int head) const {
    return layer_slots[layer] + slots(sizes, layer) * ((size_t)sequence * sizes.kv_heads + head);
}

const uint8_t* Cache::keys(int layer, int sequence, int head, int position) const {
    const size_t slot = first_slot(layer, sequence, head) + position % slots(sizes, layer);
    return all_keys.get() + slot * key_bytes(sizes);
}

const uint8_t* Cache::values(int layer, int sequence, int head, int strip, int position) const {
    const size_t row = strip * slots(sizes, layer) + position % slots(sizes, layer);
    return all_values.get() + first_slot(layer, sequence, head) * value_bytes(sizes) +
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
