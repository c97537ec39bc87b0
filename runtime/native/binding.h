// What the files that bind C++ to Python share.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>

#include "kernels.h"

using Packed =
    nanobind::ndarray<const uint8_t, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;

// Raise an error of runtime/errors.py.
[[noreturn]] void refuse(const std::string& sentence, const char* error_class = "InputError");

// The instruction set in use.
const Kernels& chosen_kernels();

// Use the instruction set called `name` from now on.
void choose_kernels(const std::string& name);

// The layout called `name`, after checking that `data` holds rows of `cols` weights of it.
const Layout& check_rows(const std::string& name, const Packed& data, int cols);
