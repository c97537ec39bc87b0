#!/usr/bin/env bash
# Compile the kernels' test program with sanitizers, AVX-512 and AMX emulated, and run it; then do
# the same for 64-bit ARM under an emulator; both must decode the same weights. Says so when a tool
# is missing.
set -euo pipefail
cd "$(dirname "$0")"
CMAKE=${CMAKE:-cmake}
BUILD=$PWD/../../build/kernel-tests

build() { # folder, then cmake's options
    "$CMAKE" -S . -B "$BUILD/$1" "${@:2}" >/dev/null
    "$CMAKE" --build "$BUILD/$1" -j "$(nproc)" --target kernel_tests decoder_tests >/dev/null
}

emulate=OFF
if [ -f /usr/include/simde/x86/avx512.h ] && grep -qs avx2 /proc/cpuinfo; then
    emulate=ON
else
    echo "SKIPPED what this processor has not: install libsimde-dev, on x86-64 with AVX2"
fi
build here -DSANITIZE=ON -DEMULATE=$emulate
"$BUILD/here/kernel_tests" | tee "$BUILD/here.txt"
"$BUILD/here/decoder_tests"

if ! command -v aarch64-linux-gnu-g++ >/dev/null || ! command -v qemu-aarch64 >/dev/null; then
    echo "SKIPPED 64-bit ARM: install g++-aarch64-linux-gnu and qemu-user"
    exit 0
fi
build arm -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
qemu-aarch64 -L /usr/aarch64-linux-gnu "$BUILD/arm/kernel_tests" > "$BUILD/arm.txt"
diff "$BUILD/here.txt" "$BUILD/arm.txt"
qemu-aarch64 -L /usr/aarch64-linux-gnu "$BUILD/arm/decoder_tests"
echo "64-bit ARM decodes the same weights and multiplies right"
