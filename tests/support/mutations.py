"""Plain data (of JSON or TOML files) spoilt at random, and what a spoilt file may lead to."""

import copy
import math

from hypothesis import strategies as st

from fxsim.errors import InputError

MAX_MESSAGE = 300
WRONG = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**70,
    -(10**400),
    1.5,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "false",
    "8",
    "x" * 1000,
    "two\nlines",
    "\ud800",
    [],
    [1],
    [[]],
    {},
    {"bits": 8},
    {1: 2},
)
"""Values of every type that JSON and TOML have, and some that they have not."""


def places(data, path=()):
    """The path of every value in nested dicts and lists, the whole first."""
    yield path
    children = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    for key, child in children:
        yield from places(child, (*path, key))


def at(data, path):
    for key in path:
        data = data[key]
    return data


@st.composite
def spoilt(draw, good):
    """A copy of `good` with one to three changes: wrong values, keys added, renamed or missing."""
    data = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from([path for path in places(data) if path]))
        container = at(data, above)
        change = draw(st.sampled_from(("value", "remove", "rename", "add")))
        if change == "remove":
            del container[key]
        elif change == "rename" and isinstance(container, dict):
            container[draw(st.sampled_from((f"{key}s", "x" * 500, "a\nb", "")))] = container.pop(
                key
            )
        elif change == "add" and isinstance(container, dict):
            name = draw(st.sampled_from(("rounding", "name", "bits", "reason", "model", "zzz")))
            container[name] = copy.deepcopy(draw(st.sampled_from(WRONG)))
        else:
            container[key] = copy.deepcopy(draw(st.sampled_from(WRONG)))
        if not any(path for path in places(data)):
            break
    return data


def refusal(call, *arguments, **names):
    """The error of a call: InputError or TypeError, of one short line; None where it succeeds."""
    try:
        call(*arguments, **names)
    except (InputError, TypeError) as error:
        message = str(error)
        assert "\n" not in message, message
        assert 0 < len(message) <= MAX_MESSAGE, (len(message), message)
        return error
    return None
