"""Settings of an experiment: defaults for each built-in network, TOML files, checks."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from dataclasses import dataclass
from pathlib import Path

from fxsim.errors import InputError, choice
from fxsim.nn import networks, spec
from fxsim.nn.optimizer import Optimizer
from fxsim.nn.spec import Network
from fxsim.train.augment import Augmentation
from fxsim.train.designs import DESIGNS
from fxsim.train.schedule import Schedule

_CIFAR = {"flip": True, "crop": 4, "output_grad_bits": 16}

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
        "output_grad_bits": 16,
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
}
"""What a network is trained with where the user says nothing.

The first with a data set is its default network.
"""

QUICK_EPOCHS = 3
QUICK_PICTURES = 512
MAX_WIDTH = 64


@dataclass(frozen=True)
class Settings:
    """One experiment.

    network: name of a built-in network; layers: a network of one's own as plain data
    (spec.from_dict), else None. width: multiplier of the built-in's filters.  data: folder of the
    data set (digits need none). pictures: so many of the training set, the first; None for all.
    momentum, weight_decay: 0 for plain SGD, see nn/optimizer.py.
    flip, crop: augmentation of training pictures, see train/augment.py.
    drops: epochs (from 0) at whose start the learning rate is divided by 10; None for one, after
    3/4 of the epochs. designs: of train/designs.py, to be trained in this order.
    target: bound on the mismatch probability p_m that B_min must meet.  perturb: bits to add to
    C_o; per_class: also in each class of tensors alone (precision.PERTURBATION_CLASSES).
    gain_samples: training pictures (not their labels) from which noise gains are estimated.
    output_grad_bits: of the gradient at the logits, 0 for what the criteria ask; see
    analysis/assign.py. quick: few epochs and pictures.
    """

    network: str = "digits-convnet"
    width: float = 1.0
    dataset: str = "digits"
    data: str | None = None
    pictures: int | None = None
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
    designs: tuple[str, ...] = ("FL", "FX")
    perturb: tuple[int, ...] = (-1, 1)
    per_class: bool = False
    gain_samples: int = 512
    output_grad_bits: int = 0
    quick: bool = False
    layers: dict | None = None

    @classmethod
    def make(cls, **given) -> Settings:
        """Settings with `given` values, all others by the network's defaults; None counts as not
        given.

        Raises InputError for an unknown name, a value of the wrong type or out of range.
        """
        given = {name: value for name, value in given.items() if value is not None}
        for name, value in given.items():
            given[name] = _checked(choice("setting", name, NAMES), value)
        network = _network_name(given)
        settings = cls(**DEFAULTS.get(network, {}) | given | {"network": network})
        if settings.quick:
            settings = dataclasses.replace(
                settings, epochs=min(settings.epochs, QUICK_EPOCHS), drops=()
            )
        settings.schedule()
        settings.augmentation()
        settings.optimizer()
        return settings

    def schedule(self) -> Schedule:
        drops = self.drops
        if drops is None:
            drop = self.epochs * 3 // 4
            drops = (drop,) if 0 < drop < self.epochs else ()
        return Schedule(self.epochs, self.learning_rate, drops)

    def augmentation(self) -> Augmentation:
        return Augmentation(self.flip, self.crop)

    def optimizer(self) -> Optimizer:
        return Optimizer(self.momentum, self.weight_decay)

    def build_network(self) -> Network:
        if self.layers is None:
            return networks.build(self.network, self.width)
        try:
            return spec.from_dict(self.layers)
        except InputError as error:
            raise InputError(f"[layers]: {error}") from None

    def check_given(self, given: dict, place: str | Path) -> None:
        """InputError where `given` settings are others than these, which are those of `place`."""
        for name, value in given.items():
            own = getattr(self, name)
            value = _checked(name, value)
            if self.quick and name in ("epochs", "drops"):
                value = min(value, QUICK_EPOCHS) if name == "epochs" else ()
            if value != own:
                raise InputError(
                    f"{name} is {reprlib.repr(value)}, but what is in {place} has "
                    f"{reprlib.repr(own)}; "
                    f"leave it out to go on there, or choose another --out"
                )

    def to_dict(self) -> dict:
        """Plain data for JSON; Settings.make(**data) gives the settings back."""
        return dataclasses.asdict(self)


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
_KINDS = {field.name: _TYPES[field.type] for field in dataclasses.fields(Settings)}
_NOUN = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "a table",
}
_LEAST = {
    "pictures": 1,
    "epochs": 1,
    "batch": 1,
    "seed": 0,
    "gain_samples": 1,
    "output_grad_bits": 0,
}


def _network_name(given: dict) -> str:
    if "layers" in given:
        name = given["layers"].get("name", "custom")
        if given.get("network", name) != name:
            raise InputError(
                f"network {given['network']!r} and [layers] are both given; leave one out"
            )
        return name
    if "network" in given:
        return choice("network", given["network"], networks.BUILDERS)
    fitting = (
        name for name, values in DEFAULTS.items() if values["dataset"] == given.get("dataset")
    )
    return next(fitting, Settings.network)


def _checked(name: str, value):
    """`value` with the type of the field `name`.

    InputError where it is of another or out of range.
    """
    kind = _KINDS[name]
    if kind is tuple:
        return _checked_items(name, value)
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or isinstance(value, bool) != (kind is bool):
        raise InputError(f"{name} must be {_NOUN[kind]}, got {value!r}")
    if name in _LEAST and value < _LEAST[name]:
        raise InputError(f"{name} must be at least {_LEAST[name]}, got {value}")
    if name == "target" and not 0 < value < 1:
        raise InputError(f"target must lie between 0 and 1, got {value}")
    if name == "width" and not (math.isfinite(value) and 0 < value <= MAX_WIDTH):
        raise InputError(f"width must be above 0 and at most {MAX_WIDTH}, got {value}")
    return kind(value)


def _checked_items(name: str, value) -> tuple:
    item_type, noun = (str, "texts") if name == "designs" else (int, "integers")
    if not isinstance(value, (list, tuple)) or not all(type(item) is item_type for item in value):
        raise InputError(f"{name} must be a list of {noun}, got {value!r}")
    if name == "designs":
        if not value:
            raise InputError(f"designs must be at least one of {', '.join(DESIGNS)}")
        for item in value:
            choice("design", item, DESIGNS)
    if name == "perturb" and 0 in value:
        raise InputError("perturb must not hold 0: that is C_o, which FX trains anyway")
    return tuple(dict.fromkeys(value))


def read_toml(path: str | Path) -> dict:
    """Settings from a TOML file: the fields of Settings as keys, a network of one's own as table
    [layers].

    Raises InputError for what is no TOML, and for unknown keys, naming the nearest valid one.
    """
    toml = _toml_reader(path)
    try:
        with open(path, "rb") as file:
            table = toml.load(file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from None
    try:
        return {choice("key", key, NAMES): value for key, value in table.items()}
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
