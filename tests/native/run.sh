#!/usr/bin/env bash
# Compile the kernels' test program with sanitizers and run it; then with AVX-512 and AMX emulated,
# and for 64-bit ARM under an emulator. All must decode the same weights. Says so when a tool is
# missing.
set -euo pipefail
cd "$(dirname "$0")"
CMAKE=${CMAKE:-cmake}
BUILD=$PWD/../../build/kernel-tests

build() { # folder, then cmake's options
    "$CMAKE" -S . -B "$BUILD/$1" "${@:2}" >/dev/null
    "$CMAKE" --build "$BUILD/$1" -j "$(nproc)" --target kernel_tests decoder_tests >/dev/null
}

build here -DSANITIZE=ON
"$BUILD/here/kernel_tests" | tee "$BUILD/here.txt"
"$BUILD/here/decoder_tests"

if [ "$(uname -m)" != x86_64 ] || [ ! -f /usr/include/simde/x86/avx512.h ]; then
    echo "SKIPPED AVX-512 and AMX, emulated: install libsimde-dev, on x86-64"
else
    build emulated -DEMULATE=ON -DCMAKE_BUILD_TYPE=Release
    "$BUILD/emulated/kernel_tests" > "$BUILD/emulated.txt"
    "$BUILD/emulated/decoder_tests"
    diff <(grep -v "^ran " "$BUILD/here.txt") <(grep -v "^ran " "$BUILD/emulated.txt")
    echo "AVX-512 and AMX, emulated, decode the same weights and multiply right"
fi

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
