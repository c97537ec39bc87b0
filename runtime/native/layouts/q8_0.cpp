// Q8_0: 32 weights, weight = d * q.
//
//   bytes 0..1   d  float16
//   bytes 2..33  q  int8, weights 0..31
#include "layouts.h"
#include "numbers.h"

namespace KERNELS {

struct BlockQ8_0 {
    uint8_t d[2];
    int8_t q[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

void decode_q8_0(const uint8_t* __restrict row, int cols, float* __restrict out) {
    const BlockQ8_0* blocks = (const BlockQ8_0*)row;
    for (int start = 0; start < cols; start += 32, blocks++) {
        const float d = load_half(blocks->d);
        for (int i = 0; i < 32; i++) out[start + i] = d * (float)blocks->q[i];
    }
}

}  // namespace KERNELS
