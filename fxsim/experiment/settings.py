"""Settings of an experiment: defaults for each built-in network, TOML files, checks."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from fxsim.analysis.assign import GRADIENT_ROUNDINGS
from fxsim.analysis.feedforward import BOUNDS, COSTS
from fxsim.datasets import NAMES as DATASETS
from fxsim.errors import InputError, choice, shown
from fxsim.experiment.stage_file import read_stage_file
from fxsim.fields import FrozenDict, mapping
from fxsim.files import MOST_DEPTH, check_depth, finite, read_text, write_text
from fxsim.nn import networks, spec
from fxsim.nn.optimizer import Optimizer
from fxsim.nn.precision import ASSIGNED
from fxsim.nn.spec import Network
from fxsim.train.augment import Augmentation
from fxsim.train.designs import DESIGNS
from fxsim.train.schedule import Schedule

_CIFAR = {"flip": True, "crop": 4}

DEFAULTS: dict[str, dict] = {
    "digits-convnet": {"dataset": "digits", "epochs": 12, "batch": 32, "learning_rate": 0.1},
    "mnist-convnet": {"dataset": "mnist", "epochs": 10, "batch": 32, "learning_rate": 0.1},
    "cifar10-convnet": {
        "dataset": "cifar10",
        "epochs": 15,
        "batch": 128,
        "learning_rate": 0.1,
        **_CIFAR,
    },
    "svhn-convnet": {
        "dataset": "svhn",
        "epochs": 15,
        "batch": 128,
        "learning_rate": 0.1,
    },
    "cifar10-resnet": {
        "dataset": "cifar10",
        "epochs": 20,
        "batch": 250,
        "learning_rate": 0.01,
        **_CIFAR,
    },
    "cifar100-resnet": {
        "dataset": "cifar100",
        "epochs": 20,
        "batch": 250,
        "learning_rate": 0.01,
        **_CIFAR,
    },
    "digits-autoencoder": {
        "dataset": "digits",
        "epochs": 30,
        "batch": 32,
        "learning_rate": 0.3,
        "momentum": 0.9,
    },
}
"""What a network is trained with where the user says nothing.

The first with a data set is its default network.
"""

GIVEN = "given"
"""The name of a data set that Python hands to `Experiment`, so that no name finds it."""

ACCUMULATORS = ("exact", ASSIGNED)
"""How sums of products are held in fixed point."""

QUICK: dict[str, object] = {"epochs": 3, "images": 512, "drops": ()}
"""What `quick` sets, where nothing else is given."""

RENAMED = {"pictures": "images"}
"""Old name of a setting -> its name."""

OF_TRAINING = ("assignment", "formats", "in_place", "accumulator", "stochastic")
"""No settings: options of `fxsim train`, which are of one training in fixed point."""

MAX_WIDTH = 64
MOST_TOML = 2**18
"""A file of settings has at most so many bytes."""
KIND = "fxsim settings"
VERSION = 1


@dataclass(frozen=True)
class Settings:
    """One experiment.

    Every field is checked against its type and its range: see Raises.

    Args:
        network: the name of a built-in network, or of the network in `layers`.
        width: multiplier of the filters of a built-in network.
        dataset: the name of the data set; 'given' for a Dataset that is handed to `Experiment`.
        data: the folder of the data set, or the file where it is 'npz'; the digits need none.
        images: so many training images, the first of the training set; None for all.
        held_out: so many images, the last of the training set, are kept from training; the mismatch
            (or the error of outputs) is bounded and measured on them.  None for a tenth of the
            training set, but at most gain_samples; 0 for none: the training images then stand in.
        epochs: passes over the training images.
        batch: images of one training step.
        learning_rate: the learning rate of the first epoch.
        momentum: share of the velocity that a step keeps; 0 for plain SGD, see nn/optimizer.py.
        weight_decay: share of the weights that is added to their gradients.
        drops: epochs (from 0) at whose start the learning rate is divided by 10; None for one
            drop, after 3/4 of the epochs.
        flip: augmentation of training images, see train/augment.py.
        crop: augmentation of training images, see train/augment.py.
        seed: of the initial weights, of the order of the images and of their augmentation.
        target: bound on the mismatch probability p_m that B_min must meet; for a network that
            decides nothing, on the squared error of its outputs as a share of the float loss.
        bound: the bound that is meant, 'tight' or 'paper'; see analysis/criteria.py.  For a network
            that decides nothing only 'tight', which then stands for that of
            analysis/output_error.py.
        minimize: 'macs', 'activations' or 'weights' to give weights and activations the bits that
            cost least of it; None for bits that add equally to the mismatch.
        designs: the designs of train/designs.py to train, in this order.
        perturb: bits to add to C_o, one training each.
        per_class: perturb also each class of tensors alone (precision.PERTURBATION_CLASSES).
        gain_samples: noise gains and mismatch are taken over so many images, at most.
        output_grad_bits: bits of the gradient at the logits; 0 for what the criteria ask.
        gradient_rounding: of the gradients of weights and activations, 'stochastic' or 'nearest';
            see analysis/assign.py.
        accumulators: 'exact', or 'assigned' to hold sums of products in fixed point in the accumulators
            that the analysis proposes; see analysis/accumulators.py.
        quick: a short training; `make` then takes QUICK for what is not given.
        layers: a network of one's own as plain data (spec.from_dict); None for a built-in one.
        start: SHA-256 of the parameters that every training starts from, which `fxsim import` has
            written into the folder; None for those of the seed.

    Raises:
        InputError: a value has another type, or is out of range.

    Example:
        >>> Settings(epochs=0)
        Traceback (most recent call last):
            ...
        fxsim.errors.InputError: epochs must be at least 1, got 0
    """

    network: str = "digits-convnet"
    width: float = 1.0
    dataset: str = "digits"
    data: str | None = None
    images: int | None = None
    held_out: int | None = None
    epochs: int = 12
    batch: int = 32
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    drops: tuple[int, ...] | None = None
    flip: bool = False
    crop: int = 0
    seed: int = 0
    target: float = 0.01
    bound: str = "tight"
    minimize: str | None = None
    designs: tuple[str, ...] = ("FL", "FX")
    perturb: tuple[int, ...] = (-1, 1)
    per_class: bool = False
    gain_samples: int = 512
    output_grad_bits: int = 0
    gradient_rounding: str = "stochastic"
    accumulators: str = "exact"
    quick: bool = False
    layers: dict | None = None
    start: str | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                object.__setattr__(self, field.name, _checked(field.name, value))
        self._check_network()
        if self.dataset == GIVEN and self.data is not None:
            raise InputError(
                f"data {shown(self.data)} has no effect beside dataset {GIVEN!r}, which is handed "
                f"to Experiment; leave it out"
            )
        self.schedule()
        self.augmentation()
        self.optimizer()

    def _check_network(self) -> None:
        if self.layers is None:
            choice("network", self.network, networks.BUILDERS)
        elif self.network != _name_of(self.layers):
            raise InputError(
                f"network {shown(self.network)} and [layers] are both given; leave one out"
            )
        elif self.width != 1:
            raise InputError(
                f"width scales the filters of a built-in network, and [layers] are given, got "
                f"{self.width}; leave it out"
            )

    @classmethod
    def make(cls, **given) -> Settings:
        """Settings with `given` values; all others are the network's defaults.

        Args:
            given: fields of Settings; None counts as not given.

        Raises:
            InputError: a name is unknown, or a value has another type or is out of range.

        Example:
            >>> Settings.make(dataset="mnist", quick=True, epochs=5)  # doctest: +ELLIPSIS
            Settings(network='mnist-convnet', ... images=512, ... epochs=5, batch=32, ...
        """
        given = {setting_name(name): value for name, value in given.items() if value is not None}
        network = _network_name(given)
        quick = QUICK if _checked("quick", given.get("quick", False)) else {}
        return cls(**DEFAULTS.get(network, {}) | quick | given | {"network": network})

    def schedule(self) -> Schedule:
        """The learning rates of the epochs."""
        drops = self.drops
        if drops is None:
            drop = self.epochs * 3 // 4
            drops = (drop,) if 0 < drop < self.epochs else ()
        return Schedule(self.epochs, self.learning_rate, drops)

    def augmentation(self) -> Augmentation:
        """What is done to the training images."""
        return Augmentation(self.flip, self.crop)

    def optimizer(self) -> Optimizer:
        """Momentum and weight decay."""
        return Optimizer(self.momentum, self.weight_decay)

    def build_network(self) -> Network:
        """The network that is trained."""
        if self.layers is None:
            return networks.build(self.network, self.width)
        try:
            return spec.from_dict(self.layers)
        except InputError as error:
            raise InputError(f"[layers]: {error}") from None

    def check_given(self, given: dict, place: str | Path) -> None:
        """InputError where `given` settings are others than these, which are those of `place`."""
        for name, value in mapping("given", given).items():
            own = getattr(self, setting_name(name))
            value = _checked(name, value)
            if value != own:
                raise InputError(
                    f"{name} is {shown(value)}, but what is in {place} has "
                    f"{shown(own)}; "
                    f"leave it out to go on there, or choose another --out"
                )

    def to_dict(self) -> dict:
        """Plain data for JSON, with every field; `start` where there is one."""
        data = dataclasses.asdict(self)
        if self.start is None:
            del data["start"]
        return data

    @classmethod
    def from_dict(cls, data: object) -> Settings:
        """The settings that `to_dict` gave.

        Raises:
            InputError: a key is unknown or missing, or a value is wrong.
        """
        if not isinstance(data, dict):
            raise InputError(f"settings must be a table, got {shown(data)}")
        for name in data:
            setting_name(name)
        missing = [name for name in NAMES if name not in data and name != "start"]
        if missing:
            raise InputError(f"the settings have no {', '.join(missing)}")
        return cls(**data)

    def save(self, path: str | Path) -> None:
        """Write the settings as JSON."""
        content = {"kind": KIND, "version": VERSION, "settings": self.to_dict()}
        write_text(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Settings:
        """The settings that `save` wrote.

        Raises:
            InputError: the file is not one of settings, has another version, an unknown or a
                missing key, or a wrong value.
        """
        content = read_stage_file(path, KIND, VERSION, ("settings",))
        try:
            return cls.from_dict(content["settings"])
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


NAMES = tuple(field.name for field in dataclasses.fields(Settings))
_TYPES = {
    "int": int,
    "int | None": int,
    "float": float,
    "bool": bool,
    "str": str,
    "str | None": str,
    "dict | None": dict,
    "tuple[int, ...]": tuple,
    "tuple[int, ...] | None": tuple,
    "tuple[str, ...]": tuple,
}
_KINDS = {field.name: _TYPES[str(field.type)] for field in dataclasses.fields(Settings)}
_NOUN = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "a table",
}
_LEAST = {
    "images": 1,
    "held_out": 0,
    "epochs": 1,
    "batch": 1,
    "seed": 0,
    "gain_samples": 1,
    "output_grad_bits": 0,
}


def setting_name(name: str) -> str:
    """`name` if it is the name of a setting, else an InputError that says which one is meant."""
    if name in RENAMED:
        raise InputError(f"setting {name!r} is called {RENAMED[name]!r} now; use that name")
    if name in OF_TRAINING:
        option = f"--{name.replace('_', '-')}"
        raise InputError(
            f"{name!r} is no setting, it is of one training in fixed point: leave it out, and give "
            f"{option} to fxsim train"
        )
    return choice("setting", name, NAMES)


def _name_of(layers: dict) -> str:
    """The name of the network in [layers]."""
    name = layers.get("name", "custom")
    if not isinstance(name, str) or not name:
        raise InputError(f"name in [layers] must be a text, got {shown(name)}")
    return name


def _network_name(given: dict) -> str:
    if "layers" in given:
        name = _name_of(_checked("layers", given["layers"]))
        return _checked("network", given.get("network", name))
    if "network" in given:
        return choice("network", given["network"], networks.BUILDERS)
    dataset = _checked("dataset", given.get("dataset", Settings.dataset))
    fitting = (name for name, values in DEFAULTS.items() if values["dataset"] == dataset)
    return next(fitting, Settings.network)


def _checked(name: str, value):
    """`value` with the type of the field `name`.

    InputError where it is of another or out of range.
    """
    if _KINDS[name] is tuple:
        return _checked_items(name, value)
    value = _typed(name, value)
    _check_range(name, value)
    return value


def _typed(name: str, value):
    kind = _KINDS[name]
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or isinstance(value, bool) != (kind is bool):
        raise InputError(f"{name} must be {_NOUN[kind]}, got {shown(value)}")
    if kind is dict:
        return _frozen(name, value)
    try:
        return kind(value)
    except OverflowError:  # an integer that no float holds
        raise InputError(f"{name} must be a number, got {shown(value)}") from None


def _frozen(name: str, table) -> FrozenDict:
    """A copy that nobody can change: dicts are FrozenDicts, lists are tuples."""

    def copied(value):
        if isinstance(value, dict):
            return FrozenDict((key, copied(each)) for key, each in value.items())
        return tuple(map(copied, value)) if isinstance(value, (list, tuple)) else value

    try:
        return copied(table)
    except RecursionError:
        raise InputError(f"{name} must not be nested so deeply; see spec.from_dict") from None


def _check_range(name: str, value) -> None:
    if value == "":
        raise InputError(f"{name} must not be empty; name one or leave it out")
    if name == "start" and not re.fullmatch("[0-9a-f]{64}", value):
        raise InputError(f"start must be 64 hexadecimal digits, got {shown(value)}")
    if name == "dataset":
        choice("dataset", value, (*DATASETS, GIVEN))
    if name == "bound":
        choice("bound", value, BOUNDS)
    if name == "minimize":
        choice("minimize", value, COSTS)
    if name == "gradient_rounding":
        choice("gradient_rounding", value, GRADIENT_ROUNDINGS)
    if name == "accumulators":
        choice("accumulators", value, ACCUMULATORS)
    if name in _LEAST and value < _LEAST[name]:
        raise InputError(f"{name} must be at least {_LEAST[name]}, got {shown(value)}")
    if name == "target" and not 0 < value < 1:
        raise InputError(f"target must lie between 0 and 1, got {shown(value)}")
    if name == "width" and not (math.isfinite(value) and 0 < value <= MAX_WIDTH):
        raise InputError(f"width must be above 0 and at most {MAX_WIDTH}, got {shown(value)}")


def _checked_items(name: str, value) -> tuple:
    item_type, noun = (str, "texts") if name == "designs" else (int, "integers")
    if not isinstance(value, (list, tuple)) or not all(type(item) is item_type for item in value):
        raise InputError(f"{name} must be a list of {noun}, got {shown(value)}")
    if name == "designs":
        if not value:
            raise InputError(f"designs must be at least one of {', '.join(DESIGNS)}")
        for item in value:
            choice("design", item, DESIGNS)
    if name == "perturb" and 0 in value:
        raise InputError("perturb must not hold 0: that is C_o, which FX trains anyway")
    if len(set(value)) != len(value):
        raise InputError(f"{name} must hold each value once, got {shown(value)}")
    return tuple(value)


def read_toml(path: str | Path) -> dict:
    """Settings from a TOML file: the fields of Settings as keys, a network of one's own as table
    [layers].

    Raises InputError for what is no TOML, and for unknown keys, naming the nearest valid one.
    """
    toml = _toml_reader(path)
    text = read_text(path, MOST_TOML)
    # The reader's time grows with the square of a dotted key.
    if any(part.count(".") > 2 * MOST_DEPTH for part in re.split(r"[=,{}\[\]\n]", text)):
        raise InputError(f"{path} is nested too deep: {MOST_DEPTH} levels are the most")
    try:
        table = toml.loads(text, parse_float=finite)
    except RecursionError:
        raise InputError(f"{path} is not valid TOML: it is nested too deep") from None
    except (InputError, toml.TOMLDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from None
    except ValueError:  # of int
        raise InputError(f"{path} is not valid TOML: an integer has too many digits") from None
    check_depth(str(path), table)
    try:
        return {setting_name(name): value for name, value in table.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _toml_reader(path):
    try:
        import tomllib
    except ModuleNotFoundError:
        try:
            import tomli as tomllib
        except ModuleNotFoundError:
            raise InputError(
                f"{path}: TOML files need Python 3.11 or the package tomli; "
                "python -m pip install tomli"
            ) from None
    return tomllib
