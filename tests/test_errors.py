"""Errors of other packages become refusals; a lack of memory and fxsim's own refusals stay."""

import io

import pytest

from fxsim.errors import InputError, refused
from fxsim.files import parse_npy


@pytest.mark.parametrize("error", [ValueError, RuntimeWarning, KeyError, SyntaxError, OSError])
def test_what_a_package_says_of_bad_input_is_told_in_our_words(error):
    told = pytest.raises(InputError, match="told: .?of a package")
    with told, refused(lambda text: InputError(f"told: {text}")):
        raise error("of a package")


@pytest.mark.parametrize("error", [InputError, MemoryError, OSError, KeyboardInterrupt])
def test_what_is_no_damage_stays_as_it_is(error):
    with pytest.raises(error) as raised, refused(lambda text: InputError("damaged"), OSError):
        raise error("as it is")
    assert type(raised.value) is error and str(raised.value) == "as it is"


def test_a_lack_of_memory_is_no_damaged_file(monkeypatch):
    def read_magic(stream: io.BytesIO):
        raise MemoryError("no memory")

    monkeypatch.setattr("numpy.lib.format.read_magic", read_magic)
    with pytest.raises(MemoryError, match="no memory"):
        parse_npy(b"", "x.npy")
