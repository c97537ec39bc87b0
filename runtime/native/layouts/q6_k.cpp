// Q6_K: 256 weights in 16 sub-blocks of 16, weight = (d * scale) * (q - 32).
//
//   bytes 0..127    ql      bits 0..3 of q: byte 64 h + 32 (k % 2) + j, low nibble for k < 2
//   bytes 128..191  qh      bits 4..5 of q: bits 2k, 2k + 1 of byte 32 h + j
//   bytes 192..207  scales  int8
//   bytes 208..209  d       float16
//
// of weight 128 h + 32 k + j.
#include "layouts.h"
#include "numbers.h"
#include "vectors.h"

namespace KERNELS {

struct BlockQ6_K {
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scales[16];
    uint8_t d[2];
};
static_assert(sizeof(BlockQ6_K) == 210);

void decode_q6_k(const uint8_t* row, int cols, float* out) {
    const BlockQ6_K* block = (const BlockQ6_K*)row;
    for (int start = 0; start < cols; start += 256, block++) {
        const float d = load_half(block->d);
        for (int sub = 0; sub < 16; sub++) {
            const float scale = d * (float)block->scales[sub];
            const int h = sub / 8, k = sub / 2 % 4, j = sub % 2 * 16;
            const Bytes ql = load_bytes(block->ql + 64 * h + 32 * (k % 2) + j);
            const Bytes qh = load_bytes(block->qh + 32 * h + j);
            const Bytes low = k < 2 ? ql & 15 : ql >> 4;
            const Bytes high = (qh >> (2 * k) & 3) << 4;
            write_scaled((Codes)(low | high) - 32, scale, out + start + 16 * sub);
        }
    }
}

}  // namespace KERNELS
