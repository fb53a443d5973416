"""What explains a mismatch in a folder of vectors."""

import numpy as np

from fxsim.golden.explain.recipes import recipe_for
from fxsim.golden.explain.search import Comparison, explain
from fxsim.golden.explain.source import Source


def changes(vectors, name, dumped):
    golden = vectors.codes(name)
    dumped = np.asarray(dumped).reshape(golden.shape)
    assert not np.array_equal(golden, dumped), "nothing was planted"
    return set(explain(vectors, vectors.manifest.entry(name), dumped).changes)


def every_recipe(vectors):
    """Names of the tensors whose recipe gives the golden codes; a recipe that does not fails."""
    source = Source(vectors)
    found = set()
    for entry in vectors.manifest.tensors:
        recipe = recipe_for(source, entry)
        if recipe is not None:
            golden = vectors.codes(entry.name)
            assert Comparison(recipe, golden, golden).holds(recipe.default), entry.name
            found.add(entry.name)
    return found
