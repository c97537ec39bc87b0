// Mixtures of experts: the rows of a step are sorted by expert, so that each one's weights are read
// once, and those of experts that nobody chose are not read at all.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "decoder_pass.h"

namespace {

// Softmax of `count` scores in place, as runtime/backends/numpy.py computes it.
void softmax(float* scores, int count) {
    const float largest = *std::max_element(scores, scores + count);
    float sum = 0.0f;
    for (int i = 0; i < count; i++) sum += scores[i] = std::exp(scores[i] - largest);
    for (int i = 0; i < count; i++) scores[i] /= sum;
}

}  // namespace

Linear Decoder::Pass::expert(const Linear& linear, int index) const {
    const Layout& layout = *kernels.layouts[linear.layout];
    Linear out = linear;
    out.data += (size_t)index * linear.rows * (linear.cols / layout.block) * layout.bytes;
    return out;
}

// The experts of each row, and their shares: (rows, top_k).
void Decoder::Pass::route(const MoE& moe) const {
    Scratch& scratch = decoder.scratch;
    const int count = moe.router.rows, top_k = moe.top_k;
    scratch.scores.resize((size_t)step.rows() * count);
    scratch.shares.resize((size_t)step.rows() * top_k);
    scratch.chosen.resize((size_t)step.rows() * top_k);
    product(moe.router, y, scratch.scores.data());
    std::vector<int> order(count);
    for (int row = 0; row < step.rows(); row++) {
        float* scores = scratch.scores.data() + (size_t)row * count;
        add_bias(moe.router, scores);
        softmax(scores, count);
        std::iota(order.begin(), order.end(), 0);
        // of equal ones the first, as a stable sort has it
        std::partial_sort(order.begin(), order.begin() + top_k, order.end(), [&](int a, int b) {
            return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
        });
        float sum = 0.0f;
        for (int rank = 0; rank < top_k; rank++) sum += scores[order[rank]];
        for (int rank = 0; rank < top_k; rank++) {
            scratch.chosen[(size_t)row * top_k + rank] = order[rank];
            scratch.shares[(size_t)row * top_k + rank] =
                moe.normalized ? scores[order[rank]] / sum : scores[order[rank]];
        }
    }
}

// delta takes up the shared expert, which every row goes through.
void Decoder::Pass::add_shared(const MoE& moe) const {
    if (moe.shared.gate.data == nullptr) return;
    Scratch& scratch = decoder.scratch;
    gated(moe.shared, y, step.rows(), scratch.outputs.data());
    if (moe.shared_gate.data != nullptr) {
        scratch.shares.resize(step.rows());
        product(moe.shared_gate, y, scratch.shares.data());
    }
    for (int row = 0; row < step.rows(); row++) {
        float* out = scratch.outputs.data() + (size_t)row * hidden();
        add_bias(moe.shared.down, out);
        if (moe.shared_gate.data != nullptr) {
            add_bias(moe.shared_gate, &scratch.shares[row]);
            const float share = 1.0f / (1.0f + std::exp(-scratch.shares[row]));
            for (int channel = 0; channel < hidden(); channel++) out[channel] *= share;
        }
        kernels.ops.add(delta + (size_t)row * hidden(), out, hidden());
    }
}

void Decoder::Pass::operator()(const MoE& moe) {
    settle();
    const size_t rows = (size_t)step.rows(), width = (size_t)hidden();
    if (y == delta) {  // which the experts' outputs are added up in
        memcpy(normed, delta, rows * width * sizeof(float));
        y = normed;
    }
    Scratch& scratch = decoder.scratch;
    scratch.gathered.resize(rows * width);
    scratch.outputs.resize(rows * width);
    route(moe);
    memset(delta, 0, rows * width * sizeof(float));
    for (int index = 0; index < moe.router.rows; index++) {
        std::vector<int>& routed = scratch.routed;  // places in `chosen`
        routed.clear();
        for (int place = 0; place < (int)scratch.chosen.size(); place++) {
            if (scratch.chosen[place] == index) routed.push_back(place);
        }
        if (routed.empty()) continue;
        for (size_t at = 0; at < routed.size(); at++) {
            memcpy(scratch.gathered.data() + at * width, y + routed[at] / moe.top_k * width,
                   width * sizeof(float));
        }
        const GatedMLP own = {expert(moe.experts.gate, index), expert(moe.experts.up, index),
                              expert(moe.experts.down, index), moe.experts.gelu};
        gated(own, scratch.gathered.data(), (int)routed.size(), scratch.outputs.data());
        for (size_t at = 0; at < routed.size(); at++) {
            const float share = scratch.shares[routed[at]];
            const float* out = scratch.outputs.data() + at * width;
            float* sum = delta + routed[at] / moe.top_k * width;
            for (size_t channel = 0; channel < width; channel++)
                sum[channel] += share * out[channel];
        }
    }
    add_shared(moe);
    y = delta;
    bias = nullptr;
}
