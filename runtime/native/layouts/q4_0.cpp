// Q4_0: 32 weights, weight = d * (q - 8).
//
//   bytes 0..1   d  float16
//   bytes 2..17  q  low nibbles: weights 0..15, high nibbles: weights 16..31
#include "layouts.h"
#include "numbers.h"
#include "vectors.h"

namespace KERNELS {

struct BlockQ4_0 {
    uint8_t d[2];
    uint8_t q[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

void decode_q4_0(const uint8_t* row, int cols, float* out) {
    const BlockQ4_0* block = (const BlockQ4_0*)row;
    for (int start = 0; start < cols; start += 32, block++) {
        const float d = load_half(block->d);
        const Bytes q = load_bytes(block->q);
        write_scaled((Codes)(q & 15) - 8, d, out + start);
        write_scaled((Codes)(q >> 4) - 8, d, out + start + 16);
    }
}

}  // namespace KERNELS
