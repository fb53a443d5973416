"""Which recipe makes which tensor."""
from __future__ import annotations

from fxsim.golden.backward_recipes import ActivationGrads, GradsAtPreactivations, ParameterGrads
from fxsim.golden.forward_recipes import LayerOutput, LossGradient, Preactivations, ReluMask
from fxsim.golden.manifest import Entry
from fxsim.golden.parts import Source
from fxsim.golden.recipe import Recipe
from fxsim.golden.update_recipes import Updated, UpdateItself
from fxsim.nn.spec import Layer

RECIPES = {
    "preactivations": Preactivations,
    "relu_mask": ReluMask,
    "activations": LayerOutput,
    "logits": LayerOutput,
    "preactivation_grads": GradsAtPreactivations,
    "weight_grads": ParameterGrads,
    "bias_grads": ParameterGrads,
    "updates": UpdateItself,
    "bias_updates": UpdateItself,
    "updated_weights": Updated,
    "accumulators": Updated,
    "updated_bias": Updated,
    "bias_accumulators": Updated,
}


def recipe_for(source: Source, entry: Entry) -> Recipe | None:
    """The recipe of a tensor; None for an input of the step, or where a layer has what recipes do not cover.

    Raises MissingVectors where a tensor that it follows from was not exported.
    """
    readers = source.readers(entry.layer)
    if entry.role == "input" or any(map(_beyond, map(source.network.layer, _involved(source, entry)))):
        return None
    if entry.tensor != "activation_grads":
        return RECIPES[entry.tensor](source, entry) if entry.tensor in RECIPES else None
    if len(readers) > 1:
        return None
    return ActivationGrads(source, entry, readers[0]) if readers else LossGradient(source, entry)


def _involved(source: Source, entry: Entry) -> list[str]:
    """The layers whose operations a tensor may follow from."""
    before = source.network.source(entry.layer)
    return [entry.layer, *source.readers(entry.layer), *([before] if before else [])]


def _beyond(layer: Layer) -> bool:
    return bool(layer.batch_norm or layer.add or layer.dropout)
