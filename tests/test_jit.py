"""For which processor kernels are compiled, and when they are compiled anew."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fxsim


@pytest.mark.parametrize("name, value", [("NUMBA_CPU_NAME", "generic"), ("NUMBA_CPU_FEATURES", "+sse4.2,+avx2"),
                                         ("NUMBA_DISABLE_JIT", "1")])
def test_paths_are_those_of_the_processor_that_numba_compiles_for(name, value):
    program = "from fxsim.nn.products import forward_paths; print(*forward_paths())"
    own = {key: known for key, known in os.environ.items() if not key.startswith("NUMBA_CPU")} | {name: value}
    run = subprocess.run([sys.executable, "-c", program], env=own, capture_output=True, text=True, timeout=300, check=True)
    assert run.stdout.split() == (["int16_avx2", "split_avx2", "plain"] if "avx2" in value else ["plain"])


def test_a_change_of_any_kernel_compiles_all_anew(tmp_path):
    """Not only of the file that the function is in: kernels call each other."""
    package = Path(fxsim.__file__).parent
    shutil.copytree(package, tmp_path / "fxsim", ignore=shutil.ignore_patterns("__pycache__"))
    program = ("import numpy as np; from fxsim.kernels.gate import channel_sums; channel_sums(np.ones((2, 3), np.int16)); "
               "from fxsim.kernels.gate import _channel_sums; print(sum(_channel_sums.stats.cache_hits.values()))")
    hits = []
    for change in (False, False, True):
        if change:
            other = tmp_path / "fxsim" / "kernels" / "softmax.py"
            other.write_text(other.read_text() + "\n")
        run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        hits.append(run.stdout.strip())
    assert hits == ["0", "1", "0"], run.stderr
