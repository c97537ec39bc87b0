// Codes and params of one block -> its bytes, as Block.pack of runtime/quant_types/*.py lays them
// out.
#pragma once

#include <cstdint>

struct Packer {
    const char* name;  // of the layout
    int bytes;         // of a packed block
    // codes: one byte each, two's complement; params: the numbers of Spec::params, all storable.
    void (*pack)(const uint8_t* codes, const float* params, uint8_t* out);
};
