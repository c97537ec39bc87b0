// Keys and values of the tokens so far.
//
// Both lie in strips STRIP wide, one after the other for each layer, sequence and key-value head,
// so that attention reads memory in order and multiplies both with the same code
// (ops/attention_kernels.cpp):
//
//   keys    [tokens / STRIP][channels][STRIP tokens]
//   values  [channels / STRIP][tokens][STRIP channels]
//
// Elements are float16 or float32; tokens and the channels of values are padded with zeros to whole
// strips. A layer that keeps fewer tokens than the cache holds keeps the newest: each takes the
// place of the one that came so many before it. Memory comes from the system, in large pages where
// it has them, when it is written for the first time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels.h"

struct CacheSizes {
    int batch, kv_heads, head_dim;
    int capacity;           // tokens of each sequence
    bool halves;            // float16, else float32
    std::vector<int> kept;  // tokens that each layer keeps: see tokens_kept in attention.h
};

class Cache {
  public:
    // Throws std::bad_alloc when there is no room.
    explicit Cache(const CacheSizes& wanted);

    // Bytes that a cache of these sizes takes when it is full.
    static size_t bytes(const CacheSizes& sizes);

    // Keep the key and the value, each (kv_heads, head_dim), of one token.
    void store(const Ops& ops, int layer, int sequence, int position, const float* key,
               const float* value);

    // Tokens position.. of a head's keys, up to the end of the strip; `position` is a multiple of
    // STRIP.
    const uint8_t* keys(int layer, int sequence, int head, int position) const;

    // Tokens position.. of a head's channels strip * STRIP.., up to a multiple of what the layer
    // keeps.
    const uint8_t* values(int layer, int sequence, int head, int strip, int position) const;

    const CacheSizes sizes;
    int length = 0;

  private:
    // Of a head's first token, among the tokens of all layers, sequences and heads.
    size_t first_slot(int layer, int sequence, int head) const;

    struct Unmap {
        size_t bytes;
        void operator()(uint8_t* memory) const;
    };
    using Memory = std::unique_ptr<uint8_t, Unmap>;
    static Memory zeros(size_t bytes);

    const std::vector<size_t> layer_slots;  // where each layer starts among them
    const Memory all_keys, all_values;
};

inline int whole_strips(int count) { return (count + STRIP - 1) / STRIP; }
