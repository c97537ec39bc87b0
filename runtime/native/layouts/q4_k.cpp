// Q4_K: 256 weights in 8 sub-blocks of 32, weight = (d * scale) * q - (dmin * min).
//
//   bytes 0..15    scales  see k_scales.h
//   bytes 16..143  q       byte 32 c + j: low nibble weight 64 c + j, high one weight 64 c + 32 + j
#include "k_scales.h"
#include "layout_of.h"

namespace KERNELS {

struct BlockQ4_K {
    uint8_t scales[16];
    uint8_t q[128];
};
static_assert(sizeof(BlockQ4_K) == 144);

struct Q4_K : AffineSuper {
    static constexpr int BYTES = sizeof(BlockQ4_K), BITS = 4;

    static INLINE Bytes<32> codes(const uint8_t* bytes, int index) {
        const BlockQ4_K* block = (const BlockQ4_K*)bytes;
        const Bytes<32> both = load<32>(block->q + index / 2 * 32);
        return (index % 2 ? shift_right(both, 4) : both) & 15;
    }
};

extern const Layout q4_k;
const Layout q4_k = layout_of<Q4_K>("Q4_K");

}  // namespace KERNELS
