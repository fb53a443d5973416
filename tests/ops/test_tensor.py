"""Tensor: what it takes, that it does not change, indexing, files, and its operators."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.operations_cases import tensor_of

from fxsim import ops
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.tensor import Tensor

FORMATS = st.builds(Format, st.integers(1, 63), st.integers(-8, 8), st.booleans())
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)
X = Tensor([[1, -2, 3], [-4, 5, -6]], Format(4, 3))


@pytest.mark.parametrize(
    "codes",
    [
        [[1, -2, 3], [-4, 5, -6]],
        ((1, -2, 3), (-4, 5, -6)),
        [(1, -2, 3), np.array([-4, 5, -6])],
        np.array([[1, -2, 3], [-4, 5, -6]], np.int8),
        np.array([[1, -2, 3], [-4, 5, -6]], ">i8"),
        np.asfortranarray(np.array([[1, -2, 3], [-4, 5, -6]])),
        np.array([[3, 9, -2, 9, 1], [-6, 9, 5, 9, -4]])[:, ::-2],
        np.array([[1, -2, 3], [-4, 5, -6]], object),
        [[np.int8(1), -2, 3], [-4, 5, np.int64(-6)]],
    ],
)
def test_codes_of_every_kind(codes):
    tensor = Tensor(codes, Format(4, 3))
    assert tensor.equals(X)
    assert tensor.codes.dtype == np.int8 and tensor.codes.flags.c_contiguous


def test_a_range_and_a_number_are_codes():
    assert Tensor(range(3), Format(4, 3)).codes.tolist() == [0, 1, 2]
    assert Tensor(5, Format(4, 3)).shape == ()
    assert Tensor([], Format(4, 3)).shape == (0,)


@pytest.mark.parametrize(
    "codes",
    [
        [1.0, 2.0],
        np.array([1.0]),
        [True, False],
        ["1"],
        [None],
        None,
        {1, 2},
        "12",
        [[1, 2], [3]],
        np.ma.array([1, 2], mask=[0, 1]),
        np.array(["a"]),
        np.array([1 + 2j]),
        np.array(["2020-01-01"], "M8[D]"),
        np.array([(1, 2)], [("a", int), ("b", int)]),
        X,
        [1, 2.5],
        iter([1]),
    ],
    ids=lambda codes: type(codes).__name__,
)
def test_what_are_no_codes_is_refused(codes):
    with pytest.raises(TypeError, match="^codes must|^a Tensor is no NumPy array") as error:
        Tensor(codes, Format(4, 3))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("codes", [[8], [-9], [2**63], [-(2**63) - 1], [2**64], [2**200, -1]])
def test_codes_outside_the_format_are_refused(codes):
    with pytest.raises(InputError, match=r"codes must (be in \[-8, 7\]|fit 64-bit integers)"):
        Tensor(codes, Format(4, 3))


def test_the_ends_of_the_widest_formats_are_codes():
    for format in (Format(64, 0), Format(63, 0, False), Format(1, 0), Format(1, 0, False)):
        ends = [format.min_code, format.max_code]
        assert Tensor(ends, format).codes.tolist() == ends


def test_a_tensor_does_not_change():
    codes = np.array([1, 2, 3], np.int8)
    tensor = Tensor(codes, Format(4, 3))
    codes[0] = 7
    assert tensor.codes.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        tensor.codes[0] = 5
    part = tensor[1:]
    with pytest.raises(ValueError, match="read-only"):
        part.codes[0] = 5
    summed = (tensor + tensor).to(Format(8, 7))
    with pytest.raises(ValueError, match="read-only"):
        summed.codes[0] = 5
    with pytest.raises(AttributeError):
        tensor.format = Format(8, 0)
    with pytest.raises(AttributeError):
        tensor.other = 1


def test_copies_are_equal():
    for tensor in (X, (X + X).tensor(), (X + X).to(Format(4, 3))):
        for made in (copy.copy(tensor), copy.deepcopy(tensor), pickle.loads(pickle.dumps(tensor))):
            assert made.equals(tensor)
            with pytest.raises(ValueError, match="read-only"):
                made.codes[0] = 5


@given(FORMATS, SHAPES, SEEDS)
def test_views_have_the_codes_that_numpy_gives(format, shape, seed):
    tensor = tensor_of(seed, format, shape)
    codes = tensor.codes
    assert tensor.shape == shape and tensor.ndim == len(shape) and tensor.size == codes.size
    for got, wanted in (
        (tensor.transpose(), codes.transpose()),
        (tensor.reshape(-1), codes.reshape(-1)),
        (tensor[..., None], codes[..., None]),
        (tensor[::-1] if shape else tensor, codes[::-1] if shape else codes),
    ):
        assert got.format == format
        assert got.shape == wanted.shape
        assert np.array_equal(got.codes, wanted)
        assert got.codes.flags.c_contiguous
    if shape:
        assert len(tensor) == shape[0]
        assert [part.codes.tolist() for part in tensor] == codes.tolist()
        for place in range(shape[0]):
            assert tensor[place].shape == shape[1:]


def test_indexing():
    assert X[1, 2].codes.tolist() == -6 and X[1, 2].shape == ()
    assert X[:, ::-2].codes.tolist() == [[3, 1], [-6, -4]]
    assert X[[1, 0, 1]].codes.tolist() == [X.codes[k].tolist() for k in (1, 0, 1)]
    assert X[X.codes > 0].codes.tolist() == [1, 3, 5]
    with pytest.raises(IndexError):
        X[2]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: X.reshape(4), r"cannot reshape .* \(2, 3\) .* \(4,\)"),
        (lambda: X.reshape(4, -1), "cannot reshape"),
        (lambda: (X @ X.transpose()).reshape(3), "cannot reshape"),
        (lambda: (X + X).reshape(-1, 4), "cannot reshape"),
        (lambda: X.transpose(0, 2), r"axes \(0, 2\)"),
        (lambda: X.transpose(0), r"axes \(0,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("shape", [(-1,), (6,), (3, 2), (3, -1), (1, 2, 3), ((3, 2),), ([6],)])
def test_exact_results_take_the_shapes_that_tensors_take(shape):
    for exact in (X + X, ops.linear(X, Tensor(np.eye(3, dtype=int), Format(2, 1)))):
        wanted = exact.tensor().reshape(*shape)
        reshaped = exact.reshape(*shape)
        assert reshaped.shape == wanted.shape
        assert reshaped.tensor().equals(wanted)
        assert reshaped.to(Format(4, 3)).shape == wanted.shape


def test_a_tensor_has_no_truth_value_and_is_no_array():
    with pytest.raises(TypeError, match="a Tensor has no truth value"):
        bool(X)
    with pytest.raises(TypeError, match="a Tensor is no NumPy array; take its `codes` or its"):
        np.asarray(X)
    with pytest.raises(TypeError):
        np.add(X, X)


def test_equality_is_of_format_shape_and_codes():
    assert X.equals(Tensor(X.codes, X.format))
    for other in (X.reshape(-1), Tensor(X.codes, Format(4, 2)), -X.codes, None, 3, "x"):
        assert not X.equals(other)


def test_operators_are_exact_where_numpy_wraps():
    """The numbers of ROCm/AMDMIGraphX#1815 and uxlfoundation/oneDNN#518."""
    a = [59, 102, 25, 34, 34, 127, -102, 51, 25, 119, -42, 59, 0, 93, 42, 127]
    b = [56, 24, 119, -95, 95, 79, -48, 79, -16, 56, 71, -32, 24, 48, 64, 8]
    x, y = Tensor(a, Format(8, 0)), Tensor(b, Format(8, 0))
    assert (x @ y).tensor().codes == sum(p * q for p, q in zip(a, b))
    x, w = Tensor([255, 255], Format(8, 0, False)), Tensor([127, 127], Format(8, 0))
    assert (x @ w).tensor().codes == 255 * 127 * 2
    assert (x * w).tensor().codes.tolist() == [255 * 127] * 2
    assert (x + x).tensor().codes.tolist() == [510, 510]
    assert (x[0] * w[0]).tensor().codes == 255 * 127


@given(FORMATS, SHAPES.filter(lambda shape: 0 not in shape), SEEDS)
def test_files_keep_every_code(tmp_path_factory, format, shape, seed):
    folder = tmp_path_factory.mktemp("files")
    tensor = tensor_of(seed, format, shape)
    tensor.to_mem(folder / "x.mem")
    assert Tensor.from_mem(folder / "x.mem", format, shape).equals(tensor)
    lines = (folder / "x.mem").read_text().split()
    assert lines == [
        f"{int(code) % 2**format.bits:0{-(-format.bits // 4)}x}" for code in tensor.codes.flat
    ]
    tensor.to_npy(folder / "x.npy")
    assert Tensor.from_npy(folder / "x.npy", format).equals(tensor)
    saved = np.load(folder / "x.npy")
    assert saved.shape == shape and saved.dtype == format.dtype.newbyteorder("<")


def test_files_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "x.mem"
    Tensor([1, -2, 3], Format(6, 0)).to_mem(path)
    for shape, message in (
        ((2,), "holds 3 codes, more than"),
        (4, "holds 3 codes, fewer than"),
        ((-1,), "shape must hold integers of at least 0"),
        ((3.0,), "shape must hold integers of at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            Tensor.from_mem(path, Format(6, 0), shape)
    with pytest.raises(InputError, match="has more than 1 hexadecimal digits"):
        Tensor.from_mem(path, Format(4, 0), (3,))
    with pytest.raises(InputError, match="bits beyond the format's 5"):
        Tensor.from_mem(path, Format(5, 0), (3,))
    path.write_text("01\nxx\n03\n")
    with pytest.raises(InputError, match="undriven or uninitialised"):
        Tensor.from_mem(path, Format(6, 0), (3,))
    with pytest.raises(InputError, match="cannot read"):
        Tensor.from_mem(tmp_path / "none.mem", Format(6, 0), (3,))
    with pytest.raises(TypeError, match=r"format must be a fxsim\.Format"):
        Tensor.from_mem(path, 6, (3,))
    with pytest.raises(TypeError, match="shape must"):
        Tensor.from_mem(path, Format(6, 0), None)


def test_npy_files_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    for content in (b"", b"PK\x03\x04nothing", b"\x93NUMPY\x01\x00\xff", b"12 34", b"PK"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is not an .npy: its header is damaged"):
            Tensor.from_npy(path, Format(8, 0))
    np.save(path, np.array([1, None]), allow_pickle=True)
    with pytest.raises(InputError, match="holds Python objects"):
        Tensor.from_npy(path, Format(8, 0))
    np.savez(tmp_path / "x.npz", a=[1])
    with pytest.raises(InputError, match="is not an .npy: its header is damaged"):
        Tensor.from_npy(tmp_path / "x.npz", Format(8, 0))
    np.save(path, [0.5])
    with pytest.raises(InputError, match="x.npy: .* must hold integers, got dtype float64"):
        Tensor.from_npy(path, Format(8, 0))
    np.save(path, [300])
    with pytest.raises(InputError, match=r"must be in \[-128, 127\]"):
        Tensor.from_npy(path, Format(8, 0))
    with pytest.raises(InputError, match="cannot read"):
        Tensor.from_npy(tmp_path, Format(8, 0))
    np.save(path, np.array([[1, 2]], ">i4"))
    assert Tensor.from_npy(path, Format(8, 0)).codes.tolist() == [[1, 2]]


def test_the_format_must_be_one():
    for format in (8, None, "Q0.7", (8, 0)):
        with pytest.raises(TypeError, match=r"format must be a fxsim\.Format, got"):
            Tensor([1], format)


def test_what_is_printed():
    assert repr(Tensor([1, -2], Format(4, 3))) == "Tensor([ 1, -2], s4 r=2^3 step=2^0)"
    assert "\n" not in repr(X + X)
