// Decoder and Cache as Python sees them; what a call is given is checked here.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <vector>

#include "decoder_records.h"

namespace nb = nanobind;

namespace {

using Ids = nb::ndarray<const int64_t, nb::c_contig, nb::device::cpu>;
using Logits = nb::ndarray<nb::numpy, float, nb::ndim<3>>;

// A Decoder and what it reads.
struct Model {
    Held held;
    std::unique_ptr<Decoder> decoder;
};

void make_model(Model* place, const nb::dict& named, const std::string& head, int vocab, int hidden,
                nb::handle output_norm, const nb::list& layers, float embedding_scale) {
    DecoderSizes sizes = {vocab, hidden, head.empty() ? hidden : vocab, 0, 0};
    Held held;
    DecoderWeights weights = read_weights(named, head, output_norm, layers, sizes, held);
    weights.embedding_scale = embedding_scale;
    auto decoder = std::make_unique<Decoder>(sizes, weights);
    new (place) Model{std::move(held), std::move(decoder)};
}

CacheSizes cache_sizes(const Model& model, int batch, int capacity, bool halves) {
    if (batch < 1 || capacity < 1) {
        refuse("a cache for " + std::to_string(batch) + " sequences of " +
               std::to_string(capacity) + " tokens holds nothing; ask for 1 or more of both.");
    }
    return model.decoder->cache_sizes(batch, capacity, halves);
}

void check_cache(const Decoder& decoder, const Cache& cache, int batch, int tokens) {
    const CacheSizes& c = cache.sizes;
    const CacheSizes own = decoder.cache_sizes(c.batch, c.capacity, c.halves);
    if (c.kept != own.kept || c.kv_heads != own.kv_heads || c.head_dim != own.head_dim) {
        refuse("the cache was made for another model; call new_cache of the engine that uses it.");
    }
    if (c.batch != batch) {
        refuse("the cache holds " + std::to_string(c.batch) + " sequences, but " +
               std::to_string(batch) + " are given; make a cache for as many.");
    }
    const int64_t total = (int64_t)cache.length + tokens;
    if (total > c.capacity) {
        refuse(std::to_string(total) + " tokens do not fit in " + std::to_string(c.capacity) +
               "; shorten the text or ask for a larger cache.");
    }
}

void check_ids(const Ids& ids, int vocab) {
    if (ids.ndim() != 2 || ids.size() == 0) {
        std::string shape;
        for (size_t axis = 0; axis < ids.ndim(); axis++) {
            shape += (axis ? ", " : "") + std::to_string(ids.shape(axis));
        }
        refuse("ids have the shape (" + shape + "), but rows of at least one token are needed; " +
               "give an array (sequences, tokens).");
    }
    for (size_t index = 0; index < ids.size(); index++) {
        const int64_t id = ids.data()[index];
        if (id < 0 || id >= vocab) {
            refuse("token id " + std::to_string(id) + " is not one of the model's " +
                   std::to_string(vocab) + "; use the model's own tokenizer.");
        }
    }
}

Logits compute(Model& model, const Ids& ids, Cache* cache, bool halves, bool last) {
    Decoder& decoder = *model.decoder;
    check_ids(ids, decoder.sizes.vocab);
    const size_t batch = ids.shape(0), tokens = ids.shape(1), kept = last ? 1 : tokens;
    if (cache != nullptr) check_cache(decoder, *cache, (int)batch, (int)tokens);
    const size_t outputs = decoder.sizes.outputs;
    float* values = new float[batch * kept * outputs];
    nb::capsule owner(values, [](void* p) noexcept { delete[] (float*)p; });
    {
        nb::gil_scoped_release unlocked;
        decoder.logits(chosen_kernels(), ids.data(), (int)batch, (int)tokens, cache, halves, last,
                       values);
    }
    return Logits(values, {batch, kept, outputs}, owner);
}

}  // namespace

void bind_decoder(nb::module_& m) {
    nb::class_<Cache>(m, "Cache", "Keys and values so far; Decoder.new_cache makes it.")
        .def_prop_ro(
            "length", [](const Cache& cache) { return cache.length; }, "Tokens so far.")
        .def_prop_ro(
            "capacity", [](const Cache& cache) { return cache.sizes.capacity; },
            "Tokens that each sequence has room for.")
        .def_prop_ro(
            "nbytes", [](const Cache& cache) { return Cache::bytes(cache.sizes); },
            "Bytes when it is full.");
    nb::class_<Model>(m, "Decoder", "runtime/forward.py on packed weights, in one call.")
        .def(
            "__init__", &make_model, nb::arg("weights"), nb::arg("head"), nb::arg("vocab"),
            nb::arg("hidden"), nb::arg("output_norm"), nb::arg("layers"),
            nb::arg("embedding_scale") = 1.0f,
            "`weights`: runtime name -> float32 (n,), or an object with `type_name`, `data` uint8\n"
            "(rows, row_bytes) and `cols`; `head` is the linear that makes the logits, or\n"
            "\"\" for the normed states in their place; `layers`\n"
            "has a tuple of the records of runtime/archs/layer.py for each.\n\n"
            "Raises EdgequantError for a weight that is missing or of another size.")
        .def(
            "cache_bytes",
            [](const Model& model, int batch, int capacity, bool halves) {
                return Cache::bytes(cache_sizes(model, batch, capacity, halves));
            },
            nb::arg("batch"), nb::arg("capacity"), nb::arg("halves"), "Bytes of such a cache.")
        .def(
            "new_cache",
            [](const Model& model, int batch, int capacity, bool halves) {
                return new Cache(cache_sizes(model, batch, capacity, halves));
            },
            nb::arg("batch"), nb::arg("capacity"), nb::arg("halves"),
            "An empty cache, float16 with `halves`, else float32.")
        .def_prop_ro(
            "rows_at_once", [](const Model& model) { return model.decoder->rows_at_once(); },
            "Tokens that go through the layers together at most.")
        .def("logits", &compute, nb::arg("ids").noconvert(), nb::arg("cache").none(),
             nb::arg("halves"), nb::arg("last"),
             "ids int64 (B, T) -> float32 (B, T, V), with `last` (B, 1, V); advances the cache.\n"
             "V is the hidden width without a head.\n\n"
             "`halves` is for the keys and values of a call without a cache. Raises EdgequantError "
             "for ids outside the vocabulary or a cache of another shape.");
}
