"""Wrong things that callers bring in the place of right ones, drawn with a seed."""

import dataclasses
import decimal
import fractions
from collections.abc import Mapping

import numpy as np

from fxsim import Dense, Format, Pool, Quantizer, Stream, Tensor


class Sub(np.ndarray):
    """An array of a class of the caller's."""


class Unprintable:
    """An object whose text cannot be had."""

    def __repr__(self):
        raise RuntimeError("no text")


class ManyLines:
    """An object whose text is long, and has control characters."""

    def __repr__(self):
        return "line\n" * 1000 + "\x1b[31m\0"


class Whole:
    """An object that says it is an integer."""

    def __index__(self):
        return 3


class Name(str):
    """A text of a class of the caller's."""


def circle():
    own = []
    own.append(own)
    return own


def nested(depth):
    own = []
    for _ in range(depth):
        own = [own]
    return own


SCALARS = (
    *(None, True, False, np.bool_(True), Ellipsis, NotImplemented),
    *(0, -1, 1, 2, 3, 7, 64, 2**15, 2**31, -(2**31), 2**32, 2**63 - 1, 2**63, -(2**63), 2**64),
    *(10**30, 10**400, -(10**5000)),
    *(0.0, -0.0, 0.5, 1.5, 1.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e308, 5e-324),
    *(np.int8(1), np.int64(-1), np.uint64(2**64 - 1), np.float16(0.5), np.float32(1), np.str_("x")),
    *(np.float64("nan"), np.longdouble(1), np.complex64(1), np.datetime64("2020-01-01"), 1j),
    *(fractions.Fraction(1, 3), decimal.Decimal("0.1"), decimal.Decimal("nan"), Whole()),
    *("", " ", "x", "1", "0.5", "NaN", "None", "nearest", "saturate", "FX", "max", "s8", "Q0.7"),
    *("a" * 100_000, "line\nline", "\x1b[31m\0", "\u0661", "\ud800", Name("auto"), b"x", "auto="),
)
CONTAINERS = (
    *([], [0], [None], [[1], [2, 3]], [1, "x"], [float("nan")], [0] * 5000, circle(), nested(2000)),
    *((), (0,), (-1,), (1, 2), (2**40, 2**40), (2**70,), ("x",), (True,), (None, None), (0.5,) * 3),
    *({}, {"a": 1}, {1: 2}, {None: None}, {"": ""}, {"bits": 8}, {"a" * 1000: 0}, {(1, 2): {}}),
    *(set(), {1}, frozenset({"x"}), range(3), slice(None), bytearray(b"x"), memoryview(b"x")),
    *(
        np.zeros(3),
        np.zeros((0, 2), int),
        np.array(3),
        np.array("x"),
        np.array(None),
        np.void(b"a"),
    ),
)
OBJECTS = (
    *(object(), int, Format, Tensor, len, lambda: 0, lambda *_: None, Unprintable(), ManyLines()),
    *(
        Format(8, 0),
        Format(63, 0, False),
        Quantizer(Format(4, 0)),
        Stream(0, 0, "x"),
        Pool("max", 2),
    ),
    *(
        Tensor([1, 2], Format(4, 3)),
        Tensor(3, Format(4, 3)),
        Tensor(np.zeros((0, 2), int), Format(1, 0)),
    ),
    *(Dense(name="d", units=2), ValueError("x"), fractions),
)
THINGS = (*SCALARS, *CONTAINERS, *OBJECTS)


def wrong_values(random, given, count):
    """`count` things in the place of `given`: some of any kind, some nearly right."""
    near = [*near_things(random, given)]
    if isinstance(given, Tensor):
        near += wrong_tensors(random, given)
    elif isinstance(given, np.ndarray):
        near += wrong_arrays(random, given)
    for _ in range(count):
        pool = near if near and random.integers(2) else THINGS
        yield pool[random.integers(len(pool))]
    yield (part for part in (1, 2))


def anything(random):
    return THINGS[random.integers(len(THINGS))]


def near_things(random, given):
    """Things beside a right one: of another type, longer, shorter, with one part replaced."""
    yield [given]
    yield (given, given)
    yield {"x": given}
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        yield from (given + 1, -given, given * 2**31, str(given), float(given), np.float64(given))
        yield from (complex(given), np.array(given), np.array([given]), fractions.Fraction(given))
        yield np.int64(min(max(int(given), -(2**63)), 2**63 - 1))
    elif isinstance(given, str):
        yield from (
            given.upper(),
            given + " ",
            given[:-1],
            given.encode(),
            np.str_(given),
            list(given),
        )
    elif hasattr(given, "_fields"):
        for name, part in zip(given._fields, given):
            for near in (anything(random), [part], None):
                yield given._replace(**{name: near})
    elif isinstance(given, (list, tuple)):
        yield from parts_replaced(random, list(given), type(given))
    elif isinstance(given, Mapping):
        yield from keys_replaced(random, dict(given))
    elif dataclasses.is_dataclass(given):
        yield type(given)
        if not isinstance(given, type):
            yield {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}


def parts_replaced(random, given, made):
    yield made(given[:-1])
    yield made(given * 2)
    yield np.array([0] * len(given))
    yield iter(given)
    yield set(map(id, given))
    for place in range(len(given)):
        for near in (anything(random), *near_things(random, given[place])):
            yield made([*given[:place], near, *given[place + 1 :]])


def keys_replaced(random, given):
    yield list(given.items())
    yield list(given)
    yield {**given, "unknown": anything(random)}
    yield {**given, anything_hashable(random): anything(random)}
    for key, value in given.items():
        without = {other: kept for other, kept in given.items() if other != key}
        yield without
        yield {**without, anything_hashable(random): value}
        for near in (anything(random), anything(random), *near_things(random, value)):
            yield {**given, key: near}


def anything_hashable(random):
    while True:
        thing = anything(random)
        try:
            hash(thing)
        except Exception:
            continue
        return thing


def wrong_tensors(random, given):
    """Tensors of another shape, format or size; things that are none."""
    format = Format(
        int(random.integers(1, 33)), int(random.integers(-70, 70)), bool(random.integers(2))
    )
    shape = tuple(int(size) for size in random.integers(0, 4, random.integers(0, 6)))
    codes = given.codes
    yield Tensor(np.zeros(shape, int), format)
    yield Tensor(np.full(given.shape, format.max_code), format)
    yield Tensor(np.full(given.shape, format.min_code), format)
    yield given[:0] if given.ndim else given.reshape(1)
    yield given[..., :-1] if given.ndim else given
    yield given.reshape(-1)
    yield given.reshape(1, *given.shape)
    yield given.transpose(*random.permutation(given.ndim).tolist())
    yield Tensor(codes.astype(np.int64), Format(int(random.integers(33, 64)), 40))
    yield given + given
    yield codes
    yield codes.tolist()


def wrong_arrays(random, given):
    """Arrays of another dtype, rank, length, order or content; things that are none."""
    given = np.asarray(given)
    flat = given.reshape(-1)
    place = int(random.integers(max(flat.size, 1)))

    def with_one(array, value):
        array = np.array(array)
        if array.size:
            array.reshape(-1)[place] = value
        return array

    for dtype in [
        "bool",
        "int8",
        "uint64",
        ">i2",
        "float16",
        ">f4",
        "longdouble",
        "complex64",
        "object",
        "str",
        "S3",
    ]:
        yield given.astype(dtype)
    yield given.astype("M8[s]") if given.dtype.kind in "iu" else given.astype(int)
    yield np.array([(1, 2)], [("a", int), ("b", float)])
    yield given[None]
    yield given[..., None]
    yield flat
    yield given.transpose(*random.permutation(given.ndim).tolist())
    yield given[()] if not given.ndim else given[0]
    yield given[:-1] if given.ndim else given
    yield given[:0] if given.ndim else given
    yield np.concatenate([given, given]) if given.ndim else given
    yield given[::-1] if given.ndim else given
    yield given[::2] if given.ndim else given
    yield np.broadcast_to(flat[:1], (3, *given.shape))
    yield np.lib.stride_tricks.as_strided(flat, given.shape, [0] * given.ndim)
    for value in (np.nan, np.inf, -np.inf, 1e300, 5e-324, 0.5):
        yield with_one(given.astype(float), value)
    for value in (-1, 2**15, -(2**31), 2**62, 2**63 - 1, -(2**63)):
        yield with_one(given.astype(np.int64), value)
    yield with_one(given.astype(object), None)
    yield with_one(given.astype(object), 2**70)
    yield with_one(given.astype(object), "x")
    yield np.ma.array(given)
    yield given.tolist()
    yield [given.tolist(), 1]
    yield from (None, "abc", b"abc", {}, {1, 2}, 3, 0.5, float("nan"), True, object(), int, [])
    yield (part for part in flat)
    yield memoryview(np.ascontiguousarray(flat))
    yield np.array(3)
    yield np.void(b"abc")
    yield Tensor([1, 2], Format(4, 3))
