// The kernels that need AVX-512, all of them.
#include "../../../runtime/native/cpu_features.h"

std::vector<const Kernels*> available_kernels() {
    return {&avx2::kernels, &avx512::kernels, &avx512_vnni::kernels, &avx512_bf16::kernels,
            &amx::kernels};
}
