// Q6_K: 256 weights in 16 sub-blocks of 16, weight = (d * scale) * (q - 32).
//
//   bytes 0..127    ql      bits 0..3 of q: byte 64 h + 32 (k % 2) + j, low nibble for k < 2
//   bytes 128..191  qh      bits 4..5 of q: bits 2k, 2k + 1 of byte 32 h + j
//   bytes 192..207  scales  int8
//   bytes 208..209  d       float16
//
// of weight 128 h + 32 k + j.
#include "layout_of.h"

namespace KERNELS {

struct BlockQ6_K {
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scales[16];
    uint8_t d[2];
};
static_assert(sizeof(BlockQ6_K) == 210);

struct Q6_K {
    static constexpr int BLOCK = 256, BYTES = sizeof(BlockQ6_K), SUB = 16, CENTER = 32;
    static constexpr int BITS = 6;
    static constexpr Form FORM = SYMMETRIC;

    static INLINE void scales(const uint8_t* bytes, float* scale, float*) {
        const BlockQ6_K* block = (const BlockQ6_K*)bytes;
        const Floats<8> d = repeat_half<8>(block->d);
        store(scale, d * floats_of_bytes(block->scales));
        store(scale + 8, d * floats_of_bytes(block->scales + 8));
    }

    static INLINE float factors(const uint8_t* bytes, int16_t* factor) {
        const BlockQ6_K* block = (const BlockQ6_K*)bytes;
        for (int sub = 0; sub < 16; sub++) factor[sub] = block->scales[sub];
        return load_half(block->d);
    }

    static INLINE Bytes<32> codes(const uint8_t* bytes, int index) {
        const BlockQ6_K* block = (const BlockQ6_K*)bytes;
        const int h = index / 4, k = index % 4;
        const Bytes<32> ql = load<32>(block->ql + 64 * h + 32 * (k % 2));
        const Bytes<32> qh = load<32>(block->qh + 32 * h);
        const Bytes<32> high = k < 2 ? shift_left(qh, 4 - 2 * k) : shift_right(qh, 2 * k - 4);
        return ((k < 2 ? ql : shift_right(ql, 4)) & 15) | (high & 48);
    }
};

extern const Layout q6_k;
const Layout q6_k = layout_of<Q6_K>("Q6_K");

}  // namespace KERNELS
