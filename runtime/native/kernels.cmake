# The kernels of runtime/native, compiled once for each instruction set; the best one that the
# processor has is chosen at run time. Sets KERNEL_OBJECTS and KERNEL_DEFINITIONS; OPTIMIZATION is
# the compiler's level, -O3 when it is not set.
if(NOT OPTIMIZATION)
  set(OPTIMIZATION -O3)
endif()
file(GLOB KERNEL_SOURCES CONFIGURE_DEPENDS
  "${NATIVE}/kernels.cpp" "${NATIVE}/dot.cpp" "${NATIVE}/activations.cpp"
  "${NATIVE}/gemm_int8.cpp" "${NATIVE}/gemm_amx.cpp" "${NATIVE}/syrk_bf16.cpp"
  "${NATIVE}/layouts/*.cpp" "${NATIVE}/ops/*.cpp")
file(GLOB OPS_SOURCES CONFIGURE_DEPENDS "${NATIVE}/ops/*.cpp")
file(GLOB FIT_SOURCES CONFIGURE_DEPENDS "${NATIVE}/fit/*.cpp")

# A product and the sum after it may share one rounding in a dot product and in what comes between
# the products; elsewhere they may not, because weights are decoded to the last bit.
# See gemm_short.h.
set_source_files_properties("${NATIVE}/gemm_int8.cpp" PROPERTIES COMPILE_OPTIONS
  "$<$<CXX_COMPILER_ID:GNU>:-fno-tree-reassoc;-fno-tree-ter>")

set_source_files_properties("${NATIVE}/dot.cpp" ${OPS_SOURCES} PROPERTIES
  COMPILE_OPTIONS -ffp-contract=fast)

# g++ cannot know that a layout has a group and a candidate, and warns inside its own header.
set_source_files_properties(${FIT_SOURCES} PROPERTIES COMPILE_OPTIONS
  "$<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized;-Wno-uninitialized>")

# add_kernels(<name> <fit> <flag>...) compiles the kernels into namespace <name>. Rounding (fit/) is
# compiled for <fit> alone: the instructions that only products need would not make it faster.
function(add_kernels name fit)
  add_library(kernels_${name} OBJECT ${KERNEL_SOURCES})
  if(name STREQUAL fit)
    target_sources(kernels_${name} PRIVATE ${FIT_SOURCES})
  endif()
  target_include_directories(kernels_${name} PRIVATE "${NATIVE}")
  target_compile_definitions(kernels_${name} PRIVATE KERNELS=${name} FIT=${fit})
  target_compile_options(kernels_${name} PRIVATE
    ${OPTIMIZATION} -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra -Wno-psabi ${ARGN})
  set_target_properties(kernels_${name} PROPERTIES
    POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden)
  set(KERNEL_OBJECTS ${KERNEL_OBJECTS} $<TARGET_OBJECTS:kernels_${name}> PARENT_SCOPE)
endfunction()

add_kernels(baseline baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(KERNEL_DEFINITIONS HAS_X86_KERNELS)
  set(AVX2 -mavx2 -mfma -mf16c)
  set(AVX512 ${AVX2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512
    -Wno-maybe-uninitialized -Wno-uninitialized)  # g++ 12 warns inside its own header
  add_kernels(avx2 avx2 ${AVX2})
  add_kernels(avx_vnni avx2 ${AVX2} -mavxvnni)
  add_kernels(avx512 avx512 ${AVX512})
  add_kernels(avx512_vnni avx512 ${AVX512} -mavx512vnni)
  add_kernels(avx512_bf16 avx512 ${AVX512} -mavx512vnni -mavx512bf16)
  add_kernels(amx avx512 ${AVX512} -mavx512vnni -mavx512bf16 -mamx-tile -mamx-bf16)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  set(KERNEL_DEFINITIONS HAS_ARM_KERNELS)
  add_kernels(dotprod baseline -march=armv8.2-a+dotprod)
  add_kernels(i8mm baseline -march=armv8.2-a+dotprod+i8mm)
endif()
