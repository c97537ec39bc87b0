// Q8_0: 32 weights, weight = d * q.
//
//   bytes 0..1   d  float16
//   bytes 2..33  q  int8, weights 0..31
#include "layouts.h"
#include "numbers.h"
#include "vectors.h"

namespace KERNELS {

struct BlockQ8_0 {
    uint8_t d[2];
    int8_t q[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

void decode_q8_0(const uint8_t* row, int cols, float* out) {
    const BlockQ8_0* block = (const BlockQ8_0*)row;
    for (int start = 0; start < cols; start += 32, block++) {
        const float d = load_half(block->d);
        write_scaled((Codes)load_bytes(block->q), d, out + start);
        write_scaled((Codes)load_bytes(block->q + 16), d, out + start + 16);
    }
}

}  // namespace KERNELS
