// runtime._native.Rounder: the scale search of one block layout, and rounding with it.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "binding.h"
#include "pool.h"

namespace nb = nanobind;

using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Codes = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using PackedResult = nb::ndarray<nb::numpy, uint8_t, nb::ndim<2>>;
using Writable = nb::ndarray<float, nb::ndim<2>, nb::device::cpu>;
using WritableCodes = nb::ndarray<int32_t, nb::ndim<2>, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;
using Fitted = nb::ndarray<nb::numpy, float, nb::ndim<3>>;

// Weights worth waking a thread for: about 30 microseconds of work.
constexpr int LEAST_WEIGHTS = 1 << 13;

struct Family {
    const char* name;
    Search search;
    Form form;
};

static const Family FAMILIES[] = {
    {"symmetric", PLAIN, SYMMETRIC},       {"affine", PLAIN, AFFINE},
    {"symmetric super", SUPER, SYMMETRIC}, {"affine super", SUPER, AFFINE},
    {"onnx symmetric", ONNX, SYMMETRIC},   {"onnx zero point", ONNX, ZERO_POINT},
};

// A layout's Spec, and the tables it points to.
struct Rounder {
    std::string name;
    Spec spec = {};
    std::vector<float> nearest, snapped, points;
};

static Family family_of(const std::string& name) {
    for (const Family& family : FAMILIES) {
        if (name == family.name) return family;
    }
    refuse("there is no native scale search called " + name + "; use one of runtime.quant_types.");
}

static void check_sizes(const Spec& spec, size_t tries, size_t parts) {
    const bool fits = spec.group >= 16 && (spec.group & (spec.group - 1)) == 0 &&
                      spec.group <= 128 && spec.size % spec.group == 0 && spec.size <= MOST_SIZE &&
                      tries >= 1 && tries <= MOST_TRIES && parts <= 4 && spec.params <= MOST_PARAMS;
    if (!fits) {
        refuse("the native scale search takes groups of 16, 32, 64 or 128 in blocks of at most " +
               std::to_string(MOST_SIZE) + " weights, " + std::to_string(MOST_TRIES) +
               " candidates and 4 parts; leave such a layout to its definition.");
    }
}

static int params_of(const Spec& spec) {
    const int numbers = spec.form == SYMMETRIC ? 1 : 2;
    return spec.search == SUPER ? numbers + numbers * spec.groups : numbers;
}

static void make_rounder(Rounder* rounder, const std::string& name, const std::string& family,
                         int size, int group, std::pair<int, int> codes,
                         const std::vector<double>& first, const std::vector<double>& second,
                         std::pair<int, int> span, int rounds, const std::vector<double>& parts,
                         int middle, bool half) {
    new (rounder) Rounder;
    rounder->name = name;
    Spec& spec = rounder->spec;
    spec.search = family_of(family).search;
    spec.form = family_of(family).form;
    spec.size = size;
    spec.group = group;
    spec.groups = group > 0 ? size / group : 0;
    spec.params = params_of(spec);
    spec.low = codes.first;
    spec.high = codes.second;
    check_sizes(spec, first.size(), parts.size());
    spec.tries = (int)first.size();
    for (size_t i = 0; i < first.size(); i++) spec.first[i] = (float)first[i];
    for (size_t i = 0; i < second.size() && i < MOST_TRIES; i++) spec.second[i] = (float)second[i];
    spec.least = span.first;
    spec.most = span.second;
    spec.rounds = rounds;
    spec.parts = (int)parts.size();
    for (size_t i = 0; i < parts.size(); i++) spec.part[i] = (float)parts[i];
    spec.middle = middle;
    spec.half = half;
}

// Codes that name points: `nearest` has a code for each half step from points[0] on.
static void set_points(Rounder& rounder, const Vector& points, const Codes& nearest) {
    rounder.points.assign(points.data(), points.data() + points.size());
    rounder.nearest.assign(nearest.data(), nearest.data() + nearest.size());
    rounder.snapped.clear();
    for (float code : rounder.nearest) rounder.snapped.push_back(rounder.points.at((int)code));
    rounder.spec.nearest = rounder.nearest.data();
    rounder.spec.snapped = rounder.snapped.data();
    rounder.spec.points = rounder.points.data();
    rounder.spec.lowest = 2 * rounder.points.front();
    rounder.spec.highest = 2 * rounder.points.back();
}

template <typename Array>
static auto strided(const Array& matrix) {
    return Strided<std::remove_pointer_t<decltype(matrix.data())>>{matrix.data(), matrix.stride(0),
                                                                   matrix.stride(1)};
}

// Rows first.. of a matrix.
template <typename Number>
static Strided<Number> from_row(Strided<Number> matrix, int first) {
    return {matrix.data + first * matrix.stride, matrix.stride, matrix.step};
}

static void check_weight(const Spec& spec, const Matrix& w, const Vector& weight) {
    if (w.shape(1) % spec.size != 0 || weight.shape(0) != w.shape(1)) {
        refuse(std::to_string(w.shape(1)) + " columns with " + std::to_string(weight.shape(0)) +
               " importances do not fill blocks of " + std::to_string(spec.size) +
               "; give whole blocks and an importance for each column.");
    }
}

static Fitted new_params(const Spec& spec, const Matrix& w) {
    const size_t rows = w.shape(0), blocks = w.shape(1) / spec.size, count = spec.params;
    float* values = new float[rows * blocks * count];
    nb::capsule owner(values, [](void* p) noexcept { delete[] (float*)p; });
    return Fitted(values, {rows, blocks, count}, owner);
}

// Run job(first row, rows) over tiles of up to ROWS rows, in parallel.
template <typename Job>
static void run_tiles(size_t rows, size_t cols, Job job) {
    const int tiles = (int)((rows + ROWS - 1) / ROWS);
    const int least = std::max<int>(1, LEAST_WEIGHTS / (int)std::max<size_t>(1, ROWS * cols));
    run_parallel(tiles, least, [&](int start, int stop) {
        for (int tile = start; tile < stop; tile++) {
            job(tile * ROWS, (int)std::min<size_t>(ROWS, rows - (size_t)tile * ROWS));
        }
    });
}

static Fitted fit(const Rounder& rounder, const Matrix& w, const Vector& weight) {
    const Spec& spec = rounder.spec;
    check_weight(spec, w, weight);
    Fitted out = new_params(spec, w);
    const size_t row_params = out.shape(1) * out.shape(2);
    nb::gil_scoped_release unlocked;
    run_tiles(w.shape(0), w.shape(1), [&](int row, int rows) {
        chosen_kernels().rounding->fit(spec, from_row(strided(w), row), weight.data(), rows,
                                       (int)w.shape(1), out.data() + row * row_params);
    });
    return out;
}

// The packer of a layout; null when there is none.
static const Packer* find_packer(const std::string& name) {
    const RoundingKernels& rounding = *chosen_kernels().rounding;
    for (int i = 0; i < rounding.packer_count; i++) {
        if (name == rounding.packers[i].name) return &rounding.packers[i];
    }
    return nullptr;
}

static nb::tuple quantize(const Rounder& rounder, const std::string& type_name, const Packed& data,
                          const Vector& weight, const Vector& importance) {
    const Spec& spec = rounder.spec;
    const Packer* packer = find_packer(rounder.name);
    if (packer == nullptr) refuse(rounder.name + " has no native packer; pack it in Python.");
    const int cols = (int)weight.shape(0);
    const Layout& layout = check_rows(type_name, data, cols);
    if (layout.block != 1 || cols % spec.size != 0 || importance.shape(0) != weight.shape(0)) {
        refuse("rows of " + type_name + " with " + std::to_string(cols) + " columns and " +
               std::to_string(importance.shape(0)) +
               " importances cannot be rounded in blocks of " + std::to_string(spec.size) +
               "; give floats in whole blocks.");
    }
    const size_t rows = data.shape(0), out_bytes = (size_t)(cols / spec.size) * packer->bytes;
    uint8_t* packed = new uint8_t[rows * out_bytes];
    nb::capsule owner(packed, [](void* p) noexcept { delete[] (uint8_t*)p; });
    std::vector<Losses> losses((rows + ROWS - 1) / ROWS);
    Losses sums = {};
    {
        nb::gil_scoped_release unlocked;
        run_tiles(rows, cols, [&](size_t row, int count) {
            const Source source = {data.data() + row * data.shape(1), data.shape(1), layout.bytes,
                                   layout.decode_row};
            const Rows tile = {
                source,   count, cols, weight.data(), importance.data(), packed + row * out_bytes,
                out_bytes};
            losses[row / ROWS] = chosen_kernels().rounding->quantize(spec, *packer, tile);
        });
    }
    for (const Losses& tile : losses) {  // in order: the same on any number of threads
        sums.error += tile.error;
        sums.energy += tile.energy;
        sums.invalid += tile.invalid;
    }
    return nb::make_tuple(PackedResult(packed, {rows, out_bytes}, owner), sums.error, sums.energy,
                          sums.invalid == 0.0);
}

static void check_window(const Spec& spec, size_t cols, bool same) {
    if (cols > MOST_SIZE || cols % spec.size != 0 || !same) {
        refuse("a window of " + std::to_string(cols) + " columns in blocks of " +
               std::to_string(spec.size) + " does not match its matrices; give at most " +
               std::to_string(MOST_SIZE) + " columns, whole blocks, and matrices of that size.");
    }
}

static Fitted gptq(const Rounder& rounder, const Matrix& w, const Vector& weight,
                   const Matrix& upper, const WritableCodes& codes, const Writable& value) {
    const Spec& spec = rounder.spec;
    const size_t rows = w.shape(0), cols = w.shape(1);
    const auto whole = [&](const auto& a) { return a.shape(0) == rows && a.shape(1) == cols; };
    check_window(spec, cols,
                 whole(codes) && whole(value) && upper.shape(0) == cols && upper.shape(1) == cols &&
                     upper.stride(1) == 1 && weight.shape(0) == cols);
    Fitted out = new_params(spec, w);
    const size_t row_params = out.shape(1) * out.shape(2);
    nb::gil_scoped_release unlocked;
    run_tiles(rows, cols * cols / 8, [&](int row, int count) {
        const Window tile = {count,
                             (int)cols,
                             from_row(strided(w), row),
                             weight.data(),
                             strided(upper),
                             out.data() + row * row_params,
                             from_row(strided(codes), row),
                             from_row(strided(value), row)};
        chosen_kernels().rounding->gptq(spec, tile);
    });
    return out;
}

// Columns first.. of a matrix.
template <typename Number>
static Strided<Number> from_col(Strided<Number> matrix, int first) {
    return {matrix.data + first * matrix.step, matrix.stride, matrix.step};
}

static void recode(const Rounder& rounder, const Matrix& scale, const Matrix& offset,
                   const Matrix& hessian, int start, const WritableCodes& codes,
                   const Writable& value, const Writable& pull) {
    const Spec& spec = rounder.spec;
    const size_t rows = pull.shape(1), cols = pull.shape(0), size = spec.size;
    const auto block = [&](const auto& a) { return a.shape(0) == size && a.shape(1) == rows; };
    check_window(spec, cols,
                 block(scale) && block(offset) && block(codes) && block(value) &&
                     hessian.shape(0) == cols && hessian.shape(1) == cols &&
                     hessian.stride(1) == 1 && start >= 0 && start + size <= cols);
    nb::gil_scoped_release unlocked;
    run_tiles(rows, size * cols / 8, [&](int row, int count) {
        const Descent tile = {count,
                              (int)cols,
                              start,
                              from_col(strided(scale), row),
                              from_col(strided(offset), row),
                              strided(hessian),
                              from_col(strided(codes), row),
                              from_col(strided(value), row),
                              from_col(strided(pull), row)};
        chosen_kernels().rounding->recode(spec, tile);
    });
}

void bind_rounding(nb::module_& m) {
    nb::set_leak_warnings(false);  // block layouts keep their Rounder until the process ends
    nb::class_<Rounder>(m, "Rounder", "The scale search of one layout; see runtime.quant_types.")
        .def("__init__", &make_rounder, nb::arg("name"), nb::arg("family"), nb::arg("size"),
             nb::arg("group"), nb::arg("codes"), nb::arg("first"),
             nb::arg("second") = std::vector<double>(), nb::arg("span") = std::pair<int, int>(0, 0),
             nb::arg("rounds") = 1, nb::arg("parts") = std::vector<double>(), nb::arg("middle") = 0,
             nb::arg("half") = false,
             "Raises EdgequantError for a family or for sizes that it does not know.")
        .def("set_points", &set_points, nb::arg("points"), nb::arg("nearest"),
             "Let codes name points; `nearest` is the code of every half step from the first on.")
        .def(
            "fit", &fit, nb::arg("w").noconvert(), nb::arg("weight").noconvert(),
            "float32 w (rows, cols), importance (cols,) beside its block -> the stored numbers of\n"
            "each block, float32 (rows, blocks, numbers).")
        .def_prop_ro(
            "packs", [](const Rounder& r) { return find_packer(r.name) != nullptr; },
            "Whether `quantize` knows the layout's bytes.")
        .def("quantize", &quantize, nb::arg("type_name"), nb::arg("data").noconvert(),
             nb::arg("weight").noconvert(), nb::arg("importance").noconvert(),
             "Rows of float type F32, F16 or BF16 -> packed rows, the sums of importance (cols,)\n"
             "times error and weight squared, and whether all weights are finite.")
        .def("gptq", &gptq, nb::arg("w").noconvert(), nb::arg("weight").noconvert(),
             nb::arg("upper").noconvert(), nb::arg("codes").noconvert(),
             nb::arg("value").noconvert(),
             "GPTQ's loop over a window of columns w (rows, cols), at most 256; fills codes and\n"
             "value, and returns the stored numbers like `fit`.")
        .def("recode", &recode, nb::arg("scale").noconvert(), nb::arg("offset").noconvert(),
             nb::arg("hessian").noconvert(), nb::arg("start"), nb::arg("codes").noconvert(),
             nb::arg("value").noconvert(), nb::arg("pull").noconvert(),
             "Coordinate descent over the codes of a block, which starts at a column of its\n"
             "window; all matrices are (columns, rows), and change in place.");
}
