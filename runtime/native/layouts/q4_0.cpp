// Q4_0: 32 weights, weight = d * (q - 8).
//
//   bytes 0..1   d  float16
//   bytes 2..17  q  low nibbles: weights 0..15, high nibbles: weights 16..31
#include "layouts.h"
#include "numbers.h"

namespace KERNELS {

struct BlockQ4_0 {
    uint8_t d[2];
    uint8_t q[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

void decode_q4_0(const uint8_t* __restrict row, int cols, float* __restrict out) {
    const BlockQ4_0* blocks = (const BlockQ4_0*)row;
    for (int start = 0; start < cols; start += 32, blocks++) {
        const float d = load_half(blocks->d);
        for (int i = 0; i < 16; i++) {
            out[start + i] = d * (float)((blocks->q[i] & 15) - 8);
            out[start + i + 16] = d * (float)((blocks->q[i] >> 4) - 8);
        }
    }
}

}  // namespace KERNELS
