// What a layout's scale search is told, and what it leaves: see runtime/quant_types/native_fit.py.
#pragma once

#include <cstdint>

#include "../form.h"

constexpr int ROWS = 16;         // rows of a tile: a column of it is a plane of 16 numbers
constexpr int MOST_SIZE = 256;   // weights of the longest block
constexpr int MOST_TRIES = 32;   // candidate scales of a group
constexpr int MOST_PARAMS = 34;  // numbers stored of one block: d, dmin and 16 scales and mins

enum Search { PLAIN, SUPER, ONNX };  // see plain.cpp, supers.cpp and onnx.cpp

struct Spec {
    Search search;
    Form form;
    int size;       // weights of a block
    int group;      // weights that share one scale, a power of two from 16 on
    int low, high;  // least and greatest code
    // Candidates. Scales: `first` are the places of the weight of greatest size. Lines: shares of
    // the range as the width of all codes (`first`) and left out below (`second`). ONNX: factors of
    // the extreme weight or of the step (`first`).
    int tries;
    float first[MOST_TRIES], second[MOST_TRIES];
    // Super-blocks: what the stored integers reach, and rounds of choosing them.
    int least, most, rounds;
    int parts;
    float part[4];  // shares of the largest sub-block's scale that are tried as `most`
    // Codes that name points of a table, else null: nearest code and its point for each half step
    // from `lowest` to `highest`, and the points.
    const float* nearest;
    const float* snapped;
    const float* points;
    float lowest, highest;
    int middle;  // ONNX: zero point of layouts that store none
    bool half;   // ONNX: scales are float16, and zero points begin at 1

    int groups;  // size / group
    int params;  // numbers stored of one block, in the order d, dmin, scales, mins
};
