// The packers of this instruction set.
#pragma once

#include "pack.h"

namespace KERNELS {

extern const Packer PACKERS[];
extern const int PACKER_COUNT;

}  // namespace KERNELS
