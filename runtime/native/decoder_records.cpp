// Every size is checked here, because the C++ behind reads memory that it is not told the end of.
#include "decoder_records.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>

namespace nb = nanobind;

namespace {

// Weights by name.
struct Weights {
    const nb::dict& named;
    Held& held;

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
        held.vectors.push_back(values);
        return values.data();
    }

    Linear linear(const std::string& name, int rows, int cols) {
        const nb::object weight = find(name + ".weight");
        const std::string type_name = nb::cast<std::string>(weight.attr("type_name"));
        const Packed data = nb::cast<Packed>(weight.attr("data"), false);
        const int width = nb::cast<int>(weight.attr("cols"));
        check_rows(type_name, data, width);
        if (width != cols || data.shape(0) != (size_t)rows) {
            refuse(name + ".weight is " + std::to_string(data.shape(0)) + " x " +
                       std::to_string(width) + ", but the model needs " + std::to_string(rows) +
                       " x " + std::to_string(cols) + "; convert it again.",
                   "CorruptFileError");
        }
        held.matrices.push_back(data);
        Linear out;
        while (type_name != chosen_kernels().layouts[out.layout]->name) out.layout++;
        out.data = data.data();
        out.rows = rows;
        out.cols = cols;
        const std::string bias = name + ".bias";
        if (named.contains(bias.c_str())) out.bias = vector(bias, rows);
        const nb::object of_columns = weight.attr("order");
        if (!of_columns.is_none()) out.order = order(name, of_columns, cols);
        return out;
    }

    const int32_t* order(const std::string& name, const nb::object& given, int cols) {
        const Order found = nb::cast<Order>(given, false);
        const int32_t* end = found.data() + found.shape(0);
        const auto inside = [&](int32_t col) { return col >= 0 && col < cols; };
        if (found.shape(0) != (size_t)cols || !std::all_of(found.data(), end, inside)) {
            refuse(name + ".order does not name the " + std::to_string(cols) +
                       " columns of its weight; convert it again.",
                   "CorruptFileError");
        }
        held.orders.push_back(found);
        return found.data();
    }
};

// Refuse a size that is none.
int positive(int size) {
    if (size < 1) {
        refuse("a size of the model is " + std::to_string(size) + "; convert it again.",
               "CorruptFileError");
    }
    return size;
}

int size_of(nb::handle record, const char* field) {
    return positive(nb::cast<int>(record.attr(field)));
}

// A record of one decoder layer (runtime/archs/layer.py) becomes the struct of the same name.
struct Reader {
    Weights& weights;
    DecoderWeights& found;
    DecoderSizes& sizes;
    const std::string prefix;  // of the layer's tensors, such as "blk.3."

    std::string name_of(nb::handle record) const {
        return prefix + nb::cast<std::string>(record.attr("name"));
    }

    Linear linear(nb::handle record, int rows, int cols) const {
        return weights.linear(name_of(record), rows, cols);
    }

    Norm norm(nb::handle record, int width) const {
        if (record.is_none()) return {};
        return {weights.vector(name_of(record) + ".weight", width),
                nb::cast<float>(record.attr("eps"))};
    }

    // Index among the ropes of all layers; -1 where there is none.
    int rope(nb::handle attention) const {
        if (attention.attr("rope").is_none()) return -1;
        const int channels = size_of(attention, "rope_channels"), width = sizes.head_dim;
        const nb::object rope = attention.attr("rope");
        const Rope wanted = {
            nb::cast<std::vector<float>>(rope.attr("frequencies")(channels).attr("tolist")()),
            nb::cast<float>(rope.attr("magnitude"))};
        if (channels % 2 != 0 || channels > width ||
            wanted.frequencies.size() != (size_t)channels / 2) {
            refuse(std::to_string(channels) + " of a head's " + std::to_string(width) +
                       " channels cannot be turned by " +
                       std::to_string(wanted.frequencies.size()) +
                       " frequencies; convert the model again.",
                   "CorruptFileError");
        }
        const auto at = std::find(found.ropes.begin(), found.ropes.end(), wanted);
        const int index = (int)(at - found.ropes.begin());
        if (at == found.ropes.end()) found.ropes.push_back(wanted);
        return index;
    }

    Attention attention(nb::handle record) const {
        const int heads = size_of(record, "heads"), kv_heads = size_of(record, "kv_heads");
        const int head_dim = size_of(record, "head_dim"), hidden = sizes.hidden;
        if (heads % kv_heads != 0) {
            refuse(std::to_string(heads) + " query heads cannot share " + std::to_string(kv_heads) +
                       " key-value heads evenly; convert the model again.",
                   "CorruptFileError");
        }
        if (sizes.kv_heads == 0) {
            sizes.kv_heads = kv_heads;
            sizes.head_dim = head_dim;
        } else if (kv_heads != sizes.kv_heads || head_dim != sizes.head_dim) {
            refuse(
                prefix + "attn has " + std::to_string(kv_heads) + " key-value heads of " +
                    std::to_string(head_dim) + " channels and a layer before it " +
                    std::to_string(sizes.kv_heads) + " of " + std::to_string(sizes.head_dim) +
                    ", and the native backend needs the same in every layer; use --backend numpy.",
                "UnsupportedError");
        }
        const int q = heads * head_dim, kv = kv_heads * head_dim;
        const nb::object scale = record.attr("scale"), window = record.attr("window");
        Attention out;
        out.q = linear(record.attr("q"), q, hidden);
        out.k = linear(record.attr("k"), kv, hidden);
        out.v = linear(record.attr("v"), kv, hidden);
        out.output = linear(record.attr("output"), hidden, q);
        out.q_norm = norm(record.attr("q_norm"), head_dim);
        out.k_norm = norm(record.attr("k_norm"), head_dim);
        out.sight.heads = heads;
        out.sight.scale =
            scale.is_none() ? 1.0f / std::sqrt((float)head_dim) : nb::cast<float>(scale);
        out.sight.window = window.is_none() ? 0 : positive(nb::cast<int>(window));
        out.rope = rope(record);
        return out;
    }

    GatedMLP mlp(nb::handle record) const {
        const int inner = size_of(record.attr("gate"), "outputs");
        return {linear(record.attr("gate"), inner, sizes.hidden),
                linear(record.attr("up"), inner, sizes.hidden),
                linear(record.attr("down"), sizes.hidden, inner),
                nb::cast<std::string>(record.attr("activation")) == "gelu"};
    }

    // Of `count` experts in one tensor: the first.
    Linear first_of(nb::handle record, int count, int rows, int cols) const {
        Linear out = linear(record, count * rows, cols);
        out.rows = rows;
        return out;
    }

    MoE moe(nb::handle record) const {
        const nb::object experts = record.attr("experts"), shared = record.attr("shared");
        const nb::object gate = record.attr("shared_gate");
        const int count = size_of(record.attr("router"), "outputs"), hidden = sizes.hidden;
        const int inner = size_of(experts.attr("gate"), "outputs");
        MoE out = {};
        out.router = linear(record.attr("router"), count, hidden);
        out.experts = {first_of(experts.attr("gate"), count, inner, hidden),
                       first_of(experts.attr("up"), count, inner, hidden),
                       first_of(experts.attr("down"), count, hidden, inner),
                       nb::cast<std::string>(experts.attr("activation")) == "gelu"};
        out.top_k = size_of(record, "top_k");
        if (out.top_k > count) {
            refuse(prefix + "ffn: a token cannot go through " + std::to_string(out.top_k) + " of " +
                       std::to_string(count) + " experts; convert the model again.",
                   "CorruptFileError");
        }
        out.normalized = nb::cast<bool>(record.attr("normalized"));
        if (!shared.is_none()) out.shared = mlp(shared);
        if (!gate.is_none()) out.shared_gate = linear(gate, 1, hidden);
        return out;
    }

    Op op(nb::handle record) const {
        const std::string op = nb::cast<std::string>(record.type().attr("__name__"));
        if (op == "Norm") return norm(record, sizes.hidden);
        if (op == "Attention") return attention(record);
        if (op == "GatedMLP") return mlp(record);
        if (op == "MoE") return moe(record);
        return Residual{nb::cast<float>(record.attr("multiplier")),
                        norm(record.attr("post_norm"), sizes.hidden)};
    }

    LayerOps layer(nb::handle records) const {
        LayerOps ops;
        int attentions = 0;
        for (nb::handle record : nb::cast<nb::tuple>(records)) {
            ops.push_back(op(record));
            attentions += std::holds_alternative<Attention>(ops.back());
        }
        if (attentions != 1) {
            refuse(prefix + "attn: the layer has " + std::to_string(attentions) +
                       " attentions, and the native backend needs one; use --backend numpy.",
                   "UnsupportedError");
        }
        return ops;
    }
};

}  // namespace

DecoderWeights read_weights(const nb::dict& named, const std::string& head, nb::handle output_norm,
                            const nb::list& layers, DecoderSizes& sizes, Held& held) {
    positive(sizes.vocab);
    positive(sizes.hidden);
    positive((int)layers.size());
    Weights weights = {named, held};
    DecoderWeights found;
    found.embedding = weights.linear("token_embd", sizes.vocab, sizes.hidden);
    if (!head.empty()) found.head = weights.linear(head, sizes.vocab, sizes.hidden);
    found.output_norm = Reader{weights, found, sizes, ""}.norm(output_norm, sizes.hidden);
    for (nb::handle layer : layers) {
        const std::string prefix = "blk." + std::to_string(found.layers.size()) + ".";
        found.layers.push_back(Reader{weights, found, sizes, prefix}.layer(layer));
    }
    return found;
}
