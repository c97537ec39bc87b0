#include "codebooks.h"

#include <cstring>

int8_t iq2_xxs_points[256][8], iq2_xs_points[512][8], iq2_s_points[1024][8];
int8_t iq3_xxs_points[256][4], iq3_s_points[512][4];
int8_t iq1_points[2048][8];

static Codebook codebooks[] = {
    {"IQ2_XXS", iq2_xxs_points[0], sizeof iq2_xxs_points, false},
    {"IQ2_XS", iq2_xs_points[0], sizeof iq2_xs_points, false},
    {"IQ2_S", iq2_s_points[0], sizeof iq2_s_points, false},
    {"IQ3_XXS", iq3_xxs_points[0], sizeof iq3_xxs_points, false},
    {"IQ3_S", iq3_s_points[0], sizeof iq3_s_points, false},
    {"IQ1_S", iq1_points[0], sizeof iq1_points, false},
    {"IQ1_M", iq1_points[0], sizeof iq1_points, false},
};

Codebook* codebook_of(const char* type_name) {
    for (Codebook& book : codebooks) {
        if (strcmp(book.type_name, type_name) == 0) return &book;
    }
    return nullptr;
}
