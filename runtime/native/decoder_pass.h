// One step on its way through the layers: what the ops of a layer do to the rows.
#pragma once

#include "decoder.h"
#include "matmul.h"

struct Decoder::Pass {
    Decoder& decoder;
    const Kernels& kernels;
    Cache& cache;
    Step step;  // narrowed to one token a sequence where only the last is wanted
    const int64_t* ids;
    const int stride;  // ids from one sequence to the next
    const Wanted wanted;
    const int first_position = step.start;  // of the rope tables
    int layer = 0;
    bool done = false;  // nothing that follows is wanted
    float *x, *normed, *delta, *q, *k, *v, *context, *gate, *up;
    float* y;                           // what the next op reads: x, normed or delta
    const float* bias = nullptr;        // that is still to be added to y
    const Residual* pending = nullptr;  // x is still to take up `added` and its bias
    float* added = nullptr;
    const float* added_bias = nullptr;

    Pass(Decoder& decoder, const Kernels& kernels, Cache& cache, const Step& step,
         const int64_t* ids, int stride, Wanted wanted);

    int hidden() const { return decoder.sizes.hidden; }

    void product(const Linear& linear, const float* in, float* out) const {
        product(linear, in, step.rows(), out);
    }

    void product(const Linear& linear, const float* in, int rows, float* out) const {
        matmul(kernels, *kernels.layouts[linear.layout], linear.data, linear.rows, linear.cols,
               linear.order == nullptr ? in : in_order(linear, in, rows), rows, out);
    }

    void add_bias(const Linear& linear, float* row) const {
        if (linear.bias != nullptr) kernels.ops.add(row, linear.bias, linear.rows);
    }

    void embed();
    void turn_tables();
    void begin_layer(int index);
    void operator()(const Norm& norm);
    void operator()(const Attention& attention);
    void operator()(const GatedMLP& mlp);
    void operator()(const MoE& moe);
    void operator()(const Residual& residual);

  private:
    const float* in_order(const Linear& linear, const float* in, int rows) const;
    void take_up(size_t at) const;
    void settle();
    void tell_positions(const Attention& attention, const Norm& norm, float* row, int heads,
                        int token) const;
    void keep_keys(const Attention& attention);
    void narrow_to_last();
    void gated(const GatedMLP& mlp, const float* in, int rows, float* out) const;
    void route(const MoE& moe) const;
    void add_shared(const MoE& moe) const;
    Linear expert(const Linear& linear, int index) const;
};
