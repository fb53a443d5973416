"""What tests share.

The command line, from arguments to files; float runs may differ between machines, so no test pins
their numbers.
"""

import os
from pathlib import Path

import fxsim

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(fxsim.__file__).parent.parent)}
