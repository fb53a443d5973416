"""Every module has its place in an ordered list of layers; imports point one way."""

import ast
import importlib
import re
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

LAYERS = (
    ("errors", "fields", "files", "interrupts", "identity", "lock"),
    ("kernels",),
    (
        "formats",
        "rng",
        "lfsr",
        "words",
        "factors",
        "accumulator",
        "activation",
        "exponential",
        "arrays",
        "communicator",
        "memfile",
        "mpi",
        "windows",
    ),
    ("quantizer", "tensor", "profiles"),
    ("ops",),
    ("datasets",),
    ("nn", "machine", "presets"),
    ("analysis", "golden", "interchange"),
    ("train",),
    ("report",),
    ("experiment", "testing"),
    ("cli", "__main__"),
)
"""From the ground up.  A module imports from its own layer and from those before it."""

USE_KERNELS = (
    "formats",
    "rng",
    "lfsr",
    "accumulator",
    "quantizer",
    "tensor",
    "ops",
    "nn.floating",
)
"""Who may import kernels, beside the kernels; `machine` may too, since it reports on them."""


def running_nodes(tree):
    """All nodes but those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from running_nodes(node)


def imports(name):
    """Absolute names that module `name` imports, wherever in the file."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in running_nodes(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            levels = package.split(".")
            above = levels[: len(levels) - node.level + 1] if node.level else []
            base = ".".join((*above, *filter(None, [node.module])))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name, place):
    return name == place or name.startswith(f"{place}.")


def layer_of(name):
    """The number of the layer to which a module belongs."""
    places = [
        number
        for number, layer in enumerate(LAYERS)
        for place in layer
        if within(name, f"fxsim.{place}")
    ]
    assert len(places) == 1, f"{name} belongs to {len(places)} layers; give it one place in LAYERS"
    return places[0]


def imported_modules(name):
    """Modules of fxsim that module `name` imports; names that a module exports count as it."""
    for other in imports(name):
        if within(other, "fxsim") and other != "fxsim":
            module = other if other in MODULES else other.rpartition(".")[0]
            if module in MODULES and module != "fxsim":
                yield module


def test_there_is_something_to_read():
    assert {"fxsim", "fxsim.kernels.rounding", "fxsim.nn.spec"} <= set(MODULES)
    assert "fxsim.kernels.rounding" in set(imports("fxsim.formats"))


def test_every_place_in_the_list_exists():
    for layer in LAYERS:
        for place in layer:
            assert any(within(name, f"fxsim.{place}") for name in MODULES), place


@pytest.mark.parametrize("name", [name for name in MODULES if name != "fxsim"])
def test_a_module_imports_from_its_own_layer_and_those_before(name):
    own = layer_of(name)
    assert [other for other in imported_modules(name) if layer_of(other) > own] == []


@pytest.mark.parametrize("name", [name for name in MODULES if not within(name, "fxsim.kernels")])
def test_only_these_import_kernels(name):
    allowed = any(within(name, f"fxsim.{place}") for place in (*USE_KERNELS, "machine"))
    used = [other for other in imported_modules(name) if within(other, "fxsim.kernels")]
    assert allowed or used == []


def test_the_network_definition_has_no_arithmetic():
    arithmetic = ("numpy", "fxsim.kernels", "fxsim.tensor")
    assert [
        other
        for other in imports("fxsim.nn.spec")
        if any(within(other, name) for name in arithmetic)
    ] == []


def test_modules_do_not_import_each_other_in_circles():
    graph = {
        name: {other for other in imports(name) if other in MODULES and not within(name, other)}
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


@pytest.mark.parametrize("name", [name for name in MODULES if not within(name, "fxsim.kernels")])
def test_functions_take_few_arguments(name):
    """tests/kernels/test_sources.py has the limit of kernels."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = node.args
            names = [
                argument.arg
                for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
                if argument.arg not in ("self", "cls")
            ]
            assert len(names) <= 8, f"line {node.lineno}: {node.name} takes {len(names)}"


def test_no_test_file_imports_a_test_file():
    for path in Path(__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.rpartition(".")[2].startswith("test_"), path


def test_the_twins_import_neither_numpy_nor_fxsim():
    forbidden = ("numpy", "fxsim", "numba", "scipy")
    for path in (Path(__file__).parent / "oracle").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            assert not [name for name in names if name.partition(".")[0] in forbidden], path


def test_files_that_texts_name_exist():
    root = Path(__file__).parents[1]
    sources = [root / "README.md", root / ".github" / "CONTRIBUTING.md", root / "setup.cfg"]
    for folder in ("fxsim", "tests", "benchmarks"):
        sources += [*(root / folder).rglob("*.py"), *(root / folder).rglob("*.md")]
    places = (root, root / "fxsim", root / "tests")
    missing = []
    for source in sources:
        text = source.read_text(encoding="utf-8")
        for named in re.findall(r"(?<![\w/.-])(?:[a-z_]+/)+[a-z_]+\.(?:py|md|txt)\b", text):
            if not any((place / named).exists() for place in (*places, source.parent)):
                missing.append(f"{source.relative_to(root)}: {named}")
    assert missing == []


def test_benchmarks_import_names_that_are_there():
    """They run by hand, some beside packages that the tests have not."""
    missing = []
    for path in (Path(__file__).parents[1] / "benchmarks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and within(node.module or "", "fxsim"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}" in MODULES
                    if not submodule and not hasattr(module, alias.name):
                        missing.append(f"{path.name}: {node.module}.{alias.name}")
    assert missing == []
