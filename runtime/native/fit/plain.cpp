// One scale, or a scale and a minimum, for a whole block: runtime/quant_types/plain.py.
#include "fitters.h"

namespace KERNELS {

void fit_symmetric(const Spec& spec, const float* x, const float* weighted, const float* weight,
                   float* params) {
    const Group group = new_group(x, weighted, weight, spec.size);
    store(params, float16(search_scale(spec, group)));
}

void fit_affine(const Spec& spec, const float* x, const float* weighted, const float* weight,
                float* params) {
    const Group given = new_group(x, weighted, weight, spec.size);
    const Floats<> mean = given.first / given.mass;  // sums of squares around it keep their digits
    float centred[MOST_SIZE * ROWS], products[MOST_SIZE * ROWS];
    for (int i = 0; i < spec.size; i++) {
        const Floats<> here = load(x + i * ROWS) - mean;
        store(centred + i * ROWS, here);
        store(products + i * ROWS, weight[i] * here);
    }
    const Group group = new_group(centred, products, weight, spec.size);
    const Line found = search_line(spec, group, false);
    const Sums sums = line_sums(spec, group, found);
    const Floats<> d = float16(best_line(group, sums, found, false).scale);
    store(params, d);
    // the minimum that is best beside the scale as stored
    store(params + ROWS, float16(mean + (group.first - d * sums.codes) / group.mass));
}

}  // namespace KERNELS
