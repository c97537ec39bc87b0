// runtime._native.Rounder: the scale search of one block layout, and rounding with it.
#pragma once

#include "module.h"

void bind_rounder(nanobind::module_& m);
