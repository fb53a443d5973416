"""What is measured on a training in fixed point beside its losses.

The criteria, and where its tensors' values lie.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from fxsim.analysis import fixed_run
from fxsim.analysis.fixed_run import Finding
from fxsim.datasets import Dataset
from fxsim.factors import LearningRate
from fxsim.nn.spec import Network
from fxsim.train.learners import FixedLearner, real_targets
from fxsim.train.schedule import Schedule

RECORDED_STEPS = 4
"""Steps from which RQB and GF are taken, at the start and at the end."""


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
        [(images, targets)] = first_batches(dataset, learner.network.network, batch, 1)
        histograms[moment] = fixed_run.histograms(learner.network, images, targets, rate.real)
    return {"criteria": findings, "histograms": histograms}


def first_batches(
    dataset: Dataset, network: Network, batch: int, most: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images in [0, 1] and targets of the first batches of the training set, at most so many."""
    for pixels, labels in _first_pixels(dataset, batch, most):
        images = pixels / dataset.pixel_max
        yield images, real_targets(network, images, labels)


def _first_pixels(
    dataset: Dataset, batch: int, most: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for first in range(0, min(most, len(dataset.train_labels) // batch) * batch, batch):
        part = slice(first, first + batch)
        yield dataset.train_images[part], dataset.train_wanted[part]


def _recorded(
    learner: FixedLearner, dataset: Dataset, batch: int, rate: LearningRate
) -> Iterable[Finding]:
    codes = (
        (learner.images(pixels), learner.targets(pixels, labels))
        for pixels, labels in _first_pixels(dataset, batch, RECORDED_STEPS)
    )
    network = learner.network
    batches = list(first_batches(dataset, network.network, batch, RECORDED_STEPS))
    yield from fixed_run.quantization_bias(network, codes, rate)
    yield from fixed_run.reflected_noise(network, batches[0][0])
    yield from fixed_run.gradient_flushing(network, batches)


def _rows(moment: str, findings: Iterable[Finding]) -> list[dict]:
    return [
        {"moment": moment, **dataclasses.asdict(finding), "passed": finding.passed}
        for finding in findings
    ]
