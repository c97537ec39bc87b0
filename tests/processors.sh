#!/usr/bin/env bash
# The tests that compare numbers (marker `numeric`), with torch, MKL, oneDNN, OpenBLAS and our own
# kernels held to what other processors have; then the quick ones of them beside busy programs.
# PYTHON is an interpreter with the project's dependencies; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
more=("$@")

has() { # INSTRUCTION_SET: whether this processor has it
    "$PYTHON" -c "from runtime import _native; exit('$1' not in _native.instruction_sets())"
}

numeric() { # NAME MARKS INSTRUCTION_SET VARIABLE=VALUE...: one run
    echo "$1"
    env "${@:4}" "$PYTHON" -m pytest -q -n auto -m "$2" --instruction-set "$3" \
        tests/export tests/quantize tests/runtime "${more[@]}"
}

numeric "simplest" numeric baseline ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE \
    ONEDNN_MAX_CPU_ISA=SSE41 OPENBLAS_CORETYPE=Prescott
if has avx512; then
    numeric "AVX2" numeric avx2 ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2 \
        ONEDNN_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Haswell
    numeric "AVX-512" numeric avx512 ATEN_CPU_CAPABILITY=avx512 MKL_CBWR=AVX512 \
        ONEDNN_MAX_CPU_ISA=AVX512_CORE OPENBLAS_CORETYPE=SkylakeX
else
    echo "AVX2: what the other tests ran with; AVX-512: skipped, this processor has none"
    # libraries that choose for themselves need not choose alike
    numeric "mixed" "numeric and not slow" baseline MKL_CBWR=SSE4_2 ONEDNN_MAX_CPU_ISA=AVX OPENBLAS_CORETYPE=Sandybridge
fi

echo "every core busy"
busy=()
trap 'kill "${busy[@]}"' EXIT
for _ in $(seq "$(nproc)"); do
    "$PYTHON" -c "while True: pass" &
    busy+=($!)
done
"$PYTHON" -m pytest -q -n auto -m "numeric and not slow" tests/export tests/quantize tests/runtime \
    "${more[@]}"
"$PYTHON" -m pytest -q tests/quantize/test_resume.py -k ctrl_c "${more[@]}"
