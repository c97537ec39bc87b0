"""What computes a run: the code of the program, and the machine."""

import hashlib
import importlib.util
from pathlib import Path

import numpy
import torch

import calib_data
import export
import quantize
import runtime
from runtime.compiled import kernels


def code_version() -> str:
    """Version and sha256 of the program's own code: changed code never continues old work."""
    digest = hashlib.sha256(quantize.__version__.encode())
    for package in (calib_data, runtime, export, quantize):
        for path in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            digest.update(path.read_bytes())
    kernels = importlib.util.find_spec("runtime._native")
    if kernels and kernels.origin:
        digest.update(Path(kernels.origin).read_bytes())
    return digest.hexdigest()


def processor() -> str:
    """What decides in which order numbers are added: the maker, and the instruction sets."""
    sets = [torch.backends.cpu.get_cpu_capability()]
    sets += kernels.instruction_sets() if kernels else ["no compiled extension"]
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    maker = next((line.partition(":")[2].strip() for line in lines if "vendor_id" in line), "")
    return " ".join(filter(None, [maker, *sets]))


def machine() -> dict[str, str]:
    """What may change the last bit of a sum, and nothing else."""
    return {
        "the processor": processor(),
        "the number of threads": str(torch.get_num_threads()),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }
