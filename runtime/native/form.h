// How a weight is made of its code.
#pragma once

enum Form {
    SYMMETRIC,   // weight = (code - center) * scale, with one center for all blocks
    AFFINE,      // weight = code * scale + offset
    ZERO_POINT,  // weight = (code - zero) * scale
};
