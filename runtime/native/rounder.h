// runtime._native.Rounder: the scale search of one block layout, and rounding with it.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>

#include "kernels.h"

void bind_rounder(nanobind::module_& m);

// The instruction set in use.
const Kernels& chosen_kernels();

// The layout called `name`, after checking that `data` holds rows of `cols` weights of it.
const Layout& check_rows(
    const std::string& name,
    const nanobind::ndarray<const uint8_t, nanobind::ndim<2>, nanobind::c_contig,
                            nanobind::device::cpu>& data,
    int cols);

// Raise EdgequantError.
[[noreturn]] void refuse(const std::string& sentence);
