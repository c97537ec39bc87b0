#!/usr/bin/env bash
# torch 2.13.0 on a CPU with AVX2: an elementwise function need not give the same bits with another
# number of threads. silu, sigmoid and a power with a fraction compute the end of each thread's share,
# what does not fill a vector, with other code than the rest, so that some numbers there change in their
# last bit when the shares do. Shares of whole vectors, as with 1, 2 and 4 threads and a power of two of
# numbers, agree, and so do exp and tanh, whatever the threads. A product of matrices depends on the
# number of threads, too, from 3 on, but only where it has few columns. Whoever wants files to be equal
# byte for byte on laptops with 6 cores and with 8 has to know.
# Seen 2026-12-01: "silu: 2 threads True, 3 threads False, 4 threads True" and "exp: ... True" three
# times, "product with 20 columns: 2 threads True, 3 threads False, 4 threads False", with 64 True.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 numpy==2.4.6
cat > try.py <<'PY'
import torch

random = torch.Generator().manual_seed(1)
x = torch.randn(1 << 18, generator=random)
left, narrow, wide = (torch.randn(n, 896, generator=random) for n in (512, 20, 64))


def alike(name, compute):
    """Whether 2, 3 and 4 threads give the bits of one."""
    found = []
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        found.append(compute())
    same = [torch.equal(found[0], other) for other in found[1:]]
    print(f"{name}:", ", ".join(f"{n} threads {yes}" for n, yes in zip((2, 3, 4), same)))
    return same


expected = {
    "silu": (lambda: torch.nn.functional.silu(x), [True, False, True]),
    "exp": (lambda: torch.exp(x), [True, True, True]),
    "tanh": (lambda: torch.tanh(x), [True, True, True]),
    "product with 20 columns": (lambda: left @ narrow.T, [True, False, False]),
    "product with 64 columns": (lambda: left @ wide.T, [True, True, True]),
}
right = [alike(name, compute) == seen for name, (compute, seen) in expected.items()]
raise SystemExit(0 if all(right) else 1)
PY
env/bin/python try.py
