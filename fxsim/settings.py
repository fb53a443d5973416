"""Settings of an experiment: defaults for each built-in network, TOML files, checks."""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from fxsim.errors import InputError, choice
from fxsim.nn import networks, spec
from fxsim.nn.spec import Network
from fxsim.train.schedule import Schedule

DEFAULTS: dict[str, dict] = {
    "digits-convnet": {"dataset": "digits", "epochs": 12, "batch": 32, "learning_rate": 0.1},
    "mnist-convnet": {"dataset": "mnist", "epochs": 10, "batch": 32, "learning_rate": 0.1},
    "cifar10-convnet": {"dataset": "cifar10", "epochs": 15, "batch": 128, "learning_rate": 0.1},
    "svhn-convnet": {"dataset": "svhn", "epochs": 15, "batch": 128, "learning_rate": 0.1},
    "cifar10-resnet": {"dataset": "cifar10", "epochs": 20, "batch": 250, "learning_rate": 0.01},
    "cifar100-resnet": {"dataset": "cifar100", "epochs": 20, "batch": 250, "learning_rate": 0.01},
}
"""What a network is trained with where the user says nothing."""

QUICK_EPOCHS, QUICK_PICTURES = 3, 512


@dataclass(frozen=True)
class Settings:
    """One experiment.

    network: name of a built-in network; layers: a network of the user's own (TOML), else None.
    width: multiplier of the built-in's filters.  data: folder of the data set (digits need none).
    drops: epochs at which the learning rate is divided by 10; None for one, after 3/4 of the epochs.
    target: bound on the mismatch probability p_m that B_min must meet.  perturb: bits to add to C_o.
    gain_samples: training pictures from which noise gains are estimated.  quick: few epochs and pictures.
    """

    network: str = "digits-convnet"
    width: float = 1.0
    dataset: str = "digits"
    data: str | None = None
    epochs: int = 12
    batch: int = 32
    learning_rate: float = 0.1
    drops: tuple[int, ...] | None = None
    seed: int = 0
    target: float = 0.01
    perturb: tuple[int, ...] = (-1, 1)
    gain_samples: int = 512
    quick: bool = False
    layers: dict | None = None

    @classmethod
    def make(cls, **given) -> Settings:
        """Settings with `given` values, all others by the network's defaults; None counts as not given."""
        given = {name: value for name, value in given.items() if value is not None}
        names = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            choice("setting", name, names)
        network = given.get("network", cls.network)
        if "layers" not in given:
            choice("network", network, networks.BUILDERS)
        settings = cls(**_typed(DEFAULTS.get(network, {}) | given))
        if settings.quick:
            settings = dataclasses.replace(settings, epochs=min(settings.epochs, QUICK_EPOCHS), drops=())
        settings.schedule()
        return settings

    def schedule(self) -> Schedule:
        drops = self.drops
        if drops is None:
            drop = self.epochs * 3 // 4
            drops = (drop,) if 0 < drop < self.epochs else ()
        return Schedule(self.epochs, self.learning_rate, drops)

    def build_network(self) -> Network:
        return spec.from_dict(self.layers) if self.layers else networks.build(self.network, self.width)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


def _typed(values: dict) -> dict:
    """Values with the types of Settings' fields (TOML lists become tuples); InputError where one does not fit."""
    kinds = {"width": float, "learning_rate": float, "target": float, "epochs": int, "batch": int, "seed": int,
             "gain_samples": int, "quick": bool, "network": str, "dataset": str, "data": str}
    typed = dict(values)
    for name, value in values.items():
        if name in ("drops", "perturb"):
            if not isinstance(value, (list, tuple)) or not all(type(item) is int for item in value):
                raise InputError(f"{name} must be a list of integers, got {value!r}")
            typed[name] = tuple(value)
        elif name in kinds:
            kind = kinds[name]
            fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or value is not True)
            if not fits or (kind is not bool and isinstance(value, bool)):
                raise InputError(f"{name} must be of type {kind.__name__}, got {value!r}")
            typed[name] = kind(value)
    for name, least in (("epochs", 1), ("batch", 1), ("seed", 0), ("gain_samples", 1)):
        if name in typed and typed[name] < least:
            raise InputError(f"{name} must be at least {least}, got {typed[name]}")
    if "target" in typed and not 0 < typed["target"] < 1:
        raise InputError(f"target must lie between 0 and 1, got {typed['target']}")
    return typed


def read_toml(path: str | Path) -> dict:
    """Settings from a TOML file: the fields of Settings as keys, a network of one's own as table [layers].

    Unknown keys are an InputError that names the nearest valid one.
    """
    try:
        import tomllib
    except ModuleNotFoundError:
        try:
            import tomli as tomllib
        except ModuleNotFoundError:
            raise InputError(f"{path}: TOML files need Python 3.11 or the package tomli; pip install 'fxsim[toml]'") from None
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from None
    names = [field.name for field in dataclasses.fields(Settings)]
    for key in table:
        try:
            choice("key", key, names)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    return table
