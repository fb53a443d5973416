"""Whatever a caller brings in the place of a right argument, everything public takes it right or
refuses it in one line; no draw ends the process.
"""

import numpy as np
import pytest
from support.public_calls import calls, state_of
from support.wrong_values import wrong_values

import fxsim
from fxsim import InputError, interchange, ops, testing
from fxsim.errors import shown

LONGEST_MESSAGE = 300
PYTHONS_OWN = ("unhashable", "object is not", "has no attribute", "unexpected keyword", "__")
"""What a message says that nobody wrote for the caller."""


@pytest.fixture(scope="module")
def public():
    return calls()


def test_the_calls_are_right(public):
    for name, call in public.items():
        assert call() is not NotImplemented, name


NO_CALLS = {
    **dict.fromkeys(
        [f"testing.{name}" for name in testing.__all__ if name.islower()],
        "a strategy: Hypothesis reads its arguments when it draws",
    ),
    "InputError": "an exception",
    "interchange.Imported": "from_onnx returns it",
    "interchange.from_onnx": "it reads a file; tests/interchange/test_from_onnx.py opens it wrongly",
    "OVERFLOWS": "names",
    "ROUNDINGS": "names",
    "__version__": "a text",
    "ops": "a module, whose names are here",
    "presets": "a module, whose names are here",
    "DroppedBits": "it takes nothing",
    "Experiment": "a folder with hours of work; tests/experiment opens it wrongly",
    "ops.LOSS": "a format",
    "ops.MASK": "a format",
    "ops.SLOPES": "a format",
    "ops.WINNER": "a format",
    "ops.Exact": "abstract; its methods are called on a sum",
    "ops.Quotient": "operations return it; its method is called on an average",
    "testing.assert_bit_exact": "fails by AssertionError, as tests want it",
    "testing.check_adjointness": "fails by AssertionError, as tests want it",
    "testing.check_rounding_law": "fails by AssertionError, as tests want it",
    "testing.Convolution": "operands alone, which its methods hand to the operations",
    "testing.DotProduct": "operands alone, which its method hands to the operation",
    "testing.MatMul": "operands alone, which its method hands to the operation",
}
"""Public names that have no call, and why."""
del NO_CALLS["testing.explain"]


def test_every_public_name_has_a_call_or_a_reason(public):
    called = {name.partition(",")[0] for name in public}
    named = {*fxsim.__all__}
    modules = {"interchange": interchange, "ops": ops, "testing": testing}
    for module, names in ((name, own.__all__) for name, own in modules.items()):
        named |= {f"{module}.{name}" for name in names}
    assert sorted(named - called - set(NO_CALLS)) == []
    assert sorted(set(NO_CALLS) & called) == []
    assert sorted(set(NO_CALLS) - named) == []


def refusal(name, call, changed):
    """The message of the refusal, or None where the call was taken."""
    what = f"{name}, {', '.join(changed)}"
    before = state_of(call.watched) if call.watched else None
    try:
        call(**changed)
    except (InputError, TypeError) as error:
        message = str(error)
        assert message and message.isprintable(), f"{what}: {message!r:.400}"
        assert len(message) <= LONGEST_MESSAGE, f"{what}: {message}"
        drawn = any(map(callable, changed.values()))  # what a drawn probe raises is its own
        assert drawn or not any(words in message for words in PYTHONS_OWN), f"{what}: {message}"
        assert before is None or state_of(call.watched) == before, f"{what}: changed by half"
        return message
    except Exception as error:
        values = ", ".join(f"{type(value).__name__} {shown(value)}" for value in changed.values())
        raise AssertionError(f"{what}: {values}: {type(error).__name__}: {error}") from error
    return None


def draws(public, seed, each):
    """(name, call, changed arguments): every argument of every call, and pairs of them."""
    random = np.random.default_rng(seed)
    for name, call in public.items():
        names = [argument for argument in call.arguments if argument not in call.kept]
        for argument in names:
            for value in wrong_values(random, call.arguments[argument], each):
                yield name, call, {argument: value}


def misuse(public, seed, each):
    refused = 0
    count = 0
    for name, call, changed in draws(public, seed, each):
        count += 1
        refused += refusal(name, call, changed) is not None
    assert count / 2 < refused < count
    return count


@pytest.mark.filterwarnings("ignore")
def test_every_misuse_is_taken_or_refused_in_one_line(public):
    assert misuse(public, 13, 3) > 1000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tens_of_thousands_of_misuses(public):
    assert sum(misuse(public, seed, 30) for seed in range(3)) > 20_000


def test_misuses_that_once_ended_in_an_error_of_python(public):
    empty = np.zeros((0, 2), np.int64)
    for name, changed in (
        ("quantize, integers", {"counts": np.zeros(3)}),
        ("requantize", {"counts": empty}),
        ("Tensor.transpose", {"axes": (3, empty, 1, 0)}),
        ("FloatNetwork.train_step", {"learning_rate": 10**400}),
    ):
        assert refusal(name, public[name], changed), name
