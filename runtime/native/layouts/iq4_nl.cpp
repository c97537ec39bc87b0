// IQ4_NL: 32 weights, weight = d * IQ4_POINTS[q].
//
//   bytes 0..1   d  float16
//   bytes 2..17  q  low nibbles: weights 0..15, high nibbles: weights 16..31
#include "iq4_points.h"
#include "layout_of.h"

namespace KERNELS {

struct BlockIQ4_NL {
    uint8_t d[2];
    uint8_t q[16];
};
static_assert(sizeof(BlockIQ4_NL) == 18);

struct IQ4_NL : Symmetric32 {
    static constexpr int BYTES = sizeof(BlockIQ4_NL), BITS = 8, CENTER = 0;

    static INLINE Bytes<32> codes(const uint8_t* bytes, int) {
        const BlockIQ4_NL* block = (const BlockIQ4_NL*)bytes;
        return look_up(IQ4_POINTS, split_nibbles(block->q));
    }
};

extern const Layout iq4_nl;
const Layout iq4_nl = layout_of<IQ4_NL>("IQ4_NL");

}  // namespace KERNELS
