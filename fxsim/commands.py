"""What each command of `fxsim` does: tables on standard output, progress on standard error."""
from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

from fxsim import machine, report
from fxsim.analysis.complexity import assignment_complexity, design_complexity
from fxsim.errors import InputError
from fxsim.golden.commands import run_vectors
from fxsim.precision import PrecisionAssignment
from fxsim.profiles import markdown
from fxsim.progress import Progress
from fxsim.results import read_results
from fxsim.settings import NAMES, Settings, read_toml
from fxsim.stages import SETTINGS_FILE, Experiment, perturbed_name


def run(arguments: Namespace) -> None:
    """The whole method, then its tables and plots."""
    settings = _settings(arguments)
    progress = Progress(sys.stderr, designs=2 + len(settings.perturb))
    experiment = Experiment(settings, arguments.out, progress, arguments.command_line)
    _introduce(experiment)
    with progress.watching():
        experiment.run()
    designs = read_results(experiment.folder)["designs"]
    print("\nprecision of every tensor (C_o); margin: how much finer or wider than its criterion asks\n")
    print(report.assignment_table(PrecisionAssignment.from_dict(designs[1]["assignment"])))
    print("\nbits of an accumulator that adds without loss (C_o)\n")
    print(report.sums_table(designs[1]))
    _print_designs(designs)
    _write_plots(experiment.folder, designs)


def train(arguments: Namespace) -> None:
    """A float run, or one in fixed point."""
    fixed = arguments.assignment or arguments.bits is not None
    if arguments.only and arguments.bits is None:
        raise InputError("--only needs --perturb BITS")
    assignment = _assignment(arguments) if fixed else None
    progress = Progress(sys.stderr)
    experiment = _experiment(arguments, progress, fixed)
    _introduce(experiment)
    with progress.watching():
        if fixed:
            experiment.train_fixed(assignment, _design_name(arguments))
        else:
            experiment.train_float()
    _print_designs(read_results(experiment.folder)["designs"])
    print(f"\nwritten to {experiment.folder}" + ("" if fixed else f"; next: fxsim analyze --out {arguments.out}"))


def vectors(arguments: Namespace) -> int:
    """Golden vectors: exported, or compared with a dump; 1 where they differ."""
    return run_vectors(arguments)


def profiles(arguments: Namespace) -> None:
    """The table of compatibility profiles."""
    print(markdown())


def analyze(arguments: Namespace) -> None:
    """Statistics of the float run in the folder."""
    statistics = Experiment.reopen(arguments.out, Progress(sys.stderr), arguments.command_line).analyze()
    print(report.statistics_table(statistics))
    print(f"\nwritten to {Path(arguments.out) / 'statistics.npz'}; next: fxsim assign --out {arguments.out}")


def assign(arguments: Namespace) -> None:
    """A precision for every tensor, from the statistics in the folder."""
    assignment = Experiment.reopen(arguments.out, Progress(sys.stderr), arguments.command_line).assign()
    print(report.assignment_table(assignment))
    path = Path(arguments.out) / "assignment.json"
    print(f"\nwritten to {path}; next: fxsim train --out {arguments.out} --assignment {path}")


def cost(arguments: Namespace) -> None:
    """The four metrics of a network."""
    given = read_toml(arguments.network) if arguments.network.endswith(".toml") else {"network": arguments.network}
    if arguments.width is not None:
        given["width"] = arguments.width
    network = Settings.make(**given).build_network()
    if arguments.assignment:
        costs = assignment_complexity(network, PrecisionAssignment.load(arguments.assignment))
    else:
        costs = design_complexity(network, arguments.design or "FL")
    print(json.dumps(costs.to_dict(), indent=1) if arguments.json else
          f"{costs.network}, design {costs.design}\n\n{report.cost_table(costs)}")


def info(arguments: Namespace) -> None:
    """What fxsim runs on."""
    described, cache = machine.describe(), machine.kernel_cache()
    print(json.dumps(described | {"cache": cache}, indent=1) if arguments.json else report.info_text(described, cache))


def _settings(arguments: Namespace) -> Settings:
    given = read_toml(arguments.experiment) if arguments.experiment else {}
    return Settings.make(**given | _options(arguments))


def _options(arguments: Namespace) -> dict:
    """The settings that are given as options."""
    return {name: value for name in NAMES if (value := getattr(arguments, name, None)) is not None}


def _experiment(arguments: Namespace, progress: Progress, fixed: bool) -> Experiment:
    """For a fixed-point run the experiment in the folder, if there is one."""
    if not fixed or not (Path(arguments.out) / SETTINGS_FILE).exists():
        return Experiment(_settings(arguments), arguments.out, progress, arguments.command_line)
    given = [arguments.experiment] if arguments.experiment else list(_options(arguments))
    if given:
        raise InputError(f"a fixed-point run takes the settings of {Path(arguments.out) / SETTINGS_FILE}; "
                         f"leave out {', '.join(given)} or choose another --out")
    return Experiment.reopen(arguments.out, progress, arguments.command_line)


def _assignment(arguments: Namespace) -> PrecisionAssignment:
    assignment = PrecisionAssignment.load(arguments.assignment or Path(arguments.out) / "assignment.json")
    return assignment.perturbed(arguments.bits, arguments.only) if arguments.bits else assignment


def _design_name(arguments: Namespace) -> str:
    """C_o is the folder's own assignment; another file gives its name to its design."""
    own, file = Path(arguments.out) / "assignment.json", Path(arguments.assignment or "")
    name = perturbed_name(arguments.bits or 0, arguments.only)
    return name if not arguments.assignment or file.resolve() == own.resolve() else f"{name} of {file.stem}"


def _introduce(experiment: Experiment) -> None:
    network, dataset = experiment.network, experiment.dataset
    height, width, channels = dataset.image_shape
    weights = sum(network.shape(name).weights for name in network.names)
    experiment.observer.note(
        f"{network.name}, {len(network.layers)} layers, {weights:,} weights, on {dataset.name}: "
        f"{len(dataset.train_labels):,} pictures of {height}x{width}x{channels} to train, "
        f"{len(dataset.test_labels):,} to test; {experiment.settings.epochs} epochs")


def _print_designs(designs: list[dict]) -> None:
    print("\ndesigns; in brackets the cost as a share of the float one's\n")
    print(report.designs_table(designs))
    notable = report.remarks(designs)
    if notable:
        print("\nworth a look", *notable, sep="\n  ")


def _write_plots(folder: Path, designs: list[dict]) -> None:
    names = ["assignment.json", "statistics.npz", "results.json", "curves.csv"]
    try:
        names += report.write_plots(folder, designs)
    except InputError as error:
        print(f"\nno plots: {error}")
    print(f"\nwritten to {folder}: {', '.join(names)}")
