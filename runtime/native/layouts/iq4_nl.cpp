// IQ4_NL: 32 weights, weight = d * IQ4_POINTS[q].
//
//   bytes 0..1   d  float16
//   bytes 2..17  q  low nibbles: weights 0..15, high nibbles: weights 16..31
#include "iq4_points.h"
#include "layouts.h"
#include "numbers.h"
#include "vectors.h"

namespace KERNELS {

struct BlockIQ4_NL {
    uint8_t d[2];
    uint8_t q[16];
};
static_assert(sizeof(BlockIQ4_NL) == 18);

void decode_iq4_nl(const uint8_t* row, int cols, float* out) {
    const BlockIQ4_NL* block = (const BlockIQ4_NL*)row;
    for (int start = 0; start < cols; start += 32, block++) {
        const float d = load_half(block->d);
        const Bytes q = load_bytes(block->q);
        write_scaled(look_up(IQ4_POINTS, q & 15), d, out + start);
        write_scaled(look_up(IQ4_POINTS, q >> 4), d, out + start + 16);
    }
}

}  // namespace KERNELS
