"""Run a fixed-point training again up to one step, to capture that step.

The step is one of the training that a run did: `StoredRun` compares the replayed training with what
results.json holds of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from fxsim.errors import InputError
from fxsim.experiment import results
from fxsim.experiment.training import TrainingSetup
from fxsim.golden.capture import GoldenStep, capture, parameter_codes
from fxsim.identity import Identity, check_identity
from fxsim.nn.precision import PrecisionAssignment

WAY_OUT = "name the data set as it was with --data, or run the training again"
SETTINGS_OF_START = ("seed",)
"""Settings that change the initial weights, the images staying as they are."""
SETTINGS_OF_STEPS = ("seed", "batch")
"""Settings that change the steps."""


def replay(
    setup: TrainingSetup,
    assignment: PrecisionAssignment,
    step: int,
    layers: Iterable[str] | None = None,
) -> GoldenStep:
    """One step of the training that `fxsim train --assignment` does with these settings.

    Args:
        setup: the training; its initial parameters go through all steps before.
        assignment: the formats.
        step: the number of the step, from 0.
        layers: the layers to keep; None for all.

    Raises:
        InputError: the training has no such step, or no such layer.
    """
    if not 0 <= step < setup.step_count:
        raise InputError(
            f"step must be 0 to {setup.step_count - 1} ({setup.settings.epochs} epochs of "
            f"{setup.plan.steps_per_epoch} steps), got {step}"
        )
    learner = setup.fixed_learner(assignment)
    network = learner.network
    earlier = None
    for each in setup.plan.steps():
        targets = learner.targets(each.pixels, each.labels)
        batch = learner.images(each.pixels), targets, each.rate, each.number
        if each.number == step:
            break
        earlier = parameter_codes(network)
        network.train_step(*batch)
    golden = capture(network, *batch, layers, earlier)
    manifest = dataclasses.replace(golden.manifest, identity=setup.identity)
    return dataclasses.replace(golden, manifest=manifest)


@dataclass(frozen=True)
class StoredRun:
    """What results.json holds of the training that is to be replayed.

    Args:
        path: results.json.
        design: the design that was trained in the formats of the replay; '' for none.
        start: fingerprint of that design's initial codes; None for none.
        end: fingerprint of its codes after the last step; None for none.
    """

    path: Path
    design: str = ""
    start: str | None = None
    end: str | None = None

    @classmethod
    def find(
        cls, folder: str | Path, identity: Identity, assignment: PrecisionAssignment
    ) -> StoredRun | None:
        """What the results.json in `folder` holds; None where there is none yet.

        Args:
            folder: the folder of the run.
            identity: of the run, with the images of the replay.
            assignment: the formats of the replay; reasons are not compared.

        Raises:
            InputError: results.json is damaged, or holds results of another experiment.
        """
        path = Path(folder) / results.FILE
        if not path.exists():
            return None
        data = results.read_results(folder)
        check_identity(str(path), data["identity"], identity.to_dict(), WAY_OUT)
        formats = results.formats(assignment)
        for row in data["designs"]:
            if row["costs"].get("design") == "FX" and results.formats_of(row) == formats:
                return cls(path, row["design"], row["start_fingerprint"], row["fingerprint"])
        return cls(path)

    def check_start(self, setup: TrainingSetup, assignment: PrecisionAssignment) -> None:
        """InputError unless the replay starts from the weights that the run started from."""
        if self.start is None:
            return
        found = setup.fixed_learner(assignment).network.fingerprint()
        self._compare("initial", found, self.start)

    def check_end(self, fingerprint: str) -> None:
        """InputError unless the weights after the last step are those that the run ended with."""
        if self.end is not None:
            self._compare("final", fingerprint, self.end)

    def _compare(self, moment: str, found: str, stored: str) -> None:
        if found != stored:
            raise InputError(
                f"the {moment} weights differ from those of {self.design} ({self.path}): their "
                f"fingerprint is {found} here, {stored} there; the file was edited or is of "
                f"another version of fxsim, run the training again"
            )


def replay_of_run(
    run: StoredRun,
    setup: TrainingSetup,
    assignment: PrecisionAssignment,
    step: int,
    layers: Iterable[str] | None = None,
    changed: Collection[str] = (),
) -> tuple[GoldenStep, list[str]]:
    """`replay` of a training that a run did, compared with what the run stored.

    The images were compared when the run was found; the initial weights are where `changed` leaves them as they were;
    the final weights where it leaves all steps as they were, and `step` is the last.

    Args:
        run: what the run stored.
        setup: the training.
        assignment: the formats.
        step: the number of the step, from 0.
        layers: the layers to keep; None for all.
        changed: the names of the settings that are not those of the run.

    Returns:
        The step, and the names of what was compared and is equal: 'images', 'initial weights',
        'final weights'.

    Raises:
        InputError: something differs.
    """
    compared = ["images"]
    if run.start is not None and not set(changed) & set(SETTINGS_OF_START):
        run.check_start(setup, assignment)
        compared.append("initial weights")
    golden = replay(setup, assignment, step, layers)
    same_steps = not set(changed) & set(SETTINGS_OF_STEPS)
    if run.end is not None and same_steps and step == setup.step_count - 1:
        run.check_end(golden.manifest.fingerprints["after"])
        compared.append("final weights")
    return golden, compared
