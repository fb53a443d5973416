"""The comparison study: designs and perturbations over several seeds.

    python benchmarks/study.py --network cifar10-convnet --width 0.25 --epochs 15 --data ~/data/cifar-10-batches-bin \\
        --designs FL,FX,BN,SQ,TG --perturb=-2,-1,+1 --per-class --jobs 2 --seeds 0,1,2 --out study

Takes the options of `fxsim run`.  Each seed has its folder below that of --out; started again, the
study goes on there. Writes benchmarks/results/study-NAME.json (every run with its epochs, costs and
fingerprint, then means and standard deviations over the seeds) and the curves of the means as
study-NAME.png and .svg.  NAME is the network's, unless --name gives another.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from runs import RESULTS, print_summary, summary, write_result

from fxsim.cli import parser as cli
from fxsim.errors import InputError
from fxsim.experiment import study
from fxsim.experiment.progress import Progress
from fxsim.experiment.results import read_results
from fxsim.experiment.settings import NAMES, Settings
from fxsim.experiment.stages import Experiment
from fxsim.report import plots

KEPT = ("design", "test_error", "test_loss", "train_loss", "seconds", "fingerprint", "epochs")


def run_seed(settings: Settings, folder: Path, executor) -> list[dict]:
    """The designs of results.json, trained where they are not there yet."""
    progress = Progress(sys.stderr, designs=study.count(settings))
    progress.note(f"seed {settings.seed}")
    study.run(Experiment(settings, folder, progress, resume=True), executor)
    return read_results(folder)["designs"]


def kept(row: dict, seed: int) -> dict:
    """What the result file holds of a run; of C_o's run also its formats and criteria."""
    costs = row["costs"]["total"]
    chosen = (
        {"assignment": row["assignment"], "criteria": row["measured"]["criteria"]}
        if row["measured"]
        else {}
    )
    return {"seed": seed, **{name: row[name] for name in KEPT}, "costs": costs, **chosen}


def mean_curves(rows: list[dict]) -> list[dict]:
    """One design for each name, its epochs the means over the seeds.

    Input of plots.curves_figure.
    """
    designs = {}
    for row in rows:
        designs.setdefault(row["design"], []).append(row)
    return [
        {
            **same[0],
            "epochs": [_mean_epoch(epochs) for epochs in zip(*(row["epochs"] for row in same))],
        }
        for same in designs.values()
    ]


def _mean_epoch(epochs: tuple[dict, ...]) -> dict:
    return {name: statistics.fmean(epoch[name] for epoch in epochs) for name in epochs[0]}


def write_curves(name: str, rows: list[dict]) -> None:
    try:
        figure = plots.curves_figure(mean_curves(rows))
    except InputError as error:
        print(f"no plots: {error}", file=sys.stderr)
        return
    for suffix in plots.SUFFIXES:
        plots.write_figure(RESULTS / f"{name}.{suffix}", figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--name")
    own, others = parser.parse_known_args()
    arguments = cli.parse(["run", *others])
    given = {name: getattr(arguments, name) for name in NAMES if hasattr(arguments, name)}
    seeds = [int(seed) for seed in own.seeds.split(",")]
    rows = []
    runs = []
    with study.processes(arguments.jobs) as executor:
        for seed in seeds:
            settings = Settings.make(**given | {"seed": seed})
            found = run_seed(settings, Path(arguments.out) / f"seed-{seed}", executor)
            rows += found
            runs += [kept(row, seed) for row in found]
    name = f"study-{own.name or settings.network}"
    write_curves(name, rows)
    means = summary(runs)
    write_result(name, settings=settings.to_dict() | {"seed": seeds}, summary=means, runs=runs)
    print_summary(means)


if __name__ == "__main__":
    main()
