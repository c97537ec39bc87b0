"""`python -m quantize.cli`: the same program as `quantize`."""

from quantize.cli import main

if __name__ == "__main__":
    main()
