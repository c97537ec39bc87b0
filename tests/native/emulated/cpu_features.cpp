// The kernels that need AVX-512.
#include "../../../runtime/native/cpu_features.h"

std::vector<const Kernels*> available_kernels() {
    return {&avx512::kernels, &avx512_bf16::kernels, &amx::kernels};
}
