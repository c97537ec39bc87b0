#include "binding.h"

#include <cstring>

#include "codebooks.h"
#include "cpu_features.h"

static const Kernels* chosen = available_kernels().back();

const Kernels& chosen_kernels() { return *chosen; }

void choose_kernels(const std::string& name) {
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

void refuse(const std::string& sentence, const char* error_class) {
    namespace nb = nanobind;
    nb::object error = nb::module_::import_("runtime.errors").attr(error_class);
    PyErr_SetString(error.ptr(), sentence.c_str());
    throw nb::python_error();
}

// The codebook of a type, if it has one, as Python has it.
static void fill_codebook(const std::string& name) {
    namespace nb = nanobind;
    Codebook* book = codebook_of(name.c_str());
    if (book == nullptr || book->filled) return;
    const nb::object module = nb::module_::import_("runtime.quant_types.codebooks");
    using Points = nb::ndarray<const int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
    const Points points = nb::cast<Points>(module.attr("codebook")(name.c_str()), false);
    if (points.nbytes() != book->bytes) {
        refuse("the gguf package has another codebook of " + name + "; install gguf 0.17 or later.",
               "UnsupportedError");
    }
    memcpy(book->points, points.data(), book->bytes);
    book->filled = true;
}

static const Layout& find_layout(const std::string& name) {
    const Kernels& kernels = chosen_kernels();
    std::string known;
    for (int i = 0; i < kernels.layout_count; i++) {
        if (name == kernels.layouts[i]->name) {
            fill_codebook(name);
            return *kernels.layouts[i];
        }
        known += (i ? ", " : "") + std::string(kernels.layouts[i]->name);
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
