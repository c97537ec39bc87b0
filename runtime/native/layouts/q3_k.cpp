// Q3_K: 256 weights in 16 sub-blocks of 16, weight = (d * (scale - 32)) * (q - 4).
//
//   bytes 0..31    qh      third bit of the codes; weight 32 k + j is bit k of byte j
//   bytes 32..95   ql      2 bits; weight 128 h + 32 s + j is bits 2s, 2s+1 of byte 32 h + j
//   bytes 96..107  scales  bits 0..3: low nibble of byte i (i < 8), or high nibble of byte i - 8;
//                          bits 4..5: bits 2 (i / 4), 2 (i / 4) + 1 of byte 8 + i % 4
//   bytes 108..109 d       float16
#include "layouts.h"
#include "numbers.h"
#include "vectors.h"

namespace KERNELS {

struct BlockQ3_K {
    uint8_t qh[32];
    uint8_t ql[64];
    uint8_t scales[12];
    uint8_t d[2];
};
static_assert(sizeof(BlockQ3_K) == 110);

static int scale_of(const uint8_t* scales, int sub) {
    const int low = sub < 8 ? scales[sub] & 15 : scales[sub - 8] >> 4;
    const int high = scales[8 + sub % 4] >> (sub / 4 * 2) & 3;
    return (low | high << 4) - 32;
}

void decode_q3_k(const uint8_t* row, int cols, float* out) {
    const BlockQ3_K* block = (const BlockQ3_K*)row;
    for (int start = 0; start < cols; start += 256, block++) {
        const float d = load_half(block->d);
        for (int sub = 0; sub < 16; sub++) {
            const float scale = d * (float)scale_of(block->scales, sub);
            const Bytes ql = load_bytes(block->ql + sub / 8 * 32 + sub % 2 * 16);
            const Bytes qh = load_bytes(block->qh + sub % 2 * 16);
            const Bytes low = ql >> (sub / 2 % 4 * 2) & 3;
            const Bytes high = (qh >> (sub / 2) & 1) << 2;
            write_scaled((Codes)(low | high) - 4, scale, out + start + 16 * sub);
        }
    }
}

}  // namespace KERNELS
