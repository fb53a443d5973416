"""Which recipe makes which tensor."""
from __future__ import annotations

from fxsim.golden.backward_recipes import ActivationGrads, GradsAtPreactivations, ParameterGrads
from fxsim.golden.forward_recipes import LayerOutput, LossGradient, Preactivations, ReluMask
from fxsim.golden.manifest import Entry
from fxsim.golden.parts import Source
from fxsim.golden.recipe import Recipe
from fxsim.golden.update_recipes import Updated, UpdateItself

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
    layers = {entry.layer, source.network.source(entry.layer) or entry.layer, *source.readers(entry.layer)}
    for name in layers:
        layer = source.network.layer(name)
        if layer.batch_norm or layer.add or layer.dropout:
            return None
    if entry.role == "input":
        return None
    if entry.tensor == "activation_grads":
        return ActivationGrads(source, entry) if source.readers(entry.layer) else LossGradient(source, entry)
    return RECIPES[entry.tensor](source, entry) if entry.tensor in RECIPES else None
