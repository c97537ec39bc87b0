"""The command line: `quantize`, or `python -m edgequant`."""

import sys
from typing import NoReturn

from edgequant._packages import refuse_shadowed


def main() -> NoReturn:
    """Run the program, once it is sure that the packages it imports are its own."""
    try:
        refuse_shadowed()
    except ImportError as error:
        print(f"error {error}", file=sys.stderr)
        sys.exit(2)
    from quantize.cli import main as run

    run()


if __name__ == "__main__":
    main()
