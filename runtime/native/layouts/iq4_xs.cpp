// IQ4_XS: 256 weights in 8 sub-blocks of 32, weight = (d * (scale - 32)) * IQ4_POINTS[q].
//
//   bytes 0..1    d     float16
//   bytes 2..3    high  bits 2i, 2i+1 of the uint16: bits 4..5 of scale i
//   bytes 4..7    low   low nibble of byte j: bits 0..3 of scale 2j, high nibble: of scale 2j+1
//   bytes 8..135  q     byte 16 s + j: low nibble weight 32 s + j, high one weight 32 s + 16 + j
#include "iq4_points.h"
#include "layout_of.h"

namespace KERNELS {

struct BlockIQ4_XS {
    uint8_t d[2];
    uint8_t high[2];
    uint8_t low[4];
    uint8_t q[128];
};
static_assert(sizeof(BlockIQ4_XS) == 136);

static int scale_of(const BlockIQ4_XS* block, int sub) {
    const int low = block->low[sub / 2] >> (sub % 2 * 4) & 15;
    const int high = load_u16(block->high) >> (2 * sub) & 3;
    return (low | high << 4) - 32;
}

struct IQ4_XS {
    static constexpr int BLOCK = 256, BYTES = sizeof(BlockIQ4_XS), SUB = 32, CENTER = 0;
    static constexpr int BITS = 8;
    static constexpr Form FORM = SYMMETRIC;

    static INLINE void scales(const uint8_t* bytes, float* scale, float*) {
        const BlockIQ4_XS* block = (const BlockIQ4_XS*)bytes;
        const float d = load_half(block->d);
        for (int sub = 0; sub < 8; sub++) scale[sub] = d * (float)scale_of(block, sub);
    }

    static INLINE Bytes<32> codes(const uint8_t* bytes, int index) {
        const BlockIQ4_XS* block = (const BlockIQ4_XS*)bytes;
        return look_up(IQ4_POINTS, split_nibbles(block->q + 16 * index));
    }
};

extern const Layout iq4_xs;
const Layout iq4_xs = layout_of<IQ4_XS>("IQ4_XS");

}  // namespace KERNELS
