"""Optional import of the compiled extension; `kernels` is None when it was not built.

`runtime/backends/native.py` needs it, and says how to compile it.
"""

from typing import Any

try:
    from runtime import _native
except ImportError:
    _native = None

kernels: Any = _native


def kernels_read(*tensors: Any) -> bool:
    """Whether C++ can work on torch tensors: they are float32 on the CPU."""
    return all(t.device.type == "cpu" and str(t.dtype) == "torch.float32" for t in tensors)
