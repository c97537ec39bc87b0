// The points that codes of the IQ1, IQ2 and IQ3 types name: tables of their formats, empty until
// the first weight of such a type is read (binding.cpp), then as runtime/quant_types/codebooks.py
// has them.
#pragma once

#include <cstddef>
#include <cstdint>

extern int8_t iq2_xxs_points[256][8], iq2_xs_points[512][8], iq2_s_points[1024][8];
extern int8_t iq3_xxs_points[256][4], iq3_s_points[512][4];
extern int8_t iq1_points[2048][8];  // of IQ1_S and IQ1_M, eightfold

struct Codebook {
    const char* type_name;
    int8_t* points;
    size_t bytes;
    bool filled;
};

// Of a type; nullptr for one that has none.
Codebook* codebook_of(const char* type_name);
