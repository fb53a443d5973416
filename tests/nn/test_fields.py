"""Fields of dataclasses are checked against their annotations; files are read into them strictly."""

import copy
import dataclasses
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.mutations import refusal

from fxsim import Format, InputError, LearningRate, Stream
from fxsim.errors import LISTED_LENGTH, SHOWN_LENGTH, choice, listed, shown
from fxsim.factors import MAX_EXPONENT, MIN_EXPONENT, Factor
from fxsim.fields import FrozenDict, check_fields, read_fields
from fxsim.files import read_json


@dataclass(frozen=True)
class Inner:
    size: int

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class Outer:
    whole: int
    real: float = 0.5
    flag: bool = False
    text: str = ""
    kind: Literal["a", "b"] = "a"
    maybe: int | None = None
    either: Inner | Fraction | None = None
    inner: Inner | None = None
    pair: tuple[int, float] = (1, 2.0)
    many: tuple[Inner, ...] = ()
    named: Mapping[str, Inner] = field(default_factory=dict)

    def __post_init__(self):
        check_fields(self)

    @property
    def double(self):
        return 2 * self.whole


GOOD = [
    ("whole", 7, 7),
    ("whole", np.uint8(7), 7),
    ("real", 3, 3.0),
    ("real", np.float32(0.25), 0.25),
    ("real", np.int16(2), 2.0),
    ("flag", np.bool_(True), True),
    ("text", np.str_("x"), "x"),
    ("kind", "b", "b"),
    ("maybe", None, None),
    ("maybe", np.int64(3), 3),
    ("either", None, None),
    ("either", Inner(1), Inner(1)),
    ("either", Fraction(1, 2), Fraction(1, 2)),
    ("inner", None, None),
    ("inner", Inner(1), Inner(1)),
    ("pair", [1, 2], (1, 2.0)),
    ("many", [Inner(1), Inner(2)], (Inner(1), Inner(2))),
    ("named", {"a": Inner(1)}, {"a": Inner(1)}),
]


@pytest.mark.parametrize("name, value, normal", GOOD)
def test_a_value_of_the_right_type_is_kept_in_normal_form(name, value, normal):
    kept = getattr(Outer(**{"whole": 1, name: value}), name)
    assert kept == normal
    assert type(kept) in (type(normal), FrozenDict)


BAD = [
    ("whole", True, TypeError, "Outer whole must be an integer, got True"),
    ("whole", 1.0, TypeError, "Outer whole must be an integer, got 1.0"),
    ("whole", np.float64(1), TypeError, "whole must be an integer"),
    ("whole", np.array([1, 2]), TypeError, r"whole must be an integer, got array\(\[1, 2\]\)"),
    ("real", "1", TypeError, "Outer real must be a number, got '1'"),
    ("real", np.True_, TypeError, "real must be a number"),
    ("real", 1j, TypeError, "real must be a number"),
    ("real", float("nan"), InputError, "real must be a finite number, got nan"),
    ("real", 10**400, InputError, "real must be a finite number, got 1000"),
    ("flag", 1, TypeError, "flag must be True or False, got 1"),
    ("text", b"x", TypeError, "text must be a text, got b'x'"),
    ("kind", "c", InputError, "kind 'c' is unknown; choose from a, b"),
    ("maybe", "x", TypeError, "maybe must be an integer, got 'x'"),
    ("either", 3, TypeError, "either must be a .*Inner or fractions.Fraction, got 3"),
    ("inner", 3, TypeError, "inner must be a .*Inner, got 3"),
    ("pair", (1,), InputError, r"pair must have 2 elements, got \(1,\)"),
    ("pair", "12", TypeError, "pair must be a tuple, got '12'"),
    ("pair", (1, "2"), TypeError, r"pair\[1\] must be a number, got '2'"),
    ("many", (Inner(1), 2), TypeError, r"many\[1\] must be a .*Inner, got 2"),
    ("named", [("a", Inner(1))], TypeError, "named must be a mapping"),
    ("named", {3: Inner(1)}, TypeError, "named: key must be a text, got 3"),
    ("named", {"a": 1}, TypeError, r"named\['a'\] must be a .*Inner, got 1"),
]


@pytest.mark.parametrize("name, value, error, message", BAD)
def test_another_value_is_refused(name, value, error, message):
    with pytest.raises(error, match=message):
        Outer(**{"whole": 1, name: value})


@pytest.mark.parametrize("hint", [Any, Inner | set[int], int | set[int]])
def test_an_annotation_without_a_check_is_an_error_of_the_class(hint):
    unchecked = dataclasses.make_dataclass("Unchecked", [("value", hint)], frozen=True)
    with pytest.raises(NotImplementedError, match="have no check"):
        check_fields(unchecked(1))


SIZES = dataclasses.make_dataclass(
    "Sizes", [("value", int | tuple[int, int] | Literal["same", "valid"])], frozen=True
)


@pytest.mark.parametrize("value", [3, np.int8(3), (1, 2), [1, np.int64(2)], "same"])
def test_one_of_several_kinds_is_brought_to_its_normal_form(value):
    sizes = SIZES(value)
    check_fields(sizes)
    assert sizes.value == (tuple(value) if isinstance(value, list) else value)
    assert type(sizes.value) in (int, tuple, str)


@pytest.mark.parametrize(
    "value, error, message",
    [
        (2.5, TypeError, "an integer or .integer, integer. or 'same' or 'valid', got 2.5"),
        (True, TypeError, "value must be an integer or"),
        ((1, 2, 3), InputError, "value must be an integer or"),
        ("smae", InputError, "value 'smae' is unknown; did you mean 'same'"),
        (None, TypeError, "value must be an integer or"),
    ],
)
def test_what_is_of_none_of_several_kinds_is_refused(value, error, message):
    with pytest.raises(error, match=message):
        check_fields(SIZES(value))


TABLE = {
    "whole": 1,
    "inner": {"size": 2},
    "many": [{"size": 3}],
    "named": {"a": {"size": 4}},
    "pair": [5, 6],
    "double": 2,
}


def test_a_table_is_read():
    read = read_fields(Outer, TABLE, "outer", ("double",))
    assert read == Outer(1, inner=Inner(2), many=(Inner(3),), named={"a": Inner(4)}, pair=(5, 6.0))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"wholes": 1}, "outer: key 'wholes' is unknown; did you mean 'whole'"),
        ({"double": 3}, "outer: double 3 contradicts the other keys, which give 2"),
        ({"inner": 3}, "outer, inner must be a table of keys and values, got 3"),
        ({"inner": {}}, "outer, inner needs 'size'"),
        ({"inner": {"size": "3"}}, "outer, inner: size must be an integer, got '3'"),
        ({"many": [{"size": 1}, {"site": 2}]}, r"outer, many\[1\]: key 'site' is unknown"),
        ({"many": {"size": 1}}, "outer: many must be a tuple, got"),
        ({"named": {"a": {"size": None}}}, "outer, named, 'a': size must be an integer, got None"),
        ({"named": []}, r"outer: named must be a mapping, got \[\]"),
        ({"pair": {}}, "outer: pair must be a tuple, got {}"),
    ],
)
def test_a_wrong_table_is_an_input_error(change, message):
    with pytest.raises(InputError, match=message):
        read_fields(Outer, {**TABLE, **change}, "outer", ("double",))


def test_a_missing_key_is_named():
    with pytest.raises(InputError, match="outer needs 'whole'"):
        read_fields(Outer, {"real": 1}, "outer")


def test_a_frozen_dict_refuses_every_change_and_is_copied_whole():
    frozen = FrozenDict(a=1, b=(2,))
    for change in (
        lambda: frozen.__setitem__("a", 2),
        lambda: frozen.__delitem__("a"),
        lambda: frozen.update(a=2),
        lambda: frozen.setdefault("c", 2),
        lambda: frozen.pop("a"),
        lambda: frozen.popitem(),
        lambda: frozen.clear(),
        lambda: frozen.__ior__({"a": 2}),
    ):
        with pytest.raises(TypeError, match="part of a frozen object"):
            change()
    assert frozen == {"b": (2,), "a": 1}
    assert hash(frozen) == hash(FrozenDict(b=(2,), a=1))
    for same in (copy.copy(frozen), copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert same == frozen
        assert type(same) is FrozenDict
    assert frozen | {"a": 3} == {"a": 3, "b": (2,)}
    with pytest.raises(TypeError, match="unhashable"):
        hash(FrozenDict(a=[]))


@given(st.text() | st.binary() | st.integers() | st.lists(st.text()))
def test_a_shown_value_is_one_short_line(value):
    text = shown(value)
    assert len(text) <= SHOWN_LENGTH
    assert "\n" not in text


@given(st.lists(st.text(alphabet="abc\n", min_size=1, max_size=300)))
def test_listed_names_are_cut(names):
    text = listed(names)
    assert len(text) <= LISTED_LENGTH + len(", ...")
    assert "\n" not in text
    whole = ", ".join(" ".join(name.split()) for name in names)
    assert text == whole or (text.endswith(", ...") and whole.startswith(text[:-5]))


@given(
    st.text(max_size=500) | st.integers() | st.none() | st.lists(st.integers()),
    st.lists(st.text(max_size=200)),
)
def test_any_choice_is_made_or_refused_in_one_line(value, allowed):
    if value in allowed:
        assert choice("argument", value, allowed) == value
    else:
        assert isinstance(refusal(choice, "argument", value, allowed), InputError)


@pytest.mark.parametrize("mantissa", [0, 2**15 - 1, 2**16, -(2**15), 2**40])
@pytest.mark.parametrize("cls", [Factor, LearningRate])
def test_a_mantissa_has_exactly_16_bits(cls, mantissa):
    message = rf"{cls.__name__} mantissa must be 2\*\*15 to 2\*\*16 - 1, got {mantissa};"
    with pytest.raises(InputError, match=message):
        cls(mantissa, 0)


def test_every_mantissa_of_16_bits_is_taken():
    for mantissa in (2**15, 2**16 - 1, np.uint16(2**16 - 1)):
        rate = LearningRate(mantissa, np.int8(-20))
        assert (rate.mantissa, rate.exponent) == (int(mantissa), -20)
        assert type(rate.mantissa) is type(rate.exponent) is int


@pytest.mark.parametrize("exponent", [MIN_EXPONENT - 1, MAX_EXPONENT + 1, 10**9])
def test_an_exponent_beyond_any_float_is_refused(exponent):
    with pytest.raises(InputError, match="exponent must be"):
        LearningRate(2**15, exponent)


@pytest.mark.parametrize("values", [("32768", 0), (32768.0, 0), (True, 0), (32768, None)])
def test_a_learning_rate_of_other_types_is_a_type_error(values):
    with pytest.raises(TypeError, match="LearningRate .* must be an integer"):
        LearningRate(*values)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), 10**400])
def test_a_learning_rate_is_a_finite_number_above_0(value):
    with pytest.raises(InputError, match="learning rate must be a finite number"):
        LearningRate.of(value)


@pytest.mark.parametrize("value", ["0.1", None, True, 1j, [0.1]])
def test_a_learning_rate_of_no_number_is_a_type_error(value):
    with pytest.raises(TypeError, match="learning rate must be a number"):
        LearningRate.of(value)


@given(st.floats(min_value=5e-324, max_value=1.7e308))
def test_a_learning_rate_is_the_nearest_factor(value):
    rate = LearningRate.of(value)
    assert abs(rate.exact - Fraction(value)) * 2**16 <= Fraction(value)
    assert LearningRate.of(np.float64(value)) == rate


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((1.0, 0, "x"), TypeError, "seed must be an integer, got 1.0"),
        ((0, True, "x"), TypeError, "step must be an integer, got True"),
        ((0, 0, 3), TypeError, "name must be a text, got 3"),
        ((2**64, 0, "x"), InputError, r"seed must be 0 to 2\*\*64 - 1, got 18446744073709551616"),
        ((0, -1, "x"), InputError, r"step must be 0 to 2\*\*32 - 1, got -1"),
    ],
)
def test_a_stream_of_wrong_values(arguments, error, message):
    with pytest.raises(error, match=message):
        Stream(*arguments)


def test_a_stream_takes_numpy_integers():
    assert Stream(np.int64(3), np.uint32(4), "x") == Stream(3, 4, "x")


@pytest.mark.parametrize(
    "value",
    [Format(8, 0), LearningRate.of(0.5), Stream(0, 0, "x"), Outer(1, named={"a": Inner(1)})],
)
def test_values_have_hashes_and_copies(value):
    for same in (copy.copy(value), copy.deepcopy(value), dataclasses.replace(value)):
        assert same == value
        assert hash(same) == hash(value)


@pytest.mark.parametrize(
    "key, notation",
    [
        ("q", "Q3.4 (ti)"),
        ("q", "Q4.4 (arm)"),
        ("q", "Q3.4"),
        ("ap_fixed", "ap_fixed<8, 4>"),
        ("wl_fl", "(8,4)"),
    ],
)
def test_a_format_may_be_said_twice_but_not_differently(key, notation):
    table = {"bits": 8, "range_exp": 3, "signed": True}
    assert Format.from_dict({**table, key: notation}) == Format(8, 3)
    with pytest.raises(InputError, match=f"format: {key} .* contradicts"):
        Format.from_dict({**table, "range_exp": 2, key: notation})
    with pytest.raises(InputError, match=f"format, {key}: format 'x' is in no known notation"):
        Format.from_dict({**table, key: "x"})


@given(st.integers(1, 63), st.integers(-512, 512), st.booleans())
def test_a_format_is_read_as_it_was_written(bits, range_exp, signed):
    made = Format(bits, range_exp, signed)
    assert Format.from_dict(made.to_dict()) == made


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "key 'c' stands twice in one object"),
        ("[NaN]", "NaN is no number"),
        ("Infinity", "Infinity is no number"),
        ("[1e999]", "'1e999' is no finite number"),
        ("[" * 10**6, "nested too deep"),
        ("[" * 33 + "]" * 33, "nested too deep: 32 levels"),
        ("1" * 41, "has more digits than 40"),
        ("{", "is not valid JSON"),
        ("", "is not valid JSON"),
    ],
)
def test_json_that_is_none_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def test_json_of_other_bytes_is_refused(tmp_path):
    (tmp_path / "x.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match="no text in UTF-8: byte 7 is wrong"):
        read_json(tmp_path / "x.json")


def test_json_is_read(tmp_path):
    (tmp_path / "x.json").write_text('{"a": [1, 2.5, null, true, "é"]}', encoding="utf-8")
    assert read_json(tmp_path / "x.json") == {"a": [1, 2.5, None, True, "é"]}
