"""`fxsim cost` tells what ranks exchange, and predicts how fast several are."""

import json

import pytest

from fxsim.analysis.scaling import Exchange, scaling
from fxsim.cli import main
from fxsim.errors import InputError

COST = ("cost", "digits-convnet", "--width", "0.25", "--formats", "Q4.12")
TIMED = ("--workers", "4", "--step-seconds", "0.1", "--bandwidth", "1e8", "--latency", "1e-5")


def test_the_table_ends_with_all_bytes(capsys):
    assert main([*COST, "--batch", "64", *TIMED]) == 0
    _, table, line = (
        capsys.readouterr().out.rpartition("exchanged by each rank in")[2].split("\n\n")
    )
    assert main([*COST, "--batch", "64", *TIMED, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["exchange"]
    rows = [row.split() for row in table.splitlines()]
    assert rows[0][:3] == ["layer", "weights", "[B]"]
    assert rows[-1] == ["all", f"{found['bytes']:,}"]
    weights = sum(own["weights"] for own in found["layers"].values())
    biases = sum(own["bias"] for own in found["layers"].values())
    assert found["bytes"] == weights + biases + found["counts"]
    seconds = 6 * (11 * 1e-5 + found["bytes"] / 4 / 1e8)  # 3 + 3 pieces, weights, biases and counts
    assert found["exchange_seconds"] == pytest.approx(seconds)
    assert found["step_seconds"] == pytest.approx(0.025 + seconds)
    assert line.startswith(f"4 ranks: {0.025 + seconds:.4g} s a step")


def test_a_ring_sends_almost_all_twice():
    found = Exchange({"a": {"weights": 4_000_000}, "b": {"bias": 400}}, 64)
    assert found.bytes == 4_000_464
    assert scaling(found, 1, 2.0, 1e9, 1.0).seconds == 2.0
    assert scaling(found, 2, 2.0, 1e9, 0.0).seconds == pytest.approx(1 + 4_000_464 / 1e9)
    many = scaling(found, 1000, 2.0, 1e9, 0.0)
    assert many.exchange_seconds == pytest.approx(2 * 4_000_464 / 1e9, rel=0.01)
    assert many.speedup == pytest.approx(2.0 / many.seconds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*COST, *TIMED), "--workers has no effect without --batch"),
        ((*COST, "--batch", "8", "--latency", "1"), "--latency has no effect without --workers"),
        ((*COST, "--batch", "8", "--workers", "2"), "--workers 2 needs --bandwidth"),
        ((*COST, "--batch", "0"), "batch must be 1 to 2**31 - 1 images"),
        (("cost", "digits-convnet", "--batch", "8"), "ranks share trainings in fixed point alone"),
    ],
)
def test_options_that_say_nothing_are_refused(arguments, message, capsys):
    assert main(list(arguments)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 1.0, 1.0, 0.0), "workers must be 1 to"),
        ((2, 0.0, 1.0, 0.0), "step_seconds must be above 0"),
        ((2, 1.0, -1.0, 0.0), "bandwidth must be above 0"),
        ((2, 1.0, 1.0, -1.0), "latency must be at least 0"),
        ((2, 1.0, float("nan"), 0.0), "bandwidth must be a finite number"),
    ],
)
def test_numbers_outside_their_range_are_refused(numbers, message):
    with pytest.raises(InputError, match=message):
        scaling(Exchange({}, 64), *numbers)
