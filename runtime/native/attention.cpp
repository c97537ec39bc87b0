// The query heads of one key-value head, for a block of tokens, read each key once: 6 heads of
// Qwen2.5-1.5B share what is loaded. Softmax runs along (Milakov and Gimelshein 2018, Dao et al.
// 2022), so that scores of CHUNK keys at a time stay in the first-level cache. Where there is only
// one block of tokens, as in generation, the keys are cut into segments as well, and the segments'
// results are put together: every core has work, whatever the number of heads.
#include "attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "pool.h"

namespace {

constexpr int CHUNK = 128;     // keys whose scores are in memory at once
constexpr int SEGMENT = 512;   // keys of a segment, a multiple of CHUNK
constexpr int MOST_ROWS = 96;  // of a block, tokens times query heads; 48 to 384 are as good
constexpr int WIDEN_FROM = 9;  // rows that make it pay to widen a strip of float16 first
constexpr int64_t LEAST_WORK = 1 << 16;  // multiplications worth waking a thread for

struct Job {
    const Kernels& kernels;
    const Cache& cache;
    const int layer;
    const Step& step;
    const Sight& sight;
    const float* q;
    float* out;
    const int group = sight.heads / cache.sizes.kv_heads;  // query heads of a key-value head
    const int channels = cache.sizes.head_dim;
    const int padded = whole_strips(channels) * STRIP;
    const int block_tokens = std::max(1, MOST_ROWS / group);
    const int blocks = (step.tokens + block_tokens - 1) / block_tokens;
    const int first = first_key(step.start);
    const int segments =
        blocks > 1 ? 1 : (step.start + step.tokens - first + SEGMENT - 1) / SEGMENT;
    const int items = step.sequences * cache.sizes.kv_heads * blocks * segments;
    const int state_floats = padded + 2;
    float* partial = nullptr;  // the states of the segments, see state_of

    // Where the chunk of the first key that `position` sees begins. Chunks are the same for every
    // query, so that a result does not depend on which others it is computed with.
    int first_key(int position) const {
        const int hidden = sight.window == 0 ? 0 : std::max(0, position + 1 - sight.window);
        return hidden / CHUNK * CHUNK;
    }
};

// One item: a key-value head's queries of some tokens against some keys.
struct Item {
    int sequence, head, token, tokens, segment;
    int first, last;  // keys first..last - 1
};

Item item_of(const Job& job, int index) {
    Item item;
    item.segment = index % job.segments;
    index /= job.segments;
    item.token = index % job.blocks * job.block_tokens;
    index /= job.blocks;
    item.head = index % job.cache.sizes.kv_heads;
    item.sequence = index / job.cache.sizes.kv_heads;
    item.tokens = std::min(job.block_tokens, job.step.tokens - item.token);
    const int visible = job.step.start + item.token + item.tokens;
    item.first = job.segments > 1 ? job.first + item.segment * SEGMENT
                                  : job.first_key(job.step.start + item.token);
    item.last = job.segments > 1 ? std::min(visible, item.first + SEGMENT) : visible;
    return item;
}

// Where row `row` of an item (token by token, its query heads in order) starts in q and in out.
size_t row_start(const Job& job, const Item& item, int row) {
    const size_t token = (size_t)item.sequence * job.step.tokens + item.token + row / job.group;
    return (token * job.sight.heads + item.head * job.group + row % job.group) * job.channels;
}

// What a thread computes with. It stays with the thread: nothing is allocated for each token.
struct Room {
    std::vector<float> q, scores, out, strip, largest, sum, factor;

    void fit(const Job& job, int rows) {
        const auto grow = [](std::vector<float>& room, size_t count) {
            if (room.size() < count) room.resize(count);
        };
        grow(q, (size_t)rows * job.channels);
        grow(scores, (size_t)rows * CHUNK);
        grow(out, (size_t)rows * job.padded);
        grow(strip, (size_t)std::max(job.channels, CHUNK) * STRIP);
        for (std::vector<float>* state : {&largest, &sum, &factor}) grow(*state, rows);
    }
};

// out = keep * out + a times a strip of `count` rows, whatever the cache's type.
void times_strip(const Job& job, Room& room, const float* a, int a_stride, int rows,
                 const uint8_t* strip, int count, const float* keep, float* out, int out_stride) {
    const Ops& ops = job.kernels.ops;
    if (!job.cache.sizes.halves) {
        ops.times_strip_f32(a, a_stride, rows, strip, count, keep, out, out_stride);
    } else if (rows < WIDEN_FROM) {
        ops.times_strip_f16(a, a_stride, rows, strip, count, keep, out, out_stride);
    } else {
        ops.to_f32((const uint16_t*)strip, count * STRIP, room.strip.data());
        ops.times_strip_f32(a, a_stride, rows, room.strip.data(), count, keep, out, out_stride);
    }
}

// One more stretch of a row's softmax: keys start..start + width, of which its token sees those
// from the window's first to its own. Returns the factor on everything added up before.
float soften(const Job& job, Room& room, const Item& item, int row, int start, int width) {
    const int position = job.step.start + item.token + row / job.group;
    float* scores = room.scores.data() + (size_t)row * CHUNK;
    int seen = std::min(width, position + 1 - start);
    if (job.sight.window > 0) {
        const int hidden = position + 1 - job.sight.window - start;
        if (hidden >= seen) seen = 0;
        if (hidden > 0 && seen > 0) {
            std::fill(scores, scores + hidden, -std::numeric_limits<float>::infinity());
        }
    }
    return job.kernels.ops.softmax_step(scores, whole_strips(width) * STRIP, seen,
                                        &room.largest[row], &room.sum[row]);
}

// Keys start..start + width of an item: scores, one more stretch of the softmax, values.
void add_chunk(const Job& job, Room& room, const Item& item, int rows, int start, int width) {
    const int channels = job.channels, sequence = job.step.first + item.sequence;
    const int strips = whole_strips(width);
    for (int strip = 0; strip < strips; strip++) {
        const uint8_t* keys = job.cache.keys(job.layer, sequence, item.head, start + strip * STRIP);
        times_strip(job, room, room.q.data(), channels, rows, keys, channels, nullptr,
                    room.scores.data() + strip * STRIP, CHUNK);
    }
    for (int row = 0; row < rows; row++) {
        room.factor[row] = soften(job, room, item, row, start, width);
    }
    for (int strip = 0; strip < job.padded / STRIP; strip++) {
        const uint8_t* values = job.cache.values(job.layer, sequence, item.head, strip, start);
        times_strip(job, room, room.scores.data(), CHUNK, rows, values, width,
                    start == item.first ? nullptr : room.factor.data(),
                    room.out.data() + strip * STRIP, job.padded);
    }
}

// One item, left in room.out, room.largest and room.sum.
void run_item(const Job& job, Room& room, const Item& item, int rows) {
    for (int row = 0; row < rows; row++) {
        const float* from = job.q + row_start(job, item, row);
        float* to = room.q.data() + (size_t)row * job.channels;
        for (int channel = 0; channel < job.channels; channel++) {
            to[channel] = from[channel] * job.sight.scale;
        }
        room.largest[row] = -std::numeric_limits<float>::infinity();
        room.sum[row] = 0.0f;
    }
    for (int start = item.first; start < item.last; start += CHUNK) {
        add_chunk(job, room, item, rows, start, std::min(CHUNK, item.last - start));
    }
}

// The state of row `row` of a head's segment: its sums, its largest score and its total.
float* state_of(const Job& job, const Item& item, int segment, int row) {
    const size_t head = (size_t)item.sequence * job.cache.sizes.kv_heads + item.head;
    const size_t rows = (size_t)job.step.tokens * job.group;
    return job.partial + ((head * job.segments + segment) * rows + row) * job.state_floats;
}

void run_items(const Job& job, int start, int stop) {
    static thread_local Room room;
    for (int index = start; index < stop; index++) {
        const Item item = item_of(job, index);
        const int rows = item.tokens * job.group;
        room.fit(job, rows);
        run_item(job, room, item, rows);
        for (int row = 0; row < rows; row++) {
            const float* sums = room.out.data() + (size_t)row * job.padded;
            if (job.segments == 1) {
                float* out = job.out + row_start(job, item, row);
                const float whole = 1.0f / room.sum[row];
                for (int c = 0; c < job.channels; c++) out[c] = sums[c] * whole;
            } else {
                float* state = state_of(job, item, item.segment, row);
                std::copy(sums, sums + job.padded, state);
                state[job.padded] = room.largest[row];
                state[job.padded + 1] = room.sum[row];
            }
        }
    }
}

// Put the segments of one head together.
void merge(const Job& job, const Item& item) {
    for (int row = 0; row < item.tokens * job.group; row++) {
        float largest = -std::numeric_limits<float>::infinity();
        for (int segment = 0; segment < job.segments; segment++) {
            largest = std::max(largest, state_of(job, item, segment, row)[job.padded]);
        }
        float* out = job.out + row_start(job, item, row);
        std::fill(out, out + job.channels, 0.0f);
        float total = 0.0f;
        for (int segment = 0; segment < job.segments; segment++) {
            const float* state = state_of(job, item, segment, row);
            const float share = std::exp(state[job.padded] - largest);
            total += share * state[job.padded + 1];
            for (int c = 0; c < job.channels; c++) out[c] += share * state[c];
        }
        for (int c = 0; c < job.channels; c++) out[c] /= total;
    }
}

}  // namespace

int tokens_kept(int window, int capacity, int step) {
    if (window == 0) return capacity;
    const int64_t seen = (int64_t)window - 1 + step;
    // whole chunks, so that the keys of each chunk lie one after the other
    return (int)std::min<int64_t>(capacity, (seen + CHUNK - 1) / CHUNK * CHUNK);
}

void attend(const Kernels& kernels, const Cache& cache, int layer, const Step& step,
            const Sight& sight, const float* q, std::vector<float>& partial, float* out) {
    Job job = {kernels, cache, layer, step, sight, q, out};
    const size_t states = (size_t)step.rows() * sight.heads * job.segments;
    if (job.segments > 1 && partial.size() < states * job.state_floats) {
        partial.resize(states * job.state_floats);
    }
    job.partial = partial.data();
    const int keys =
        std::min(step.start + step.tokens - job.first, job.segments > 1 ? SEGMENT : 1 << 30);
    const int64_t work =
        (int64_t)2 * std::min(step.tokens, job.block_tokens) * job.group * keys * job.channels;
    run_parallel(job.items, least_items_of(work, LEAST_WORK),
                 [&](int start, int stop) { run_items(job, start, stop); });
    if (job.segments == 1) return;
    const int merged = step.sequences * cache.sizes.kv_heads;
    run_parallel(merged, least_items_of((int64_t)states / merged * job.padded, LEAST_WORK),
                 [&](int start, int stop) {
                     for (int head = start; head < stop; head++) {
                         merge(job, item_of(job, head * job.segments));
                     }
                 });
}
