"""What is measured on a training in fixed point beside its losses.

The criteria, and where its tensors' values lie.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from fxsim.analysis import fixed_run
from fxsim.analysis.fixed_run import Finding
from fxsim.datasets import Dataset
from fxsim.factors import LearningRate
from fxsim.train.learners import FixedLearner
from fxsim.train.schedule import Schedule

RECORDED_STEPS = 4
"""Steps from which relative quantization bias is taken, at the start and at the end."""


def measured(
    start: FixedLearner, end: FixedLearner, dataset: Dataset, schedule: Schedule, batch: int
) -> dict:
    """Plain data for results.json.

    start, end: the learner as it was before the training, and after it; both are left as they are.
    criteria: a Finding for each tensor, with the moment that it is of, 'training', 'start' or
    'end'. histograms: moment -> layer -> tensor -> magnitudes by powers of two
    (fixed_run.histograms). Recorded steps are taken on the first images of the training set,
    batch after batch.
    """
    findings = _rows(
        "training",
        [*fixed_run.gradient_clipping(end.counts), *fixed_run.accumulator_stopping(end.counts)],
    )
    histograms = {}
    for moment, learner, rate in (
        ("start", start, schedule.rate(0)),
        ("end", end, schedule.rate(schedule.epochs - 1)),
    ):
        findings += _rows(moment, _recorded(learner, dataset, batch, rate))
        images = dataset.train_images[:batch] / dataset.pixel_max
        decides = learner.network.network.decides
        targets = dataset.train_labels[:batch] if decides else images
        histograms[moment] = fixed_run.histograms(learner.network, images, targets, rate.real)
    return {"criteria": findings, "histograms": histograms}


def _recorded(
    learner: FixedLearner, dataset: Dataset, batch: int, rate: LearningRate
) -> Iterable[Finding]:
    parts = [
        slice(first, first + batch)
        for first in range(0, len(dataset.train_labels) - batch + 1, batch)
    ]
    recorded = [
        (dataset.train_images[part], dataset.train_labels[part]) for part in parts[:RECORDED_STEPS]
    ]
    batches = (
        (learner.images(pixels), learner.targets(pixels, labels)) for pixels, labels in recorded
    )
    yield from fixed_run.quantization_bias(learner.network, batches, rate)
    yield from fixed_run.reflected_noise(
        learner.network, dataset.train_images[:batch] / dataset.pixel_max
    )


def _rows(moment: str, findings: Iterable[Finding]) -> list[dict]:
    return [
        {"moment": moment, **dataclasses.asdict(finding), "passed": finding.passed}
        for finding in findings
    ]
