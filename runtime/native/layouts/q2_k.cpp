// Q2_K: 256 weights in 16 sub-blocks of 16, weight = (d * scale) * q - (dmin * min).
//
//   bytes 0..15   scales  low nibble: scale, high nibble: min of sub-block i
//   bytes 16..79  q       2 bits; weight 128 h + 32 s + j is bits 2s, 2s+1 of byte 32 h + j
//   bytes 80..81  d       float16
//   bytes 82..83  dmin    float16
#include "layout_of.h"

namespace KERNELS {

struct BlockQ2_K {
    uint8_t scales[16];
    uint8_t q[64];
    uint8_t d[2];
    uint8_t dmin[2];
};
static_assert(sizeof(BlockQ2_K) == 84);

struct Q2_K {
    static constexpr int BLOCK = 256, BYTES = sizeof(BlockQ2_K), SUB = 16, CENTER = 0;
    static constexpr int BITS = 2;
    static constexpr Form FORM = AFFINE;

    static INLINE void scales(const uint8_t* bytes, float* scale, float* offset) {
        const BlockQ2_K* block = (const BlockQ2_K*)bytes;
        const Floats<8> d = repeat_half<8>(block->d), dmin = repeat_half<8>(block->dmin);
        const Bytes<16> both = load<16>(block->scales);
        uint8_t stored[16], mins[16];
        const Bytes<16> low = both & 15, high = both >> 4;
        store(stored, low);
        store(mins, high);
        for (int sub = 0; sub < 16; sub += 8) {
            store(scale + sub, d * floats_of_bytes(stored + sub));
            store(offset + sub, -(dmin * floats_of_bytes(mins + sub)));
        }
    }

    static INLINE float factors(const uint8_t* bytes, int16_t* factor) {
        const BlockQ2_K* block = (const BlockQ2_K*)bytes;
        for (int sub = 0; sub < 16; sub++) factor[sub] = block->scales[sub] & 15;
        return load_half(block->d);
    }

    static INLINE Bytes<32> codes(const uint8_t* bytes, int index) {
        const BlockQ2_K* block = (const BlockQ2_K*)bytes;
        return shift_right(load<32>(block->q + index / 4 * 32), index % 4 * 2) & 3;
    }
};

extern const Layout q2_k;
const Layout q2_k = layout_of<Q2_K>("Q2_K");

}  // namespace KERNELS
