// Q3_K: 256 weights in 16 sub-blocks of 16, weight = (d * (scale - 32)) * (q - 4).
//
//   bytes 0..31    qh      third bit of the codes; weight 32 k + j is bit k of byte j
//   bytes 32..95   ql      2 bits; weight 128 h + 32 s + j is bits 2s, 2s+1 of byte 32 h + j
//   bytes 96..107  scales  bits 0..3: low nibble of byte i (i < 8), or high nibble of byte i - 8;
//                          bits 4..5: bits 2 (i / 4), 2 (i / 4) + 1 of byte 8 + i % 4
//   bytes 108..109 d       float16
#include "layout_of.h"

namespace KERNELS {

struct BlockQ3_K {
    uint8_t qh[32];
    uint8_t ql[64];
    uint8_t scales[12];
    uint8_t d[2];
};
static_assert(sizeof(BlockQ3_K) == 110);

struct Q3_K {
    static constexpr int BLOCK = 256, BYTES = sizeof(BlockQ3_K), SUB = 16, CENTER = 4;
    static constexpr int BITS = 3;
    static constexpr Form FORM = SYMMETRIC;

    // Each 32 more than its scale, four in each word.
    static INLINE void numbers(const BlockQ3_K* block, uint32_t* stored) {
        uint32_t words[3];
        memcpy(words, block->scales, sizeof words);
        for (int i = 0; i < 4; i++) {
            const uint32_t low = (i < 2 ? words[i] : words[i - 2] >> 4) & 0x0f0f0f0f;
            stored[i] = low | (words[2] >> (2 * i) & 0x03030303) << 4;
        }
    }

    static INLINE void scales(const uint8_t* bytes, float* scale, float*) {
        const BlockQ3_K* block = (const BlockQ3_K*)bytes;
        uint32_t stored[4];
        numbers(block, stored);
        const Floats<8> d = repeat_half<8>(block->d), center = repeat<8>(-32.0f),
                        one = repeat<8>(1.0f);
        for (int sub = 0; sub < 16; sub += 8) {
            const Floats<8> scales = floats_of_bytes((const uint8_t*)stored + sub);
            store(scale + sub, d * fused(scales, one, center));
        }
    }

    static INLINE float factors(const uint8_t* bytes, int16_t* factor) {
        const BlockQ3_K* block = (const BlockQ3_K*)bytes;
        uint32_t stored[4];
        numbers(block, stored);
        for (int sub = 0; sub < 16; sub++) {
            factor[sub] = (int16_t)(((const uint8_t*)stored)[sub] - 32);
        }
        return load_half(block->d);
    }

    static INLINE Bytes<32> codes(const uint8_t* bytes, int index) {
        const BlockQ3_K* block = (const BlockQ3_K*)bytes;
        const Bytes<32> low = shift_right(load<32>(block->ql + index / 4 * 32), index % 4 * 2) & 3;
        const Bytes<32> qh = load<32>(block->qh);
        const Bytes<32> high = index < 2 ? shift_left(qh, 2 - index) : shift_right(qh, index - 2);
        return low | (high & 4);
    }
};

extern const Layout q3_k;
const Layout q3_k = layout_of<Q3_K>("Q3_K");

}  // namespace KERNELS
