// Q4_1: 32 weights, weight = d * q + m.
//
//   bytes 0..1   d  float16
//   bytes 2..3   m  float16
//   bytes 4..19  q  low nibbles: weights 0..15, high nibbles: weights 16..31
#include "layouts.h"
#include "numbers.h"
#include "vectors.h"

namespace KERNELS {

struct BlockQ4_1 {
    uint8_t d[2];
    uint8_t m[2];
    uint8_t q[16];
};
static_assert(sizeof(BlockQ4_1) == 20);

void decode_q4_1(const uint8_t* row, int cols, float* out) {
    const BlockQ4_1* block = (const BlockQ4_1*)row;
    for (int start = 0; start < cols; start += 32, block++) {
        const float d = load_half(block->d), m = load_half(block->m);
        const Bytes q = load_bytes(block->q);
        write_affine(q & 15, d, m, out + start);
        write_affine(q >> 4, d, m, out + start + 16);
    }
}

}  // namespace KERNELS
