"""Rank 0 leads a training that all ranks compute, and the others follow it."""

import contextlib
import dataclasses
import threading

import pytest
from support.ranks import on_ranks

from fxsim import Accumulator, InputError, LearningRate, presets
from fxsim.experiment.settings import Settings
from fxsim.experiment.training import TrainingSetup
from fxsim.train.leading import LeadingLearner, end, follow
from fxsim.train.loop import Position, train

SETUP = TrainingSetup.of(
    Settings.make(
        width=0.25, images=70, held_out=0, epochs=1, batch=10, momentum=0.5, crop=1, flip=True
    )
)
FORMATS = presets.uniform("Q4.12").assignment(SETUP.network)
RANDOM = dataclasses.replace(
    FORMATS, rounding=FORMATS.rounding | {"accumulators": "stochastic", "activations": "stochastic"}
)


def learner(design="FX"):
    return SETUP.fixed_learner(RANDOM, design)


def leader(rank, design="FX"):
    return LeadingLearner(learner(design), design, SETUP.settings.optimizer(), rank)


def led(size, work, design="FX"):
    """What work(learner of rank 0) gives on so many ranks."""

    def on_rank(rank):
        if rank.rank:
            return follow(rank)
        try:
            return work(leader(rank, design))
        finally:
            with contextlib.suppress(threading.BrokenBarrierError):  # where all have ended
                end(rank)

    return on_ranks(size, on_rank)[0]


class Enough(Exception):
    """Ends a training after some steps."""


def whole(learner, state=None, position=None, until=None):
    """(state, epochs without their speed) of a training, or (state, position) after some steps."""
    position = position or Position()
    if state is not None:
        learner.load_state(state)

    def keep(position):
        if position.step == until:
            raise Enough

    try:
        epochs = train(learner, SETUP.plan, position, keep)
    except Enough:
        return {name: array.copy() for name, array in learner.state().items()}, position
    return learner.state(), [dataclasses.replace(epoch, images_per_second=0.0) for epoch in epochs]


def assert_same(got, wanted):
    assert got[0].keys() == wanted[0].keys()
    for name, array in wanted[0].items():
        assert (got[0][name] == array).all(), name
    assert got[1] == wanted[1]


@pytest.mark.parametrize("design", ["FX", "SQ"])
def test_a_training_of_several_ranks_is_that_of_one(design):
    """Its parameters, running sums, counts, losses and errors."""
    assert_same(led(3, whole, design), whole(learner(design)))


def test_a_training_goes_on_with_another_number_of_ranks():
    state, position = led(2, lambda learner: whole(learner, until=4))
    assert_same(led(3, lambda learner: whole(learner, state, position)), whole(learner()))


def test_what_a_step_refuses_leaves_all_ranks_where_they_were():
    plan = next(SETUP.plan.batches(0))

    def work(learner):
        before = learner.network.fingerprint()
        with pytest.raises(InputError, match="step must be"):
            learner.step(*plan, LearningRate.of(0.1), -1)
        assert learner.network.fingerprint() == before
        learner.step(*plan, LearningRate.of(0.1), 0)
        return learner.network.fingerprint()

    alone = learner()
    alone.step(*plan, LearningRate.of(0.1), 0)
    assert led(3, work) == alone.network.fingerprint()


def test_an_error_of_rank_0_ends_all():
    """Before it has begun the exchanges that the others wait for."""

    def work(learner):
        learner.codes = None
        return whole(learner)

    with pytest.raises(TypeError, match="not subscriptable"):
        led(3, work)


def test_accumulators_that_add_in_order_are_refused_before_anything_is_written():
    ordered = dataclasses.replace(FORMATS, accumulator={"weight_grad": Accumulator(40)})
    with pytest.raises(InputError, match="an order that several ranks cannot keep"):
        on_ranks(
            2,
            lambda rank: LeadingLearner(
                SETUP.fixed_learner(ordered), "FX", SETUP.settings.optimizer(), rank
            ),
        )


def test_ranks_of_two_versions_end_at_once():
    def work(learner):
        learner._begin["fxsim"] = "0.0"
        return whole(learner)

    with pytest.raises(InputError, match="rank 0 runs fxsim 0.0, this one"):
        led(2, work)
