"""The command line: each body builds a Plan or opens files and calls one function.

    interrupt.py  Ctrl-C
    program.py    every command by its name, exit codes
    make.py       run, plan, convert, imatrix, mmproj
    judge.py      check, compare, attest
    use.py        generate, score, bench
    look.py       verify, history, show, list
    options.py    the flags that several commands share
    screen.py     what is printed where
    system.py     what the system refuses

What a command needs is imported in its body: `--help` waits for no torch.
"""

import sys
from contextlib import suppress
from typing import NoReturn

from quantize.cli import interrupt


def main() -> NoReturn:
    """Run the command line: exit 0 ok, 1 gate failed, 2 bad input, 3 our fault, 4 gate open.

    130 after Ctrl-C and 141 when nobody reads the output any more, as of other programs.
    """
    interrupt.watch()
    try:
        # imported here: Ctrl-C counts meanwhile, too
        from quantize.cli import program

        code = program.run()
        interrupt.check()
        interrupt.too_late()
    except BaseException:
        if not interrupt.pressed():
            raise
        with suppress(OSError):  # nobody may be reading any more
            print(interrupt.sentence(), file=sys.stderr, flush=True)
        code = interrupt.EXIT
    sys.exit(code)


__all__ = ["main"]
