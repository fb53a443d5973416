"""Which recipe makes which tensor."""

from __future__ import annotations

from collections.abc import Callable

from fxsim.golden.explain.backward_recipes import (
    ActivationGrads,
    BiasGrads,
    GradsAtPreactivations,
    WeightGrads,
)
from fxsim.golden.explain.forward_recipes import (
    LayerOutput,
    LeakyMask,
    LossGradient,
    Preactivations,
    ReluMask,
    TableIndices,
)
from fxsim.golden.explain.recipe import TensorRecipe
from fxsim.golden.explain.source import Source, plain
from fxsim.golden.explain.update_recipes import Updated, UpdateItself, updated
from fxsim.golden.manifest import Entry

RECIPES: dict[str, Callable[[Source, Entry], TensorRecipe]] = {
    "preactivations": Preactivations,
    "relu_mask": ReluMask,
    "leaky_relu_mask": LeakyMask,
    "table_indices": TableIndices,
    "activations": LayerOutput,
    "logits": LayerOutput,
    "preactivation_grads": GradsAtPreactivations,
    "weight_grads": WeightGrads,
    "bias_grads": BiasGrads,
    "updates": UpdateItself,
    "bias_updates": UpdateItself,
    "updated_weights": updated,
    "accumulators": Updated,
    "updated_bias": updated,
    "bias_accumulators": Updated,
}


def recipe_for(source: Source, entry: Entry) -> TensorRecipe | None:
    """The recipe of a tensor; None for an input of the step, and for what recipes do not cover:
    what passes a layer's batch norm, residual addition or dropout, and sums over several branches.

    Raises MissingVectors where a tensor that it follows from was not exported.
    """
    if entry.role == "input" or not _covered(source, entry):
        return None
    if entry.tensor != "activation_grads":
        return RECIPES[entry.tensor](source, entry) if entry.tensor in RECIPES else None
    readers = source.readers(entry.layer)
    return ActivationGrads(source, entry, readers[0]) if readers else LossGradient(source, entry)


def _covered(source: Source, entry: Entry) -> bool:
    if entry.tensor == "activation_grads":
        return len(source.readers(entry.layer)) < 2 and not any(
            layer.add == entry.layer for layer in source.network.layers
        )
    through = {"activations": source.network.source(entry.layer)}
    through |= dict.fromkeys(
        ("logits", "relu_mask", "leaky_relu_mask", "table_indices", "preactivation_grads"),
        entry.layer,
    )
    name = through.get(entry.tensor)
    return name is None or plain(source.network.layer(name))
