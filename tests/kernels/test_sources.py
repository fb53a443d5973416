"""What the sources of kernels keep to."""

import ast
from pathlib import Path

import pytest

import fxsim

ROOT = Path(fxsim.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
KERNELS = [path for path in FILES if path.is_relative_to(ROOT / "kernels")]
COMPILERS = {"jit", "njit", "intrinsic", "overload"}
MOST_ARGUMENTS = 12


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def typings_own(tree):
    """Names that a file has from `typing`, whose `overload` compiles nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "typing":
            yield from (alias.name for alias in node.names)


def compiled(path):
    """Names of the functions of a file that a decorator or a call hands to the compiler."""
    tree = tree_of(path)
    compilers = COMPILERS - set(typings_own(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                own = decorator.func if isinstance(decorator, ast.Call) else decorator
                name = own.attr if isinstance(own, ast.Attribute) else getattr(own, "id", None)
                if name in compilers:
                    yield node.name
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) in compilers:
            yield f"line {node.lineno}"


def test_kernels_are_found():
    found = {name for path in KERNELS for name in compiled(path)}
    assert {"conv_forward", "register_tile", "_store_sums", "_moments"} <= found


@pytest.mark.parametrize(
    "path", [path for path in FILES if path not in KERNELS], ids=lambda path: path.stem
)
def test_compiled_code_stands_under_kernels(path):
    """An edit elsewhere would leave the machine code of the cache as it was."""
    assert list(compiled(path)) == []


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_functions_take_few_arguments(path):
    """The typing context of an intrinsic counts, too."""
    many = {}
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef):
            arguments = node.args
            names = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            names += filter(None, [arguments.vararg, arguments.kwarg])
            if len(names) > MOST_ARGUMENTS:
                many[node.name] = len(names)
    assert many == {}
