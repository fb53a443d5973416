"""`python -m fxsim` is the command `fxsim`."""

import sys

from fxsim.cli.parser import main

if __name__ == "__main__":
    sys.exit(main())
