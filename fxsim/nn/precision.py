"""PrecisionAssignment: a format for every tensor of every layer; the hand-over from analysis to
training.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fxsim.accumulator import KINDS, MAX_BITS, MIN_BITS, Accumulator, parse_accumulators
from fxsim.accumulator import check_keys as check_accumulator_keys
from fxsim.errors import InputError, choice, listed, shown
from fxsim.fields import (
    check_fields,
    check_head,
    check_keys,
    check_table,
    construct,
    instance,
    integer,
    read_fields,
    strings,
)
from fxsim.files import read_json, write_text
from fxsim.formats import MAX_TENSOR_BITS, OVERFLOWS, ROUNDINGS, STOCHASTIC, Format
from fxsim.identity import IDENTITY, Identity, check_identity
from fxsim.nn.layer_precision import (
    ACCUMULATORS,
    AUXILIARY,
    BATCH_NORM,
    FORMATS,
    MODES,
    TENSORS,
    VELOCITIES,
    BatchNormPrecision,
    LayerPrecision,
    perturb_layer,
    product_step_exp,
)
from fxsim.nn.spec import Network
from fxsim.nn.tensors import (
    check_present,
    check_shared_input,
    check_trained,
    default_branch,
    is_branch,
    products_of,
    quantized_tensors,
    tensors_of,
)
from fxsim.words import DroppedBits, Philox, WordSource, parse_sources, source_from_dict

PERTURBATION_CLASSES = {
    "feedforward": ("weights", "activations"),
    "weight_grads": ("weight_grads",),
    "activation_grads": ("activation_grads",),
    "accumulators": ("accumulators",),
}

ASSIGNED = "assigned"
"""The text that stands for the proposed accumulators."""

KIND = "fxsim precision assignment"

VERSION = 1


@dataclass(frozen=True)
class Reason:
    """Why a tensor has its format: the criterion, the statistic that it read, what it asked for.

    statistic: name -> value, all that the criterion used.  margin: by what factor the format is
    finer (a step) or wider (a range) than asked, at least 1; 1 to 2 comes from rounding to powers
    of two.
    """

    criterion: str
    statistic: Mapping[str, float]
    margin: float

    def __post_init__(self) -> None:
        check_fields(self, "reason")


@dataclass(frozen=True)
class Proposal:
    """An accumulator that the analysis proposes for the sums of a product, and why."""

    accumulator: Accumulator
    reason: Reason

    def __post_init__(self) -> None:
        check_fields(self, "proposal")


@dataclass(frozen=True)
class PrecisionAssignment:
    """Formats for all tensors of the network named `network`.

    layers: layer name -> LayerPrecision, in the network's order.  logits: format of the class
    scores. rounding, overflow: tensor name -> mode where it differs from nearest_away and saturate;
    MODES has what each tensor takes.  The mappings are copied.
    accumulator: kind of product (one of fxsim.accumulator.KINDS), or 'layer.kind', which goes
    before it -> Accumulator of these sums; products without one are summed exactly.
    words: tensor that is rounded stochastically, or 'layer.tensor', which goes before it -> the
    source of its random words; without one it is Philox().
    reasons: (layer, tensor) -> Reason.
    proposed: 'layer.kind' -> Proposal.  Proposals change nothing until `with_accumulators` takes
    them.

    Raises:
        TypeError: a field has a value of another type.
        InputError: an unknown tensor, layer or mode, or a mode that a tensor's maker does not
            honour.
    """

    network: str
    layers: Mapping[str, LayerPrecision]
    logits: Format = Format(16, 4)
    rounding: Mapping[str, str] = field(default_factory=dict)
    overflow: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[tuple[str, str], Reason] = field(default_factory=dict)
    accumulator: Mapping[str, Accumulator] = field(default_factory=dict)
    words: Mapping[str, WordSource] = field(default_factory=dict)
    proposed: Mapping[str, Proposal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "assignment")
        if not 1 <= self.logits.bits <= MAX_TENSOR_BITS:
            raise InputError(f"logits bits must be 1 to {MAX_TENSOR_BITS}, got {self.logits.bits}")
        for tensor, mode in self.rounding.items():
            choice("rounding: tensor", tensor, MODES)
            choice(f"rounding of {tensor}", mode, ROUNDINGS)
            _check_mode("rounding", tensor, mode, MODES[tensor].roundings)
        for tensor, mode in self.overflow.items():
            choice("overflow: tensor", tensor, MODES)
            choice(f"overflow of {tensor}", mode, OVERFLOWS)
            _check_mode("overflow", tensor, mode, MODES[tensor].overflows)
        self._check_saturating()
        for layer, tensor in self.reasons:
            choice("reasons: layer", layer, self.layers)
            choice(f"reasons: tensor of layer {shown(layer)}", tensor, self.layers[layer].given())
        check_accumulator_keys(self.accumulator, self.layers)
        for key in self.proposed:
            if "." not in key:
                raise InputError(
                    f"proposed {shown(key)}: an accumulator is proposed for one layer; write it like "
                    f"'conv1.forward'"
                )
        check_accumulator_keys(
            {key: proposal.accumulator for key, proposal in self.proposed.items()}, self.layers
        )
        for key, source in self.words.items():
            self._check_words(key, source)

    def _check_saturating(self) -> None:
        """InputError for the overflow of accumulators that a layer has: they saturate."""
        for tensor in ACCUMULATORS:
            for name, layer in self.layers.items():
                if self.overflow_of(tensor) != "saturate" and tensor in layer.given():
                    raise InputError(
                        f"overflow of {tensor} must be saturate where they are there, as in layer "
                        f"{shown(name)}, got {self.overflow_of(tensor)!r}; leave it out, or call "
                        f"without_accumulators() before"
                    )

    def _check_words(self, key: str, source: WordSource) -> None:
        """InputError for words that the rounding of their tensor has no use for."""
        layer, dot, tensor = key.rpartition(".")
        choice(f"words {shown(key)}: tensor", tensor, MODES)
        if dot:
            choice(f"words {shown(key)}: layer", layer, self.layers)
        rounding = self.rounding_of(tensor)
        if rounding not in STOCHASTIC:
            raise InputError(
                f"words {shown(key)}: rounding {rounding!r} of {tensor} uses no random words; "
                f"leave them out, or choose {' or '.join(STOCHASTIC)}"
            )
        if isinstance(source, DroppedBits) and rounding != "stochastic":
            raise InputError(
                f"words {shown(key)}: dropped bits go with rounding 'stochastic', got "
                f"{rounding!r}; change one of them"
            )
        if tensor in ("accumulators", "bias_accumulators"):
            self._check_dropping(key, tensor, [layer] if dot else list(self.layers))

    def _check_dropping(self, key: str, tensor: str, layers: list[str]) -> None:
        """InputError for words of a difference of which no bit is ever dropped."""
        update, parameter = tensor.replace("accumulators", "updates"), "weights"
        if tensor != "accumulators":
            parameter = "bias"
        given = [self.layers[name].given() for name in layers]
        whole = [update in own and own[update].step_exp >= own[parameter].step_exp for own in given]
        if given and all(whole):
            raise InputError(
                f"words {shown(key)}: {update} come in whole steps of the {parameter}, so that "
                f"nothing is left to round; give the words to {update}"
            )

    def rounding_of(self, tensor: str) -> str:
        """The rounding of a tensor, by default nearest_away."""
        return self.rounding.get(choice("tensor", tensor, MODES), "nearest_away")

    def overflow_of(self, tensor: str) -> str:
        """The overflow of a tensor, by default saturate."""
        return self.overflow.get(choice("tensor", tensor, MODES), "saturate")

    def words_of(self, layer: str, tensor: str) -> WordSource:
        """Where the random words of a tensor of a layer come from."""
        return self.words.get(f"{layer}.{tensor}", self.words.get(tensor, Philox()))

    def accumulators_of(self, layer: str) -> dict[str, Accumulator]:
        """Kind of product -> Accumulator, for the products of this layer that have one."""
        choice("layer", layer, self.layers)
        found = {
            kind: self.accumulator.get(f"{layer}.{kind}", self.accumulator.get(kind))
            for kind in KINDS
        }
        return {kind: model for kind, model in found.items() if model}

    def with_accumulators(self, texts: Iterable[str]) -> PrecisionAssignment:
        """The same with accumulators as in fxsim.accumulator.parse_accumulators, beside or in
        place of its own.  The text 'assigned' stands for those that are proposed.
        """
        models = dict(self.accumulator)
        for text in strings("texts", texts):
            models |= self._assigned() if text.strip() == ASSIGNED else parse_accumulators([text])
        return dataclasses.replace(self, accumulator=models)

    def _assigned(self) -> dict[str, Accumulator]:
        if not self.proposed:
            raise InputError(
                f"accumulator {ASSIGNED!r} stands for those that the assignment proposes, and it "
                f"proposes none; make it anew with `fxsim analyze` and `fxsim assign`"
            )
        return {key: proposal.accumulator for key, proposal in self.proposed.items()}

    def without_accumulators(self) -> PrecisionAssignment:
        """The same, every parameter its own accumulator: see LayerPrecision."""
        layers = {name: layer.without_accumulators() for name, layer in self.layers.items()}
        reasons = {key: why for key, why in self.reasons.items() if key[1] not in ACCUMULATORS}
        return dataclasses.replace(self, layers=layers, reasons=reasons)

    def with_stochastic(self, texts: Iterable[str]) -> PrecisionAssignment:
        """The same with tensors rounded stochastically by words as in fxsim.words.parse_sources.

        A tensor whose rounding is stochastic_equal keeps it.
        """
        sources = parse_sources(texts)
        tensors = [choice("stochastic: tensor", key.rpartition(".")[2], MODES) for key in sources]
        rounding = dict(self.rounding)
        for tensor in tensors:
            if rounding.get(tensor) not in STOCHASTIC:
                rounding[tensor] = "stochastic"
        return dataclasses.replace(self, rounding=rounding, words={**self.words, **sources})

    def check_network(self, network: Network) -> None:
        """InputError unless this assignment is for `network`.

        It has its name and layers, and says nothing of tensors that the network has not.
        """
        if self.network != instance("network", network, Network).name:
            raise InputError(
                f"assignment is for network {shown(self.network)}, not for {shown(network.name)}; "
                f"make one with `fxsim assign`"
            )
        if tuple(self.layers) != network.names:
            raise InputError(
                f"assignment has layers {listed(self.layers)}, network {shown(network.name)} has "
                f"{listed(network.names)}; make one with `fxsim assign`"
            )
        for source in {source for _, source in network.edges()}:
            check_shared_input(self.layers, network, source)
        for layer in network.layers:
            check_present(layer, self.layers[layer.name], is_branch(network, layer.name))
            check_trained(network, layer, self.layers[layer.name])
        tensors = quantized_tensors(network, self.layers)
        for what, modes in (("rounding", self.rounding), ("overflow", self.overflow)):
            for tensor in modes:
                if tensor not in tensors and tensor not in VELOCITIES:
                    raise InputError(
                        f"{what} of {tensor}: network {shown(network.name)} quantizes no such "
                        f"tensor; leave it out"
                    )
        for key in self.words:
            self._check_words_used(network, key)
        for key in self.accumulator:
            name, dot, kind = key.rpartition(".")
            if dot and kind not in products_of(network, name):
                raise InputError(
                    f"accumulator {shown(key)}: a training step computes no {kind} of layer "
                    f"{shown(name)}; leave it out"
                )

    def _check_words_used(self, network: Network, key: str) -> None:
        """InputError for words of a layer that has no such tensor."""
        name, dot, tensor = key.rpartition(".")
        if dot and tensor not in (*VELOCITIES, *tensors_of(network, name, self.layers[name])):
            raise InputError(
                f"words {shown(key)}: layer {shown(name)} quantizes no {tensor} (an output is a "
                f"tensor of its first reader); leave them out"
            )

    def completed(self, network: Network) -> PrecisionAssignment:
        """With the defaults written out for batch norm, and for outputs that only residual
        additions read.
        """
        layers = {}
        self.check_network(network)
        for layer in network.layers:
            own = self.layers[layer.name]
            norm = own.batch_norm or (BatchNormPrecision() if layer.batch_norm else None)
            alone = is_branch(network, layer.name)
            branch = own.branch or (default_branch(layer.activation) if alone else None)
            layers[layer.name] = dataclasses.replace(own, batch_norm=norm, branch=branch)
        return dataclasses.replace(self, layers=layers)

    def perturbed(self, bits: int, only: str | None = None) -> PrecisionAssignment:
        """C_o with `bits` more (or fewer, if negative) in every tensor, or in one class of tensors.

        only: a key of PERTURBATION_CLASSES.  Ranges stay, steps move; W^acc's range stays half of
        W's step, and where only weights are perturbed it keeps its step, so that its bits follow.
        W^acc keeps at least 1 bit, for C_o gives it no more in many a layer; InputError where no
        other tensor can change either.
        """
        bits = integer("bits", bits)
        if abs(bits) > MAX_TENSOR_BITS:
            raise InputError(
                f"bits must be -{MAX_TENSOR_BITS} to {MAX_TENSOR_BITS}, got {shown(bits)}"
            )
        if only is not None:
            choice("only", only, PERTURBATION_CLASSES)
        if only == "accumulators" and not any(row.accumulators for row in self.layers.values()):
            raise InputError(
                "only 'accumulators': no layer has any, every weight is its own; perturb another class"
            )
        tensors = TENSORS if only is None else PERTURBATION_CLASSES[only]
        layers = {
            name: perturb_layer(name, layer, bits, tensors) for name, layer in self.layers.items()
        }
        if bits and layers == self.layers:
            raise InputError(
                f"accumulators have at most 1 bit in every layer and cannot take {bits:+d}; perturb "
                f"another class"
            )
        return dataclasses.replace(
            self, layers=layers, reasons={}, proposed=self._of_the_same_range(layers)
        )

    def _of_the_same_range(self, layers: Mapping[str, LayerPrecision]) -> dict[str, Proposal]:
        """The proposals with the bits that their ranges take at the products' steps in `layers`."""
        found = {}
        for key, proposal in self.proposed.items():
            name, _, kind = key.rpartition(".")
            finer = product_step_exp(self.layers[name], kind)
            finer -= product_step_exp(layers[name], kind)
            held = proposal.accumulator
            bits = min(max(held.bits + finer, MIN_BITS), MAX_BITS)
            found[key] = dataclasses.replace(
                proposal, accumulator=dataclasses.replace(held, bits=bits)
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back."""
        rows: dict[str, Any] = {}
        for name, layer in self.layers.items():
            rows[name] = _layer_to_dict(layer)
            for tensor in layer.given():
                if (name, tensor) in self.reasons:
                    reason = dataclasses.asdict(self.reasons[name, tensor])
                    rows[name][tensor]["reason"] = reason
        models = {key: model.to_dict() for key, model in self.accumulator.items()}
        words = {key: source.to_dict() for key, source in self.words.items()}
        proposed = {
            key: {
                "accumulator": proposal.accumulator.to_dict(),
                "reason": dataclasses.asdict(proposal.reason),
            }
            for key, proposal in self.proposed.items()
        }
        return {
            "kind": KIND,
            "version": VERSION,
            "network": self.network,
            "layers": rows,
            "logits": self.logits.to_dict(),
            "rounding": dict(self.rounding),
            "overflow": dict(self.overflow),
            **({"accumulator": models} if models else {}),
            **({"words": words} if words else {}),
            **({"proposed": proposed} if proposed else {}),
        }

    def formats_to_dict(self) -> dict[str, Any]:
        """`to_dict` without reasons and proposals: all that the bits of a training depend on."""
        return dataclasses.replace(self, reasons={}, proposed={}).to_dict()

    @classmethod
    def from_dict(
        cls, data: object, where: str = "the precision assignment"
    ) -> PrecisionAssignment:
        """The assignment that `to_dict` gave; `where` is how messages begin.

        Raises:
            InputError: another kind or version, an unknown or missing key, a wrong value, keys
                that contradict each other.
        """
        data = check_head(where, data, KIND, VERSION, "make it anew with `fxsim assign`")
        needed = ("kind", "version", "network", "layers", "logits")
        more = ("rounding", "overflow", "accumulator", "words", "proposed", IDENTITY)
        data = check_keys(where, data, (*needed, *more), needed)
        layers = {}
        reasons: dict[tuple[str, str], Reason] = {}
        for name, row in check_table("layers", data["layers"]).items():
            layers[name], own = _read_layer(f"layer {shown(name)}", row)
            reasons |= {(name, tensor): reason for tensor, reason in own.items()}
        models = check_table("accumulator", data.get("accumulator", {}))
        words = check_table("words", data.get("words", {}))
        proposed = check_table("proposed", data.get("proposed", {}))
        return construct(
            cls,
            where,
            network=data["network"],
            layers=layers,
            logits=Format.from_dict(data["logits"], "logits"),
            rounding=data.get("rounding", {}),
            overflow=data.get("overflow", {}),
            reasons=reasons,
            accumulator={key: _read_accumulator(key, row) for key, row in models.items()},
            words={key: source_from_dict(row, f"words {shown(key)}") for key, row in words.items()},
            proposed={key: _read_proposal(key, row) for key, row in proposed.items()},
        )

    def save(self, path: str | Path, identity: Identity | None = None) -> None:
        """Write the assignment as JSON; identity: of the experiment that it was made for."""
        own = {IDENTITY: identity.to_dict()} if identity else {}
        write_text(path, json.dumps({**self.to_dict(), **own}, indent=1) + "\n")

    @classmethod
    def load(
        cls, path: str | Path, identity: Identity | None = None, way_out: str = ""
    ) -> PrecisionAssignment:
        """Read what `save` wrote.

        Args:
            path: the file.
            identity: of the experiment that it must have been made for; None for any.
            way_out: how the message about another experiment ends.

        Raises:
            InputError: names the file and what is wrong.
        """
        data = read_json(path)
        try:
            assignment = cls.from_dict(data)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        if identity:
            check_identity(str(path), data.get(IDENTITY), identity.to_dict(), way_out)
        return assignment


def _check_mode(what: str, tensor: str, mode: str, honoured: tuple[str, ...]) -> None:
    if mode not in honoured:
        raise InputError(
            f"{what} of {tensor} must be {' or '.join(honoured)}, the only one that its maker "
            f"honours, got {shown(mode)}; leave it out"
        )


def _layer_to_dict(layer: LayerPrecision) -> dict[str, Any]:
    """The formats of a layer as plain data, None for an accumulator that is not there."""
    row: dict[str, Any] = {name: format.to_dict() for name, format in layer.given().items()}
    absent = dict.fromkeys(("accumulators", "bias_accumulators"))
    if layer.batch_norm is not None:
        absent |= dict.fromkeys(("gamma_accumulators", "beta_accumulators"))
    return row | {name: None for name in absent if name not in row}


def _read_layer(where: str, row: object) -> tuple[LayerPrecision, dict[str, Reason]]:
    """The formats of one layer and the reasons (tensor -> Reason) that stand beside them."""
    formats: dict[str, Format | None] = {}
    reasons = {}
    needed = (*TENSORS, *AUXILIARY)
    if isinstance(row, Mapping) and any(tensor in row for tensor in BATCH_NORM):
        needed += tuple(tensor for tensor in BATCH_NORM if tensor != "preactivation_grads")
    for tensor, cell in check_keys(where, row, FORMATS, needed).items():
        own = f"{where}, {tensor}"
        if cell is None and tensor in ACCUMULATORS:
            formats[tensor] = None
            continue
        cell = dict(check_table(own, cell))
        if "reason" in cell:
            reasons[tensor] = read_fields(Reason, cell.pop("reason"), f"{own}, reason")
        formats[tensor] = Format.from_dict(cell, own)
    return construct(LayerPrecision.of, where, formats), reasons


def _read_accumulator(key: str, row: object) -> Accumulator:
    where = f"accumulator {shown(key)}"
    return construct(Accumulator.from_dict, where, check_table(where, row))


def _read_proposal(key: str, row: object) -> Proposal:
    where = f"proposed {shown(key)}"
    keys = ("accumulator", "reason")
    row = check_keys(where, row, keys, keys)
    return Proposal(
        _read_accumulator(key, row["accumulator"]),
        read_fields(Reason, row["reason"], f"{where}: reason"),
    )
