"""Type checkers see the public names of fxsim, and those that users get from them."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fxsim
from fxsim import testing

PROGRAM = """
import fxsim
from fxsim import Dense, FixedNetwork, Format, Network, Quantizer, ops, quantize
from fxsim.nn.init import initial_parameters
from fxsim.nn.precision import PrecisionAssignment
from fxsim.testing import tensors

x = quantize([[0.5]], Format(8, 0))
network = Network("one", (1, 1, 1), (Dense(name="scores", units=2, relu=False),))


def train(assignment: PrecisionAssignment) -> None:
    fixed = FixedNetwork(network, assignment, initial_parameters(network, 1))
    reveal_type(fixed.train_step(x.codes, [0], 0.5, 0).loss)


reveal_type(x.codes)
reveal_type(quantize([0.5], Format(8, 0), counts=True))
reveal_type(x @ x)
reveal_type((x @ x + x).to(Quantizer(Format(8, 0), "floor")))
reveal_type(ops.conv2d(x, x, stride=2).to(Format(8, 0)))
reveal_type(network.layers[0])
reveal_type(fxsim.Stream(1, 2, "name").words(3))
reveal_type(fxsim.ROUNDINGS[0])
reveal_type(tensors)
"""

REVEALED = [
    "float",
    "ndarray",
    "tuple[Tensor, Counts]",
    "Exact",
    "Tensor",
    "Tensor",
    "Conv | Dense",
    "ndarray",
    "str",
    "def (format: Format | SearchStrategy[Format] | None =, "
    "shape: tuple[int, ...] | SearchStrategy[tuple[int, ...]] | None =) -> SearchStrategy[Tensor]",
]

MISTAKES = [
    ("from fxsim import Formats", "attr-defined"),
    ("from fxsim import Format; Format('8', 0)", "arg-type"),
    ("import fxsim; fxsim.quantise([1.0], fxsim.Format(8, 0))", "attr-defined"),
    ("from fxsim import ops; ops.conv3d", "attr-defined"),
    ("from fxsim import Format, Tensor; Tensor([1], Format(8, 0)) @ 3", "operator"),
    ("from fxsim import Format, Tensor; Tensor([1], Format(8, 0)).code", "attr-defined"),
    ("from fxsim.testing import tensor", "attr-defined"),
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What `mypy --strict` says about the program, then about the file of mistakes, by line."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    folder = tmp_path_factory.mktemp("user")
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    lines = [mistake for mistake, _ in MISTAKES]
    (folder / "mistakes.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "program.py"]
    environment = dict(os.environ)
    parent = Path(fxsim.__file__).parents[1]
    if parent.name != "site-packages":  # mypy does not follow an editable installation
        environment["MYPYPATH"] = str(parent)
    run = subprocess.run(
        [*command, "mistakes.py"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert not run.stderr, run.stderr
    return run.stdout.splitlines()


def short(kind):
    """A type without its modules, an array's without its parameters."""
    names = re.sub(r"(\w+\.)+(?=\w)", "", kind)
    return re.sub(r"ndarray\[.*\]\]", "ndarray", names)


def test_public_names_have_types(reports):
    own = [line for line in reports if line.startswith("program.py")]
    assert not [line for line in own if "note: Revealed type is" not in line]
    revealed = [re.search(r'Revealed type is "(.*)"', line)[1] for line in own]
    assert [short(kind) for kind in revealed] == REVEALED


def test_mistakes_are_errors(reports):
    found = {}
    for line in reports:
        match = re.match(r"mistakes\.py:(\d+): error: .*\[([\w-]+)\]$", line)
        if match:
            found[int(match[1])] = match[2]
    assert found == {number: code for number, (_, code) in enumerate(MISTAKES, start=1)}


def checked_names(module):
    """The names that a module imports for type checkers only."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_type_checkers_and_python_find_the_same_names():
    homes = fxsim._HOME | dict.fromkeys(fxsim._MODULES, "fxsim")
    assert checked_names(fxsim) == homes
    assert sorted(fxsim.__all__) == sorted(["__version__", *homes])
    for name in fxsim.__all__:
        assert getattr(fxsim, name) is not None


def test_type_checkers_and_python_find_the_same_names_for_tests():
    homes = {name: f"fxsim.testing.{home}" for name, home in testing._HOME.items()}
    assert checked_names(testing) == homes
    assert set(testing.__all__) >= set(homes)


def test_a_name_that_is_missing_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fxsim' has no attribute 'Formats'"):
        fxsim.Formats  # noqa: B018 - the access is what is tested
