// runtime._native.Rounder: the scale search of one block layout, and rounding with it.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "kernels.h"

void bind_rounder(nanobind::module_& m);

// The instruction set in use.
const Kernels& chosen_kernels();

// Raise EdgequantError.
[[noreturn]] void refuse(const std::string& sentence);
