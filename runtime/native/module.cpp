// The Python module runtime._native: checks what it is given, lets go of the GIL, calls a kernel.
#include "module.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "gram.h"
#include "levels.h"
#include "matvec.h"
#include "pool.h"
#include "rounder.h"

namespace nb = nanobind;

using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<nb::numpy, float, nb::ndim<2>>;
using Inputs = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
using Sums = nb::ndarray<float, nb::ndim<2>, nb::device::cpu>;

static const Kernels* chosen = available_kernels().back();

const Kernels& chosen_kernels() { return *chosen; }

void refuse(const std::string& sentence, const char* kind) {
    nb::object error = nb::module_::import_("runtime.errors").attr(kind);
    PyErr_SetString(error.ptr(), sentence.c_str());
    throw nb::python_error();
}

static const Layout& find_layout(const std::string& name) {
    std::string known;
    for (int i = 0; i < chosen->layout_count; i++) {
        if (name == chosen->layouts[i]->name) return *chosen->layouts[i];
        known += (i ? ", " : "") + std::string(chosen->layouts[i]->name);
    }
    refuse("there is no native kernel for " + name + "; known: " + known + ".", "UnsupportedError");
}

const Layout& check_rows(const std::string& name, const Packed& data, int cols) {
    const Layout& layout = find_layout(name);
    if (cols < 1 || cols % layout.block != 0) {
        refuse(name + " packs " + std::to_string(layout.block) + " weights at a time, which " +
               std::to_string(cols) + " columns do not fill; choose another type for this weight.");
    }
    const size_t expected = (size_t)(cols / layout.block) * layout.bytes;
    if (data.shape(1) != expected) {
        refuse(std::to_string(cols) + " columns of " + name + " take " + std::to_string(expected) +
               " bytes a row, but the rows have " + std::to_string(data.shape(1)) +
               "; check the type and the shape of the weight.");
    }
    return layout;
}

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
    matvec(*chosen, layout, data.data(), (int)data.shape(0), cols, x.data(), (int)x.shape(0),
           out.data());
    return out;
}

static bool add_to_gram(const Sums& total, const Inputs& weighed, const Inputs& x) {
    const size_t tokens = x.shape(0), cols = x.shape(1);
    const bool fits = total.shape(0) == cols && total.shape(1) == cols &&
                      weighed.shape(0) == tokens && weighed.shape(1) == cols;
    if (!fits || total.stride(1) != 1 || weighed.stride(1) != 1 || x.stride(1) != 1) {
        refuse("inputs (tokens, " + std::to_string(cols) + ") do not match each other and their " +
               "sums (" + std::to_string(total.shape(0)) + ", " + std::to_string(total.shape(1)) +
               "), or columns do not lie side by side.");
    }
    if (chosen->add_panels == nullptr || is_exact() || tokens == 0) return false;
    nb::gil_scoped_release unlocked;
    add_gram(*chosen, {weighed.data(), (ptrdiff_t)weighed.stride(0)},
             {x.data(), (ptrdiff_t)x.stride(0)}, (int)tokens, (int)cols, total.data(),
             (ptrdiff_t)total.stride(0));
    return true;
}

static std::vector<std::string> types() {
    std::vector<std::string> names;
    for (int i = 0; i < chosen->layout_count; i++) names.push_back(chosen->layouts[i]->name);
    return names;
}

static std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const Kernels* set : available_kernels()) names.push_back(set->name);
    return names;
}

static void set_instruction_set(const std::string& name) {
    std::string known;
    for (const Kernels* set : available_kernels()) {
        known += (known.empty() ? "" : ", ") + std::string(set->name);
        if (name == set->name) {
            chosen = set;
            return;
        }
    }
    refuse("this processor has no instruction set " + name + "; known: " + known + ".",
           "UnsupportedError");
}

static void set_threads(int count) {
    if (count < 1) {
        refuse("cannot run on " + std::to_string(count) + " threads; give 1 or more.");
    }
    nb::gil_scoped_release unlocked;
    set_pool_threads(count);
}

NB_MODULE(_native, m) {
    m.doc() = "C++ kernels on packed weights; runtime.backends.native is the engine made of them.";
    m.def("types", &types, "Names of the block layouts that have a kernel.");
    m.def("decode", &decode, nb::arg("name"), nb::arg("data").noconvert(), nb::arg("cols"),
          "Packed rows uint8 (rows, row_bytes) -> float32 (rows, cols), as runtime.blocks does.\n\n"
          "Raises EdgequantError for an unknown layout or rows of another size.");
    m.def("matvec", &multiply, nb::arg("name"), nb::arg("data").noconvert(), nb::arg("cols"),
          nb::arg("x").noconvert(),
          "float32 x (n, cols) times packed rows (rows, cols), transposed -> float32 (n, rows).\n\n"
          "Activations are rounded to int8 or bfloat16 unless exact(). Equal on any number of\n"
          "threads. Raises EdgequantError for sizes that do not fit.");
    m.def("add_gram", &add_to_gram, nb::arg("total").noconvert(), nb::arg("weighed").noconvert(),
          nb::arg("x").noconvert(),
          "Add weighed^T x, float32 (tokens, cols), to the upper half of total (cols, cols), with\n"
          "inputs rounded to bfloat16. False, and nothing added, where exact() or where BLAS is as\n"
          "fast. Raises EdgequantError for sizes that do not fit.");
    m.def("threads", &pool_threads, "Threads that a kernel uses at most.");
    m.def("set_threads", &set_threads, nb::arg("count"),
          "Use `count` threads from now on. Raises EdgequantError for less than 1.");
    m.def("instruction_sets", &instruction_sets,
          "The compiled instruction sets that this processor has, simplest first.");
    m.def("instruction_set", [] { return std::string(chosen->name); }, "The one in use.");
    m.def("set_instruction_set", &set_instruction_set, nb::arg("name"),
          "Use another one of instruction_sets() (to test or time it).");
    m.def("exact", &is_exact, "Whether products are float32 throughout.");
    m.def("set_exact", &set_exact, nb::arg("exact"),
          "Products in float32 throughout (True), or with rounded activations (False, faster).");
    bind_rounder(m);
    bind_decoder(m);
}
