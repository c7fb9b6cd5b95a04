"""`python -m vaswani_tx` is the command `vaswani-tx`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
