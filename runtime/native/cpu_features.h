// The instruction sets of the processor that this runs on.
#pragma once

#include <vector>

#include "kernels.h"

// Simplest first; the last is the fastest.
std::vector<const Kernels*> available_kernels();
