"""The command line: each body builds a Plan or opens files and calls one function.

    program.py  every command by its name, exit codes
    make.py     run, plan, imatrix
    judge.py    check, compare
    use.py      generate, bench
    look.py     show, list
    options.py  the flags that several commands share
    screen.py   what is printed where

What a command needs is imported in its body: `--help` waits for no torch.
"""

from quantize.cli.program import app, main

__all__ = ["app", "main"]
