// The packers of this instruction set.
#pragma once

#include "pack.h"

namespace KERNELS {

constexpr int PACKER_COUNT = 48;
extern const Packer PACKERS[PACKER_COUNT];

}  // namespace KERNELS
