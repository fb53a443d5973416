"""What is tested is the installed package.

Hypothesis is derandomized: the same cases on every machine, FXSIM_EXAMPLES of each property.
"""

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from hypothesis import settings

CHECKOUT = Path(__file__).resolve().parent.parent

# `python -m pytest` puts the checkout first on the path, where it would hide an installed fxsim.
elsewhere = [entry for entry in sys.path if Path(entry).resolve() != CHECKOUT]
if PathFinder.find_spec("fxsim", elsewhere):
    sys.path[:] = elsewhere

EXAMPLES = int(os.environ.get("FXSIM_EXAMPLES", "50"))
settings.register_profile(
    "fxsim", derandomize=True, deadline=None, database=None, max_examples=EXAMPLES
)
settings.load_profile("fxsim")
