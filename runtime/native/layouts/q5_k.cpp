// Q5_K: 256 weights in 8 sub-blocks of 32, weight = (d * scale) * q - (dmin * min).
//
//   bytes 0..1     d       float16
//   bytes 2..3     dmin    float16
//   bytes 4..15    scales  see k_scales.h
//   bytes 16..47   qh      fifth bit of the codes; weight 32 k + j is bit k of byte j
//   bytes 48..175  ql      byte 32 c + j: low nibble weight 64 c + j, high one weight 64 c + 32 + j
#include "k_scales.h"
#include "layouts.h"
#include "numbers.h"
#include "vectors.h"

namespace KERNELS {

struct BlockQ5_K {
    uint8_t d[2];
    uint8_t dmin[2];
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t ql[128];
};
static_assert(sizeof(BlockQ5_K) == 176);

void decode_q5_k(const uint8_t* row, int cols, float* out) {
    const BlockQ5_K* block = (const BlockQ5_K*)row;
    for (int start = 0; start < cols; start += 256, block++) {
        const float d = load_half(block->d), dmin = load_half(block->dmin);
        for (int sub = 0; sub < 8; sub++) {
            const ScaleMin stored = scale_min_of(block->scales, sub);
            const float scale = d * stored.scale, min = dmin * stored.min;
            for (int half = 0; half < 32; half += 16) {
                const Bytes both = load_bytes(block->ql + sub / 2 * 32 + half);
                const Bytes low = sub % 2 ? both >> 4 : both & 15;
                const Bytes high = (load_bytes(block->qh + half) >> sub & 1) << 4;
                write_affine(low | high, scale, -min, out + start + 32 * sub + half);
            }
        }
    }
}

}  // namespace KERNELS
