// The kernels that run here, be it in emulation.
#include "../../../runtime/native/cpu_features.h"

std::vector<const Kernels*> available_kernels() {
    return {&baseline::kernels, &avx2::kernels, &avx512::kernels, &avx512_bf16::kernels,
            &amx::kernels};
}
