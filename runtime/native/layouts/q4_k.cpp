// Q4_K: 256 weights in 8 sub-blocks of 32, weight = (d * scale) * q - (dmin * min).
//
//   bytes 0..1     d       float16
//   bytes 2..3     dmin    float16
//   bytes 4..15    scales  see k_scales.h
//   bytes 16..143  q       byte 32 c + j: low nibble weight 64 c + j, high one weight 64 c + 32 + j
#include "k_scales.h"
#include "layouts.h"
#include "numbers.h"
#include "vectors.h"

namespace KERNELS {

struct BlockQ4_K {
    uint8_t d[2];
    uint8_t dmin[2];
    uint8_t scales[12];
    uint8_t q[128];
};
static_assert(sizeof(BlockQ4_K) == 144);

void decode_q4_k(const uint8_t* row, int cols, float* out) {
    const BlockQ4_K* block = (const BlockQ4_K*)row;
    for (int start = 0; start < cols; start += 256, block++) {
        const float d = load_half(block->d), dmin = load_half(block->dmin);
        for (int sub = 0; sub < 8; sub++) {
            const ScaleMin stored = scale_min_of(block->scales, sub);
            const float scale = d * stored.scale, min = dmin * stored.min;
            for (int half = 0; half < 32; half += 16) {
                const Bytes both = load_bytes(block->q + sub / 2 * 32 + half);
                const Bytes q = sub % 2 ? both >> 4 : both & 15;
                write_affine(q, scale, -min, out + start + 32 * sub + half);
            }
        }
    }
}

}  // namespace KERNELS
