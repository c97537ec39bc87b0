// Decoder and Cache as Python sees them: every size is checked here, because the C++ behind reads
// memory that it is not told the end of.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <vector>

#include "binding.h"
#include "decoder.h"

namespace nb = nanobind;

namespace {

using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const int64_t, nb::c_contig, nb::device::cpu>;
using Logits = nb::ndarray<nb::numpy, float, nb::ndim<3>>;

// Weights by name, with what keeps their memory alive.
struct Weights {
    const nb::dict& named;
    std::vector<Packed> matrices;
    std::vector<Vector> vectors;

    nb::object find(const std::string& name) const {
        if (!named.contains(name.c_str())) {
            refuse("the model has no " + name + "; convert it again.", "CorruptFileError");
        }
        return named[name.c_str()];
    }

    const float* vector(const std::string& name, int count) {
        const Vector values = nb::cast<Vector>(find(name), false);
        if (values.shape(0) != (size_t)count) {
            refuse(name + " has " + std::to_string(values.shape(0)) +
                       " values, but the model needs " + std::to_string(count) +
                       "; convert it again.",
                   "CorruptFileError");
        }
        vectors.push_back(values);
        return values.data();
    }

    Linear linear(const std::string& name, int rows, int cols) {
        const nb::object weight = find(name + ".weight");
        const std::string kind = nb::cast<std::string>(weight.attr("kind"));
        const Packed data = nb::cast<Packed>(weight.attr("data"), false);
        const int width = nb::cast<int>(weight.attr("cols"));
        check_rows(kind, data, width);
        if (width != cols || data.shape(0) != (size_t)rows) {
            refuse(name + ".weight is " + std::to_string(data.shape(0)) + " x " +
                       std::to_string(width) + ", but the model needs " + std::to_string(rows) +
                       " x " + std::to_string(cols) + "; convert it again.",
                   "CorruptFileError");
        }
        matrices.push_back(data);
        Linear out;
        while (kind != chosen_kernels().layouts[out.layout]->name) out.layout++;
        out.data = data.data();
        out.rows = rows;
        out.cols = cols;
        const std::string bias = name + ".bias";
        if (named.contains(bias.c_str())) out.bias = vector(bias, rows);
        return out;
    }
};

DecoderLayer layer_of(Weights& weights, const DecoderSizes& sizes, int index) {
    const std::string at = "blk." + std::to_string(index) + ".";
    const int q = sizes.heads * sizes.head_dim, kv = sizes.kv_heads * sizes.head_dim;
    DecoderLayer layer;
    layer.attn_norm = weights.vector(at + "attn_norm.weight", sizes.hidden);
    layer.ffn_norm = weights.vector(at + "ffn_norm.weight", sizes.hidden);
    layer.q = weights.linear(at + "attn_q", q, sizes.hidden);
    layer.k = weights.linear(at + "attn_k", kv, sizes.hidden);
    layer.v = weights.linear(at + "attn_v", kv, sizes.hidden);
    layer.output = weights.linear(at + "attn_output", sizes.hidden, q);
    layer.gate = weights.linear(at + "ffn_gate", sizes.ffn, sizes.hidden);
    layer.up = weights.linear(at + "ffn_up", sizes.ffn, sizes.hidden);
    layer.down = weights.linear(at + "ffn_down", sizes.hidden, sizes.ffn);
    return layer;
}

void check_sizes(const DecoderSizes& s, size_t frequencies) {
    for (int size : {s.vocab, s.hidden, s.ffn, s.layers, s.heads, s.kv_heads, s.head_dim}) {
        if (size < 1) {
            refuse("a size of the model is " + std::to_string(size) + "; convert it again.",
                   "CorruptFileError");
        }
    }
    if (s.heads % s.kv_heads != 0) {
        refuse(std::to_string(s.heads) + " query heads cannot share " + std::to_string(s.kv_heads) +
                   " key-value heads evenly; convert the model again.",
               "CorruptFileError");
    }
    if (s.head_dim % 2 != 0 || frequencies != (size_t)s.head_dim / 2) {
        refuse("heads of " + std::to_string(s.head_dim) + " channels cannot be turned by " +
                   std::to_string(frequencies) + " frequencies; convert the model again.",
               "CorruptFileError");
    }
}

// A Decoder and what it reads.
struct Model {
    std::vector<Packed> matrices;
    std::vector<Vector> vectors;
    std::unique_ptr<Decoder> decoder;
};

void make_model(Model* place, const nb::dict& named, const std::string& head, int vocab, int hidden,
                int ffn, int layers, int heads, int kv_heads, int head_dim, float eps,
                const std::vector<float>& frequencies, float magnitude) {
    const DecoderSizes sizes = {vocab, hidden, ffn, layers, heads, kv_heads, head_dim, eps};
    check_sizes(sizes, frequencies.size());
    Weights weights = {named, {}, {}};
    DecoderWeights found;
    found.embedding = weights.linear("token_embd", vocab, hidden);
    found.head = weights.linear(head, vocab, hidden);
    found.output_norm = weights.vector("output_norm.weight", hidden);
    for (int index = 0; index < layers; index++) {
        found.layers.push_back(layer_of(weights, sizes, index));
    }
    auto decoder = std::make_unique<Decoder>(sizes, found, frequencies, magnitude);
    new (place) Model{std::move(weights.matrices), std::move(weights.vectors), std::move(decoder)};
}

CacheSizes cache_sizes(const Model& model, int batch, int capacity, bool halves) {
    if (batch < 1 || capacity < 1) {
        refuse("a cache for " + std::to_string(batch) + " sequences of " +
               std::to_string(capacity) + " tokens holds nothing; ask for 1 or more of both.");
    }
    const DecoderSizes& s = model.decoder->sizes;
    return {s.layers, batch, s.kv_heads, s.head_dim, capacity, halves};
}

void check_cache(const DecoderSizes& sizes, const Cache& cache, int batch, int tokens) {
    const CacheSizes& c = cache.sizes;
    if (c.layers != sizes.layers || c.kv_heads != sizes.kv_heads || c.head_dim != sizes.head_dim) {
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
    if (cache != nullptr) check_cache(decoder.sizes, *cache, (int)batch, (int)tokens);
    float* values = new float[batch * kept * decoder.sizes.vocab];
    nb::capsule owner(values, [](void* p) noexcept { delete[] (float*)p; });
    {
        nb::gil_scoped_release unlocked;
        decoder.logits(chosen_kernels(), ids.data(), (int)batch, (int)tokens, cache, halves, last,
                       values);
    }
    return Logits(values, {batch, kept, (size_t)decoder.sizes.vocab}, owner);
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
        .def("__init__", &make_model, nb::arg("weights"), nb::arg("head"), nb::arg("vocab"),
             nb::arg("hidden"), nb::arg("ffn"), nb::arg("layers"), nb::arg("heads"),
             nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("eps"), nb::arg("frequencies"),
             nb::arg("magnitude"),
             "`weights`: runtime name -> float32 (n,), or an object with `kind`, `data` uint8\n"
             "(rows, row_bytes) and `cols`; `head` is the linear that makes the logits.\n\n"
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
             "ids int64 (B, T) -> float32 (B, T, V), with `last` (B, 1, V); advances the cache.\n\n"
             "`halves` is for the keys and values of a call without a cache. Raises EdgequantError "
             "for ids that are none, or a cache that does not fit them.");
}
