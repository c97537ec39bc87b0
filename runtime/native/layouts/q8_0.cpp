// Q8_0: 32 weights, weight = d * q.
//
//   bytes 0..1   d  float16
//   bytes 2..33  q  int8, weights 0..31
#include "product.h"

namespace KERNELS {

struct BlockQ8_0 {
    uint8_t d[2];
    int8_t q[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

struct Q8_0 {
    static constexpr int BLOCK = 32, BYTES = sizeof(BlockQ8_0), SUB = 32, CENTER = 0;
    static constexpr int BITS = 8;
    static constexpr Form FORM = CENTERED;

    static INLINE void scales(const uint8_t* bytes, float* scale, float*) {
        const BlockQ8_0* block = (const BlockQ8_0*)bytes;
        store8(scale, half8(block->d));
    }

    static INLINE Bytes32 codes(const uint8_t* bytes, int) {
        const BlockQ8_0* block = (const BlockQ8_0*)bytes;
        return load32(block->q);
    }
};

extern const Layout q8_0;
const Layout q8_0 = layout_of<Q8_0>("Q8_0");

}  // namespace KERNELS
