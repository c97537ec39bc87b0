// e^x of a register.
#pragma once

#include "../simd.h"

namespace KERNELS {

// e^x to 2 units in the last place; 0 below -87.3, where float32 would turn subnormal, and NaN for
// NaN. x is split into n ln 2 and a rest within ln 2 / 2, whose exponential is Taylor's polynomial.
INLINE Floats<> exponential(Floats<> x) {
    const Floats<> least = repeat(-87.33654f), most = repeat(88.37626f);
    const Floats<> bounded = x > most ? most : x;
    const Floats<> turns = bounded * 1.44269504f;
    const Floats<> magic = repeat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    const Floats<> whole = (turns + magic) - magic;
    const Floats<> rest = (bounded - whole * 0.693359375f) - whole * -2.12194440e-4f;
    Floats<> sum = repeat(1.0f / 5040);
    sum = sum * rest + 1.0f / 720;
    sum = sum * rest + 1.0f / 120;
    sum = sum * rest + 1.0f / 24;
    sum = sum * rest + 1.0f / 6;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    const Ints<> power = ((Ints<>)(turns + magic) - (Ints<>)magic + 127) << 23;
    const Floats<> value = sum * (Floats<>)power;
    return x < least ? repeat(0.0f) : value;
}

}  // namespace KERNELS
