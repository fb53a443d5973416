"""Imports point one way; what the package never does."""

import ast
from pathlib import Path

import pytest

import fxsim

ROOT = Path(fxsim.__file__).parent
MODULES = {
    ".".join(("fxsim", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(ROOT.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}

UPPER = (
    "fxsim.train",
    "fxsim.analysis",
    "fxsim.designs",
    "fxsim.golden",
    "fxsim.report",
    "fxsim.experiment.study",
    "fxsim.cli.parser",
    "fxsim.datasets",
)
FORBIDDEN = {
    "fxsim.errors": ("fxsim",),
    "fxsim.formats": ("fxsim.nn", "fxsim.tensor", "fxsim.nn.precision", *UPPER),
    "fxsim.rng": ("fxsim.nn", "fxsim.tensor", "fxsim.nn.precision", *UPPER),
    "fxsim.requantizer": ("fxsim.nn", "fxsim.tensor", "fxsim.nn.precision", *UPPER),
    "fxsim.tensor": ("fxsim.nn", "fxsim.nn.precision", *UPPER),
    "fxsim.nn.precision": (
        "fxsim.tensor",
        "fxsim.nn.fixed.network",
        "fxsim.nn.floating.network",
        *UPPER,
    ),
    "fxsim.datasets": ("fxsim.train", "fxsim.analysis", "fxsim.report", "fxsim.cli.parser"),
    "fxsim.nn": UPPER,
    "fxsim.analysis": ("fxsim.train", "fxsim.report", "fxsim.cli.parser"),
    "fxsim.train": ("fxsim.report", "fxsim.cli.parser"),
    "fxsim.golden": ("fxsim.report", "fxsim.cli.parser"),
    "fxsim.report": ("fxsim.cli.parser",),
}
"""Layer -> what it must not import, each name with all that is below it."""


def imports(name):
    """Absolute names that module `name` imports, wherever in the file."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            base = ".".join((*above, *filter(None, [node.module])))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name, layer):
    return name == layer or name.startswith(f"{layer}.")


def test_there_is_something_to_read():
    assert {"fxsim", "fxsim.kernels.rounding", "fxsim.nn.spec"} <= set(MODULES)
    assert "fxsim.kernels.rounding" in set(imports("fxsim.formats"))


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, "fxsim.kernels")])
def test_kernels_import_only_kernels(name):
    assert [
        other
        for other in imports(name)
        if within(other, "fxsim") and not within(other, "fxsim.kernels")
    ] == []


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_a_layer_imports_nothing_above_it(layer):
    upward = [
        (name, other)
        for name in MODULES
        if within(name, layer)
        for other in imports(name)
        if any(within(other, above) for above in FORBIDDEN[layer])
    ]
    assert upward == []


def test_the_network_definition_has_no_arithmetic():
    arithmetic = ("numpy", "fxsim.kernels", "fxsim.tensor")
    assert [
        other
        for other in imports("fxsim.nn.spec")
        if any(within(other, name) for name in arithmetic)
    ] == []


def test_modules_do_not_import_each_other_in_circles():
    graph = {
        name: {other for other in imports(name) if other in MODULES and other != name}
        for name in MODULES
    }
    graph.pop("fxsim")
    done = set()

    def visit(name, path):
        assert name not in path, f"circle: {' -> '.join((*path, name))}"
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", MODULES)
def test_matplotlib_is_for_plots_only(name):
    assert name == "fxsim.report.plots" or not [
        other for other in imports(name) if within(other, "matplotlib")
    ]


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_pickled_or_asserted(name):
    assert not {"pickle", "cPickle", "shelve", "marshal", "dill"} & {
        other.partition(".")[0] for other in imports(name)
    }
    for node in ast.walk(TREES[name]):
        assert not isinstance(node, ast.Assert), (
            f"line {node.lineno}: assert does not check in an optimized run"
        )
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), f"line {node.value.lineno}"
            assert node.value.value is False, f"line {node.value.lineno}: allow_pickle"


@pytest.mark.parametrize("name", [name for name in MODULES if name != "fxsim.kernels.jit"])
def test_numba_options_are_in_one_place(name):
    used = [
        node.attr
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "numba"
    ]
    assert not {"njit", "jit", "vectorize", "guvectorize"} & set(used)
    assert not {"numba.njit", "numba.jit", "numba.vectorize", "numba.guvectorize"} & set(
        imports(name)
    )


def test_the_twins_import_neither_numpy_nor_fxsim():
    for path in (Path(__file__).parent / "oracle").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not [
                name
                for name in names
                if name.partition(".")[0] in ("numpy", "fxsim", "numba", "scipy")
            ], path
