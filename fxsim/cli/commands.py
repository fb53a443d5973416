"""What each command of `fxsim` does: tables on standard output, progress on standard error."""

from __future__ import annotations

import functools
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from fxsim import machine
from fxsim.analysis import scaling
from fxsim.cli.export import run_export
from fxsim.cli.options import as_asked
from fxsim.cli.vectors import preset_of, run_vectors
from fxsim.cli.workers import ranks
from fxsim.datasets.survey import complaint, survey, survey_text
from fxsim.errors import InputError, choice, shown
from fxsim.experiment import study
from fxsim.experiment import sweep as sweeps
from fxsim.experiment.imported import import_model, pixel_range
from fxsim.experiment.progress import Progress
from fxsim.experiment.results import read_results
from fxsim.experiment.settings import NAMES, QUICK, Settings, read_toml
from fxsim.experiment.stages import (
    SETTINGS_FILE,
    Experiment,
    assignment_of,
    is_own_assignment,
    settings_in,
)
from fxsim.files import read_text, remove_leftovers, write_text
from fxsim.interchange.onnx_import import Wanted
from fxsim.lock import hold_folder
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Network
from fxsim.presets import Uniform
from fxsim.report import markdown, plots, sections, text
from fxsim.report.page import Run, report_html
from fxsim.report.profiles import profiles_markdown
from fxsim.train.checkpoint import Cadence
from fxsim.train.designs import FIXED, perturbed_name
from fxsim.train.designs import costs as costs_of

OF_ASSIGNMENT = ("--bound", "--minimize", "--output-grad-bits", "--gradient-rounding")
"""Options that say how formats are chosen."""


def _writing(command: Callable[[Namespace], None]) -> Callable[[Namespace], None]:
    """The command holds the lock of the folder of --out; of several ranks, 0 alone runs it."""

    @functools.wraps(command)
    def holding(arguments: Namespace) -> None:
        with ranks(getattr(arguments, "workers", None)) as communicator:
            if communicator is None:
                return
            arguments.communicator = communicator
            with hold_folder(arguments.out, arguments.command_line):
                command(arguments)

    return holding


@_writing
def run(arguments: Namespace) -> None:
    """The whole method, then its tables and plots."""
    settings = _settings(arguments)
    _refuse_without_effect(arguments, settings)
    progress = Progress(sys.stderr, designs=study.count(settings))
    experiment = _open(arguments, settings, progress)
    _introduce(experiment, arguments)
    with progress.watching(), study.side_by_side(arguments.jobs) as executor:
        study.run(experiment, executor)
    data = read_results(experiment.folder)
    designs = data["designs"]
    chosen = next((row for row in designs if row["design"] == perturbed_name(0)), None)
    if chosen:
        print(
            "\nprecision of every tensor (C_o); margin: how much finer or wider than its criterion "
            "asks\n"
        )
        print(text.assignment_table(PrecisionAssignment.from_dict(chosen["assignment"])))
        print("\nbits of an accumulator that adds without loss (C_o)\n")
        print(text.sums_table(chosen))
    _print_designs(designs)
    _write_report(experiment.folder, _run_of(experiment.folder, data))


@_writing
def sweep(arguments: Namespace) -> None:
    """C_o over targets and bits, its table and its plot."""
    progress = Progress(sys.stderr)
    experiment = Experiment.reopen(arguments.out, progress, arguments.command_line, resume=True)
    remove_leftovers(arguments.out)
    _check_jobs(arguments)
    _introduce(experiment, arguments)
    targets = sweeps.TARGETS if arguments.targets is None else arguments.targets
    perturb = sweeps.PERTURB if arguments.perturb is None else arguments.perturb
    with progress.watching(), study.side_by_side(arguments.jobs) as executor:
        found = sweeps.points(experiment, targets, perturb)
        progress.designs = len(sweeps.trainings_of(found))
        data = sweeps.run(experiment, found, executor)
    print(f"\n{text.sweep_table(data)}")
    names = ["sweep.json", "sweep.csv"]
    try:
        figure = plots.sweep_figure(data)
        names += [
            plots.write_figure(experiment.path(f"sweep.{suffix}"), figure)
            for suffix in plots.SUFFIXES
        ]
    except InputError as error:
        print(f"\nno plots: {error}")
    print(f"\nwritten to {experiment.folder}: {', '.join(names)}")


def report(arguments: Namespace) -> None:
    """Plots and reports of a folder, anew; or one page on several folders."""
    folders = list(dict.fromkeys(arguments.folders))
    if len(folders) < len(arguments.folders):
        raise InputError("a folder is given twice; give each once")
    path = Path(arguments.out or COMPARISON)
    if path.suffix != ".html":
        raise InputError(f"--out must name a file that ends in .html, got {shown(arguments.out)}")
    if len(folders) == 1 and arguments.out is None:
        with hold_folder(folders[0], arguments.command_line):
            data = _finished(folders[0])
            _write_report(Path(folders[0]), _run_of(folders[0], data))
        return
    page = report_html([_run_of(folder, _finished(folder)) for folder in folders])
    write_text(path, page)
    print(f"written to {path}")


COMPARISON = "comparison.html"
"""The page on several folders, where --out names no other."""


def _finished(folder: str) -> dict:
    """The results in a folder, of one design at least."""
    data = read_results(folder)
    if not data["designs"]:
        raise InputError(f"{folder} holds no finished design; run fxsim run --out {folder} first")
    return data


def _run_of(folder: str | Path, data: dict) -> Run:
    """The results of a folder for its page, under the folder's name."""
    settings = Settings.from_dict(data["identity"]["settings"])
    sensitivity = study.sensitivity(settings, data["designs"])
    return Run(str(folder), data, sensitivity)


@_writing
def train(arguments: Namespace) -> None:
    """A float run, or one in fixed point."""
    fixed = bool(
        {"--assignment", "--perturb", "--accumulator", "--in-place", "--stochastic", "--formats"}
        & arguments.given
    )
    if arguments.formats is not None:
        _refuse(arguments, "--perturb", "beside --formats, which has the bits")
    if arguments.only is not None and not arguments.bits:
        raise InputError("--only needs --perturb BITS, a number of bits that is not 0")
    if arguments.only == "accumulators":
        _refuse(arguments, "--in-place", "beside --only accumulators: it leaves these out")
    if fixed:
        for option in OF_ASSIGNMENT:
            _refuse(arguments, option, "on a training in the formats of an assignment")
    else:
        _refuse(arguments, "--workers", "on a float run, which one rank makes alone")
    progress = Progress(sys.stderr)
    experiment = _experiment(arguments, progress, fixed)
    assignment = _assignment(arguments, experiment) if fixed else None
    _introduce(experiment, arguments)
    with progress.watching():
        if assignment is not None:
            experiment.train_fixed(assignment, _design_name(arguments))
        else:
            experiment.train_float()
    designs = read_results(experiment.folder)["designs"]
    if fixed:
        print("\nbits of an accumulator that adds without loss\n")
        print(
            text.sums_table(
                next(row for row in designs if row["design"] == _design_name(arguments))
            )
        )
    _print_designs(designs)
    print(
        f"\nwritten to {experiment.folder}"
        + ("; its page: fxsim report" if fixed else "; next: fxsim analyze --out")
        + f" {arguments.out}"
    )


@_writing
def import_network(arguments: Namespace) -> None:
    """The float stage of a run from an ONNX model."""
    wanted = Wanted(
        layout=arguments.layout,
        loss=arguments.loss,
        targets=arguments.targets,
        pixels=pixel_range(arguments.pixels),
    )
    progress = Progress(sys.stderr)
    with progress.watching():
        run = import_model(
            arguments.model,
            arguments.out,
            _options(arguments),
            wanted,
            progress,
            arguments.command_line,
        )
    network = run.experiment.network
    print(text.imported_text(network, run.differences))
    print(
        f"loss {network.loss}, targets {network.targets}; pixels 0 to "
        f"{run.experiment.dataset.pixel_max} are {arguments.pixels} to the model"
    )
    _print_designs(read_results(run.experiment.folder)["designs"])
    print(f"\nwritten to {arguments.out}; next: fxsim analyze --out {arguments.out}")


def vectors(arguments: Namespace) -> int:
    """Golden vectors: exported, or compared with a dump; 1 where they differ."""
    return run_vectors(arguments)


def export(arguments: Namespace) -> None:
    """The network of an experiment in the files of other tools."""
    run_export(arguments)


def profiles(arguments: Namespace) -> None:
    """The table of compatibility profiles."""
    print(profiles_markdown())


@_writing
def analyze(arguments: Namespace) -> None:
    """Statistics of the float run in the folder."""
    progress = Progress(sys.stderr)
    with progress.watching():
        experiment = Experiment.reopen(arguments.out, progress, arguments.command_line)
        statistics = experiment.analyze()
    print(text.statistics_table(statistics))
    print(
        f"\nwritten to {Path(arguments.out) / 'statistics.npz'}; next: fxsim assign --out "
        f"{arguments.out}"
    )


@_writing
def assign(arguments: Namespace) -> None:
    """A precision for every tensor, from the statistics in the folder."""
    assignment = Experiment.reopen(
        arguments.out, Progress(sys.stderr), arguments.command_line
    ).assign()
    print(text.assignment_table(assignment))
    if assignment.proposed:
        print("\naccumulators of sums of products (--accumulator assigned)\n")
        print(text.proposals_table(assignment))
    path = Path(arguments.out) / "assignment.json"
    print(f"\nwritten to {path}; next: fxsim train --out {arguments.out} --assignment {path}")


def cost(arguments: Namespace) -> None:
    """The four metrics of a network."""
    given = (
        read_toml(arguments.network)
        if arguments.network.endswith(".toml")
        else {"network": arguments.network}
    )
    if arguments.width is not None:
        given["width"] = arguments.width
    network = Settings.make(**given).build_network()
    assignment = preset_of(arguments, network)
    if arguments.assignment is not None:
        assignment = PrecisionAssignment.load(arguments.assignment)
    costs = costs_of(arguments.design or ("FX" if assignment else "FL"), network, assignment)
    found, predicted = _exchange(arguments, network, assignment)
    if arguments.json:
        more = {} if found is None else {"exchange": scaling.to_dict(found, predicted)}
        print(json.dumps(costs.to_dict() | more, indent=1))
        return
    print(f"{costs.network}, design {costs.design}\n\n{text.cost_table(costs)}")
    if found is not None:
        print(f"\nexchanged by each rank in a step of {arguments.batch} images\n")
        print(text.exchange_table(found))
    if predicted is not None:
        print(f"\n{text.scaling_line(predicted)}")


def _exchange(
    arguments: Namespace, network: Network, assignment: PrecisionAssignment | None
) -> tuple[scaling.Exchange | None, scaling.Scaling | None]:
    """What `fxsim cost` tells of several ranks, as far as it is asked for."""
    timed = {"--bandwidth": arguments.bandwidth, "--step-seconds": arguments.step_seconds}
    if arguments.batch is None:
        for option in ("--workers", "--latency", *timed):
            _refuse(arguments, option, "without --batch, the images of a step")
        return None, None
    if assignment is None:
        raise InputError(
            f"--batch {arguments.batch}: ranks share trainings in fixed point alone; give "
            "--assignment or --formats, or leave it out"
        )
    found = scaling.exchange(network, assignment, arguments.batch)
    if arguments.workers is None:
        for option in ("--latency", *timed):
            _refuse(arguments, option, "without --workers, the number of ranks")
        return found, None
    for option, value in timed.items():
        if value is None:
            raise InputError(f"--workers {arguments.workers} needs {option} to predict a time")
    return found, scaling.scaling(
        found,
        arguments.workers,
        arguments.step_seconds,
        arguments.bandwidth,
        arguments.latency or 0.0,
    )


def guide(arguments: Namespace) -> None:
    """A page of the guide, or the list of its pages."""
    folder = Path(__file__).parents[1] / "guide"
    name = "README"
    if arguments.page is not None:
        pages = sorted(path.stem for path in folder.glob("*.md") if path.stem != name)
        name = choice("page", arguments.page, pages)
    print(read_text(folder / f"{name}.md").rstrip())


def data(arguments: Namespace) -> None:
    """What is in a folder of data; InputError where that is not whole."""
    found = survey(arguments.folder, arguments.dataset)
    print(json.dumps(found, indent=1) if arguments.json else survey_text(found))
    if wrong := complaint(found):
        raise InputError(wrong)


def info(arguments: Namespace) -> None:
    """What fxsim runs on."""
    described = machine.describe()
    cache = machine.kernel_cache()
    print(
        json.dumps(described | {"cache": cache}, indent=1)
        if arguments.json
        else text.info_text(described, cache)
    )


def _settings(arguments: Namespace, design: str = "FL") -> Settings:
    """The settings that are given, or with --resume those of the folder."""
    given = _given(arguments)
    settings = settings_in(arguments.out, design) if arguments.resume else None
    if settings is None:
        return Settings.make(**given)
    settings.check_given(given, arguments.out)
    return settings


def _given(arguments: Namespace) -> dict:
    """The settings of the file and of the options, which come before those of the file."""
    options = _options(arguments)
    if arguments.experiment is None:
        return options
    file = read_toml(arguments.experiment)
    if options.get("quick"):  # as an option it comes before the epochs and images of the file
        file = {name: value for name, value in file.items() if name not in QUICK}
    return file | options


def _refuse_without_effect(arguments: Namespace, settings: Settings) -> None:
    """InputError where an option of `fxsim run` changes nothing beside the other settings."""
    designs = settings.designs
    if "FX" not in designs and settings.perturb:
        _refuse(arguments, "--perturb", f"on the designs {', '.join(designs)}; it is for FX")
    if "FX" not in designs or not settings.perturb:
        _refuse(arguments, "--per-class", "without FX in --designs and bits in --perturb")
    if FIXED.keys().isdisjoint(designs):
        for option in (*OF_ASSIGNMENT, "--accumulator", "--workers"):
            _refuse(arguments, option, f"on the designs {', '.join(designs)}")
    _check_jobs(arguments)
    if arguments.jobs != 1 and len(study.planned(settings)) < 2:
        _refuse(arguments, "--jobs", "where fewer than two trainings follow the float run")


def _check_jobs(arguments: Namespace) -> None:
    """InputError where trainings are to be both side by side and shared."""
    if arguments.jobs != 1 and arguments.workers is not None:
        raise InputError(
            f"--jobs {arguments.jobs} beside --workers {arguments.workers}: the ranks share each "
            "training; leave one of both out"
        )


def _refuse(arguments: Namespace, option: str, where: str) -> None:
    """InputError if `option` is on the command line."""
    if option in arguments.given:
        raise InputError(f"{option} has no effect {where}; leave it out")


def _open(arguments: Namespace, settings: Settings, progress: Progress) -> Experiment:
    cadence = Cadence(arguments.checkpoint_minutes, arguments.checkpoint_steps)
    if arguments.resume:
        remove_leftovers(arguments.out)
    return Experiment(
        settings, arguments.out, progress, arguments.command_line, arguments.resume, cadence
    )


def _options(arguments: Namespace) -> dict:
    """The settings that are given as options."""
    return {name: value for name in NAMES if (value := getattr(arguments, name, None)) is not None}


def _experiment(arguments: Namespace, progress: Progress, fixed: bool) -> Experiment:
    """For a fixed-point run the experiment in the folder, if there is one."""
    design = _design_name(arguments) if fixed else "FL"
    path = Path(arguments.out) / SETTINGS_FILE
    if not fixed or arguments.resume or not path.exists():
        return _open(arguments, _settings(arguments, design), progress)
    given = [arguments.experiment] if arguments.experiment is not None else []
    given = given or list(_options(arguments))
    if given:
        raise InputError(
            f"a fixed-point run takes the settings of {path}; "
            f"leave out {', '.join(given)} or choose another --out"
        )
    return _open(arguments, Settings.load(path), progress)


def _assignment(arguments: Namespace, experiment: Experiment) -> PrecisionAssignment:
    assignment = preset_of(arguments, experiment.network)
    if assignment is None:
        identity = experiment.setup.identity
        own = assignment_of(arguments.out, identity, arguments.assignment)
        assignment = experiment.setup.with_sums(own)
    if arguments.bits:
        assignment = assignment.perturbed(arguments.bits, arguments.only)
    return as_asked(assignment, arguments)


def _design_name(arguments: Namespace) -> str:
    """C_o is the folder's own assignment.

    Another file gives its name to its design; --formats, --in-place, accumulators and random words
    give their texts.
    """
    if arguments.formats is not None:
        name = f"FX {Uniform.parse(arguments.formats)}"
    else:
        name = perturbed_name(arguments.bits or 0, arguments.only)
        if not is_own_assignment(arguments.out, arguments.assignment):
            name = f"{name} of {Path(arguments.assignment).stem}"
    in_place = ["in place"] if arguments.in_place else []
    return "; ".join([name, *in_place, *arguments.accumulator, *arguments.stochastic])


def _introduce(experiment: Experiment, arguments: Namespace) -> None:
    """Say what is trained, and by how many ranks."""
    experiment.communicator = arguments.communicator
    network = experiment.network
    dataset = experiment.dataset
    height, width, channels = dataset.image_shape
    weights = sum(network.shape(name).weights for name in network.names)
    experiment.observer.note(
        f"{network.name}, {len(network.layers)} layers, {weights:,} weights, on {dataset.name}: "
        f"{len(dataset.train_labels):,} images of {height}x{width}x{channels} to train, "
        f"{len(dataset.test_labels):,} to test; {experiment.settings.epochs} epochs"
    )
    if arguments.workers is not None:
        size = experiment.communicator.size
        experiment.observer.note(f"trainings in fixed point are shared by {size} ranks")


def _print_designs(designs: list[dict]) -> None:
    print("\ndesigns; in brackets the cost as a share of the float one's\n")
    print(text.designs_table(designs))
    notable = text.remarks(designs)
    if notable:
        print("\nworth a look", *notable, sep="\n  ")


def _write_report(folder: Path, run: Run) -> None:
    """Plots, report.md, which shows them, and report.html; the last lines name all files of the
    run, and the page to open.
    """
    drawn = []
    try:
        drawn = plots.write_plots(folder, run.data["designs"], run.sensitivity)
    except InputError as error:
        print(f"\nno plots: {error}")
    write_text(folder / "report.md", markdown.report_markdown(run.data, run.sensitivity, drawn))
    write_text(folder / "report.html", report_html([run]))
    names = [
        "report.html",
        "report.md",
        "results.json",
        "curves.csv",
        "assignment.json",
        "statistics.npz",
    ]
    there = [name for name in names if (folder / name).exists()]
    print(f"\n{sections.verdict(run.data)}")
    print(f"\nwritten to {folder}: {', '.join(there + drawn)}")
    print(f"open {folder / 'report.html'} in a browser")
