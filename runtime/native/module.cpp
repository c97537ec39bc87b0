// The Python module runtime._native: checks what it is given, lets go of the GIL, calls a kernel.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "binding.h"
#include "cpu_features.h"
#include "divergence.h"
#include "matmul.h"
#include "pool.h"
#include "syrk.h"

namespace nb = nanobind;

using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<nb::numpy, float, nb::ndim<2>>;
using Inputs = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
using Sums = nb::ndarray<float, nb::ndim<2>, nb::device::cpu>;

// A new (rows, cols) float32 array that Python owns; its values are not set.
static Result new_result(size_t rows, size_t cols) {
    float* values = new float[rows * cols];
    nb::capsule owner(values, [](void* p) noexcept { delete[] (float*)p; });
    return Result(values, {rows, cols}, owner);
}

static Result decode(const std::string& name, const Packed& data, int cols) {
    const Layout& layout = check_rows(name, data, cols);
    Result out = new_result(data.shape(0), (size_t)cols);
    nb::gil_scoped_release unlocked;
    decode_rows(layout, data.data(), (int)data.shape(0), cols, out.data());
    return out;
}

static Result multiply(const std::string& name, const Packed& data, int cols, const Floats& x) {
    const Layout& layout = check_rows(name, data, cols);
    if (x.shape(1) != (size_t)cols) {
        refuse("the weight has " + std::to_string(cols) + " columns, but the activations have " +
               std::to_string(x.shape(1)) + "; give activations of the weight's width.");
    }
    Result out = new_result(x.shape(0), data.shape(0));
    nb::gil_scoped_release unlocked;
    matmul(chosen_kernels(), layout, data.data(), (int)data.shape(0), cols, x.data(),
           (int)x.shape(0), out.data());
    return out;
}

static bool try_syrk(const Sums& total, const Inputs& weighed, const Inputs& x) {
    const size_t tokens = x.shape(0), cols = x.shape(1);
    const bool fits = total.shape(0) == cols && total.shape(1) == cols &&
                      weighed.shape(0) == tokens && weighed.shape(1) == cols;
    if (!fits || total.stride(1) != 1 || weighed.stride(1) != 1 || x.stride(1) != 1) {
        refuse("inputs (tokens, " + std::to_string(cols) + ") do not match each other and their " +
               "sums (" + std::to_string(total.shape(0)) + ", " + std::to_string(total.shape(1)) +
               "), or columns do not lie side by side.");
    }
    if (chosen_kernels().syrk_bf16 == nullptr || is_exact() || tokens == 0) return false;
    nb::gil_scoped_release unlocked;
    syrk(chosen_kernels(), {weighed.data(), (ptrdiff_t)weighed.stride(0)},
         {x.data(), (ptrdiff_t)x.stride(0)}, (int)tokens, (int)cols, total.data(),
         (ptrdiff_t)total.stride(0));
    return true;
}

using Figures = nb::ndarray<nb::numpy, double, nb::ndim<2>>;
using Following = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

static Figures compare_logits(const Floats& original, const Floats& artifact,
                              const Following& following) {
    const size_t tokens = original.shape(0), vocab = original.shape(1);
    if (artifact.shape(0) != tokens || artifact.shape(1) != vocab || vocab == 0 ||
        following.shape(0) != tokens) {
        refuse("logits (" + std::to_string(tokens) + ", " + std::to_string(vocab) +
               ") are compared with logits (" + std::to_string(artifact.shape(0)) + ", " +
               std::to_string(artifact.shape(1)) + ") and " + std::to_string(following.shape(0)) +
               " next tokens; give the same sizes, and a vocabulary.");
    }
    for (size_t i = 0; i < tokens; i++) {
        if (following.data()[i] < -1 || following.data()[i] >= (int64_t)vocab) {
            refuse("token " + std::to_string(following.data()[i]) + " is not in a vocabulary of " +
                   std::to_string(vocab) + "; give ids within it, or -1 for unknown.");
        }
    }
    double* values = new double[tokens * FIGURES];
    nb::capsule owner(values, [](void* p) noexcept { delete[] (double*)p; });
    Figures out(values, {tokens, (size_t)FIGURES}, owner);
    nb::gil_scoped_release unlocked;
    compare_tokens(chosen_kernels(), original.data(), artifact.data(), following.data(),
                   (int)tokens, (int)vocab, values);
    return out;
}

static std::vector<std::string> types() {
    std::vector<std::string> names;
    const Kernels& kernels = chosen_kernels();
    for (int i = 0; i < kernels.layout_count; i++) names.push_back(kernels.layouts[i]->name);
    return names;
}

static std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const Kernels* set : available_kernels()) names.push_back(set->name);
    return names;
}

static void set_threads(int count) {
    if (count < 1) {
        refuse("cannot run on " + std::to_string(count) + " threads; give 1 or more.");
    }
    nb::gil_scoped_release unlocked;
    set_pool_threads(count);
}

void bind_rounding(nb::module_& m);  // binding_rounding.cpp
void bind_decoder(nb::module_& m);   // decoder_module.cpp

NB_MODULE(_native, m) {
    m.doc() = "C++ kernels on packed weights; runtime.backends.native is the engine made of them.";
    m.def("types", &types, "Names of the block layouts that have a kernel.");
    m.def("decode", &decode, nb::arg("name"), nb::arg("data").noconvert(), nb::arg("cols"),
          "Packed rows uint8 (rows, row_bytes) -> float32 (rows, cols), as runtime.quant_types "
          "does.\n\n"
          "Raises EdgequantError for an unknown layout or rows of another size.");
    m.def("matmul", &multiply, nb::arg("name"), nb::arg("data").noconvert(), nb::arg("cols"),
          nb::arg("x").noconvert(),
          "float32 x (n, cols) times packed rows (rows, cols), transposed -> float32 (n, rows).\n\n"
          "Activations are rounded to int8 or bfloat16 unless exact(). Equal on any number of\n"
          "threads. Raises EdgequantError for sizes that do not fit.");
    m.def(
        "syrk", &try_syrk, nb::arg("total").noconvert(), nb::arg("weighed").noconvert(),
        nb::arg("x").noconvert(),
        "Add weighed^T x, float32 (tokens, cols), to the upper half of total (cols, cols), with\n"
        "inputs rounded to bfloat16. False, and nothing added, where exact() or where BLAS is as\n"
        "fast. Raises EdgequantError for sizes that do not fit.");
    m.def(
        "compare_logits", &compare_logits, nb::arg("original").noconvert(),
        nb::arg("artifact").noconvert(), nb::arg("following").noconvert(),
        "float32 logits (T, V) of two models and int64 next tokens (T,), -1 = unknown -> float64\n"
        "(T, 8): KL(original || artifact), not clipped; both top tokens; log probability of the\n"
        "original's top token, the original's and the artifact's; the same of the next token;\n"
        "1 where the artifact's logits held NaN or infinity and count as equal.\n"
        "Raises EdgequantError for sizes or tokens that do not fit.");
    m.def("threads", &pool_threads, "Threads that a kernel uses at most.");
    m.def("set_threads", &set_threads, nb::arg("count"),
          "Use `count` threads from now on. Raises EdgequantError for less than 1.");
    m.def("instruction_sets", &instruction_sets,
          "The compiled instruction sets that this processor has, simplest first.");
    m.def("instruction_set", [] { return std::string(chosen_kernels().name); }, "The one in use.");
    m.def("set_instruction_set", &choose_kernels, nb::arg("name"),
          "Use another one of instruction_sets() (to test or time it).");
    m.def("exact", &is_exact, "Whether products are float32 throughout.");
    m.def("set_exact", &set_exact, nb::arg("exact"),
          "Products in float32 throughout (True), or with rounded activations (False, faster).");
    bind_rounding(m);
    bind_decoder(m);
}
