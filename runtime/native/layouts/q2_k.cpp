// Q2_K: 256 weights in 16 sub-blocks of 16, weight = (d * scale) * q - (dmin * min).
//
//   bytes 0..15   scales  low nibble: scale, high nibble: min of sub-block i
//   bytes 16..79  q       2 bits; weight 128 h + 32 s + j is bits 2s, 2s+1 of byte 32 h + j
//   bytes 80..81  d       float16
//   bytes 82..83  dmin    float16
#include "layouts.h"
#include "numbers.h"
#include "vectors.h"

namespace KERNELS {

struct BlockQ2_K {
    uint8_t scales[16];
    uint8_t q[64];
    uint8_t d[2];
    uint8_t dmin[2];
};
static_assert(sizeof(BlockQ2_K) == 84);

void decode_q2_k(const uint8_t* row, int cols, float* out) {
    const BlockQ2_K* block = (const BlockQ2_K*)row;
    for (int start = 0; start < cols; start += 256, block++) {
        const float d = load_half(block->d), dmin = load_half(block->dmin);
        for (int sub = 0; sub < 16; sub++) {
            const float scale = d * (float)(block->scales[sub] & 15);
            const float min = dmin * (float)(block->scales[sub] >> 4);
            const Bytes q = load_bytes(block->q + sub / 8 * 32 + sub % 2 * 16);
            const int shift = sub / 2 % 4 * 2;
            write_affine((q >> shift) & 3, scale, -min, out + start + 16 * sub);
        }
    }
}

}  // namespace KERNELS
