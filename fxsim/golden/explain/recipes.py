"""Which recipe makes which tensor."""

from __future__ import annotations

from collections.abc import Callable

from fxsim.errors import present
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
from fxsim.golden.explain.norm_recipes import (
    AffineGrads,
    GradsBeforeNorm,
    InverseRoots,
    JoinedGrads,
    Normalized,
    QuantizedPreactivations,
    ReluInputs,
    RunningStatistic,
    Statistic,
)
from fxsim.golden.explain.recipe import TensorRecipe
from fxsim.golden.explain.source import Source
from fxsim.golden.explain.update_recipes import Updated, update, updated
from fxsim.golden.manifest import Entry
from fxsim.nn.fixed.network import FURTHER

STATISTICS = ("mean", "variance")
RECIPES: dict[str, Callable[[Source, Entry], TensorRecipe]] = {
    "preactivations": Preactivations,
    "relu_mask": ReluMask,
    "leaky_relu_mask": LeakyMask,
    "table_indices": TableIndices,
    "activations": LayerOutput,
    "branch": LayerOutput,
    "quantized_preactivations": QuantizedPreactivations,
    "mean": Statistic,
    "variance": Statistic,
    "inverse_roots": InverseRoots,
    "normalized": Normalized,
    "relu_inputs": ReluInputs,
    "relu_input_grads": GradsAtPreactivations,
    "gamma_grads": AffineGrads,
    "beta_grads": AffineGrads,
    "logits": LayerOutput,
    "preactivation_grads": GradsAtPreactivations,
    "weight_grads": WeightGrads,
    "bias_grads": BiasGrads,
    "updates": update,
    "updated_weights": updated,
    "accumulators": Updated,
    **{f"{kind}_updates": update for kind in FURTHER},
    **{f"updated_{kind}": updated for kind in FURTHER},
    **{f"{kind}_accumulators": Updated for kind in FURTHER},
}


def recipe_for(source: Source, entry: Entry) -> TensorRecipe | None:
    """The recipe of a tensor; None for an input of the device, and for what recipes do not cover:
    the constants of batch norm's gradient, and running statistics.

    Raises MissingVectors where a tensor that it follows from was not exported.
    """
    if entry.role == "input":
        return None
    if entry.tensor == "activation_grads":
        return _of_activation_grads(source, entry)
    if entry.tensor == "preactivation_grads" and source.network.layer(entry.layer).norm:
        return GradsBeforeNorm(source, entry)
    if entry.tensor in STATISTICS and _at_rest(source, entry):
        return RunningStatistic(source, entry)
    return RECIPES[entry.tensor](source, entry) if entry.tensor in RECIPES else None


def _at_rest(source: Source, entry: Entry) -> bool:
    """Whether batch norm takes its running statistics."""
    norm = present(source.network.layer(entry.layer).norm)
    return norm.frozen or source.manifest.of_inference


def _of_activation_grads(source: Source, entry: Entry) -> TensorRecipe:
    readers = source.readers(entry.layer)
    added = any(layer.add == entry.layer for layer in source.network.layers)
    if added or len(readers) > 1:
        return JoinedGrads(source, entry)
    return ActivationGrads(source, entry, readers[0]) if readers else LossGradient(source, entry)
