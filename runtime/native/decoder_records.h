// The records of a decoder as Python has them, read into those of decoder.h.
#pragma once

#include <string>
#include <vector>

#include "binding.h"
#include "decoder.h"

using Vector =
    nanobind::ndarray<const float, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

using Order =
    nanobind::ndarray<const int32_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

// What keeps the memory of weights alive.
struct Held {
    std::vector<Packed> matrices;
    std::vector<Vector> vectors;
    std::vector<Order> orders;
};

// Read every weight, and the sizes of the heads into `sizes`; see Decoder in decoder_module.cpp.
// Raises EdgequantError for a weight that is missing or of another size.
DecoderWeights read_weights(const nanobind::dict& named, const std::string& head,
                            nanobind::handle output_norm, const nanobind::list& layers,
                            DecoderSizes& sizes, Held& held);
