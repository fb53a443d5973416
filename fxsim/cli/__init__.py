"""The command line, `fxsim`."""

from fxsim.cli.parser import main

__all__ = ["main"]
