// Q8_0: 32 weights, weight = d * q.
//
//   bytes 0..1   d  float16
//   bytes 2..33  q  int8, weights 0..31
#include "layout_of.h"

namespace KERNELS {

struct BlockQ8_0 {
    uint8_t d[2];
    uint8_t q[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

struct Q8_0 : Symmetric32 {
    static constexpr int BYTES = sizeof(BlockQ8_0), BITS = 8, CENTER = 0;

    static INLINE Bytes<32> codes(const uint8_t* bytes, int) {
        const BlockQ8_0* block = (const BlockQ8_0*)bytes;
        return load<32>(block->q);
    }
};

extern const Layout q8_0;
const Layout q8_0 = layout_of<Q8_0>("Q8_0");

}  // namespace KERNELS
