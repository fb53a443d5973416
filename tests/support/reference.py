"""The API reference in HTML, from the docstrings.

python tests/support/reference.py FOLDER

Warnings of pdoc, such as for an annotation that it cannot read, are errors.
"""

import importlib
import sys
import warnings
from pathlib import Path

import pdoc

MODULES = (
    "fxsim",
    "fxsim.ops",
    "fxsim.presets",
    "fxsim.testing",
    "fxsim.datasets",
    "fxsim.golden",
    "fxsim.analysis.assign",
    "fxsim.analysis.criteria",
    "fxsim.experiment.stages",
    "fxsim.experiment.study",
    "fxsim.nn.folding",
    "fxsim.nn.networks",
)
"""Modules with a page."""


def build(folder):
    """Write a page for each of MODULES, and an index, into a folder."""
    for name in MODULES:
        module = importlib.import_module(name)
        for member in getattr(module, "__all__", ()):  # pdoc sees what a module holds already
            vars(module).setdefault(member, getattr(module, member))
    pdoc.render.configure(docformat="google", search=False, show_source=False)
    own = ("fxsim.ops", "fxsim.presets")  # public names of fxsim, and found with it
    named = [name for name in MODULES if name not in own]
    inner = r"!fxsim\.(ops|datasets|golden|testing)\..+"
    with warnings.catch_warnings():
        # hypothesis.composite and NamedTuple make functions outside the module of their annotations
        for outside in (r".* for fxsim\.testing\.", r"ForwardRef\("):
            warnings.filterwarnings("ignore", f"Error parsing type annotation {outside}")
        # the installed package is what is described, whatever folder this runs in
        warnings.filterwarnings("ignore", "'fxsim' may refer to either the installed")
        pdoc.pdoc(*named, inner, output_directory=Path(folder))


def page(folder, module):
    """The page of a module."""
    return (Path(folder) / (module.replace(".", "/") + ".html")).read_text(encoding="utf-8")


def missing(folder):
    """The public names that no page describes."""
    found = []
    for name in MODULES:
        module = importlib.import_module(name)
        text = page(folder, name)
        for member in getattr(module, "__all__", ()):
            whole = f"{name}.{member}"
            if whole not in MODULES and f'id="{member}"' not in text:
                found.append(whole)
    return found


if __name__ == "__main__":
    warnings.simplefilter("error")
    build(sys.argv[1])
    if names := missing(sys.argv[1]):
        sys.exit(f"without a description: {', '.join(names)}")
