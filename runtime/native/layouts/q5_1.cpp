// Q5_1: 32 weights, weight = d * q + m.
//
//   bytes 0..1   d   float16
//   bytes 2..3   m   float16
//   bytes 4..7   qh  bit i: fifth bit of weight i, lowest bit first
//   bytes 8..23  ql  low nibbles: weights 0..15, high nibbles: weights 16..31
#include "layouts.h"
#include "numbers.h"
#include "vectors.h"

namespace KERNELS {

struct BlockQ5_1 {
    uint8_t d[2];
    uint8_t m[2];
    uint8_t qh[4];
    uint8_t ql[16];
};
static_assert(sizeof(BlockQ5_1) == 24);

void decode_q5_1(const uint8_t* row, int cols, float* out) {
    const BlockQ5_1* block = (const BlockQ5_1*)row;
    for (int start = 0; start < cols; start += 32, block++) {
        const float d = load_half(block->d), m = load_half(block->m);
        const Bytes ql = load_bytes(block->ql);
        const Bytes first = (ql & 15) | spread_bits(block->qh) << 4;
        const Bytes second = (ql >> 4) | spread_bits(block->qh + 2) << 4;
        write_affine(first, d, m, out + start);
        write_affine(second, d, m, out + start + 16);
    }
}

}  // namespace KERNELS
