"""The C++ of runtime/native for those who can do without it: `kernels`, None where not compiled.

`runtime/backends/native.py` cannot, and says how to compile it.
"""

from typing import Any

try:
    from runtime import _native
except ImportError:
    _native = None

kernels: Any = _native
