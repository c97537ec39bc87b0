// Q5_0: 32 weights, weight = d * (q - 16).
//
//   bytes 0..1   d   float16
//   bytes 2..5   qh  bit i: fifth bit of weight i, lowest bit first
//   bytes 6..21  ql  low nibbles: weights 0..15, high nibbles: weights 16..31
#include "layouts.h"
#include "numbers.h"
#include "vectors.h"

namespace KERNELS {

struct BlockQ5_0 {
    uint8_t d[2];
    uint8_t qh[4];
    uint8_t ql[16];
};
static_assert(sizeof(BlockQ5_0) == 22);

void decode_q5_0(const uint8_t* row, int cols, float* out) {
    const BlockQ5_0* block = (const BlockQ5_0*)row;
    for (int start = 0; start < cols; start += 32, block++) {
        const float d = load_half(block->d);
        const Bytes ql = load_bytes(block->ql);
        const Bytes first = (ql & 15) | spread_bits(block->qh) << 4;
        const Bytes second = (ql >> 4) | spread_bits(block->qh + 2) << 4;
        write_scaled((Codes)first - 16, d, out + start);
        write_scaled((Codes)second - 16, d, out + start + 16);
    }
}

}  // namespace KERNELS
