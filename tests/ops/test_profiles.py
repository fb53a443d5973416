"""What other tools call a mode does what the profile says.

Checked against those that run here, and the documents.
"""

import shutil
import subprocess

import numpy as np
import pytest
from oracle import rounding as oracle
from rtl.harness import ICARUS

from fxsim import profiles
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.profiles import PROFILES, profile
from fxsim.report.profiles import profiles_markdown
from fxsim.tensor import Tensor, quantize, requantize

QUARTERS = np.arange(-128, 128)
"""All 8-bit codes at a step of 1/4: every tie and its neighbours, and far beyond 4 bits."""


def ours(kind, mode, codes, dropped, bits):
    """fxsim's codes of integers with `dropped` bits removed, in `bits` signed bits."""
    source = Format(16, 15)
    target = Format(bits, bits - 1 + dropped)
    options = {"rounding": mode} if kind == "rounding" else {"overflow": mode}
    return requantize(Tensor(codes, source), target, **options).codes


def of_system(system, kind):
    return [
        pytest.param(row, id=f"{system} {row.name}")
        for row in PROFILES
        if (row.system, row.kind) == (system, kind) and row.mode not in oracle.STOCHASTIC
    ]


@pytest.fixture(scope="module")
def apytypes():
    return pytest.importorskip("apytypes", reason="needs APyTypes (pip install apytypes)")


def cast(apytypes, codes, dropped, bits, **modes):
    """Codes by APyTypes; the source has 16 bits, `dropped` of them below the target's."""
    array = apytypes.APyFixedArray(
        (codes % 2**16).tolist(), int_bits=16 - dropped, frac_bits=dropped
    )
    return [
        oracle.wrap(pattern, bits, True)
        for pattern in array.cast(int_bits=bits, frac_bits=0, **modes).to_bits()
    ]


@pytest.mark.parametrize("row", of_system("APyTypes", "rounding"))
@pytest.mark.parametrize("dropped", [1, 2, 5])
def test_apytypes_roundings(apytypes, row, dropped):
    theirs = cast(
        apytypes, QUARTERS, dropped, 12, quantization=getattr(apytypes.QuantizationMode, row.name)
    )
    if row.mode:
        assert ours("rounding", row.mode, QUARTERS, dropped, 12).tolist() == theirs
    elif dropped > 1:  # of one bit, everything that is not exact is a tie: fewer modes differ
        for mode in oracle.DETERMINISTIC:
            assert ours("rounding", mode, QUARTERS, dropped, 12).tolist() != theirs, mode


@pytest.mark.parametrize("row", of_system("APyTypes", "overflow"))
def test_apytypes_overflows(apytypes, row):
    theirs = cast(apytypes, QUARTERS, 0, 4, overflow=getattr(apytypes.OverflowMode, row.name))
    equal = [
        mode
        for mode in oracle.OVERFLOWS
        if ours("overflow", mode, QUARTERS, 0, 4).tolist() == theirs
    ]
    assert equal == ([row.mode] if row.mode else [])


@pytest.mark.parametrize("row", of_system("ap_fixed", "rounding"))
def test_ap_fixed_roundings_by_the_names_that_apytypes_shares(apytypes, row):
    """APyTypes has the modes of ap_fixed and SystemC under the same names, without the prefix."""
    mode = getattr(apytypes.QuantizationMode, row.name.removeprefix("AP_"))
    theirs = cast(apytypes, QUARTERS, 2, 12, quantization=mode)
    assert ours("rounding", row.mode, QUARTERS, 2, 12).tolist() == theirs


AP_FIXED_EXAMPLES = {
    "AP_RND": {1.25: 1.5, -1.25: -1.0},
    "AP_RND_ZERO": {1.25: 1.0, -1.25: -1.0},
    "AP_RND_MIN_INF": {1.25: 1.0, -1.25: -1.5},
}


@pytest.mark.parametrize("name", AP_FIXED_EXAMPLES)
def test_the_examples_of_ug1399_for_roundings(name):
    """ap_fixed<3, 2, ..., AP_SAT>."""
    for value, wanted in AP_FIXED_EXAMPLES[name].items():
        tensor = quantize(
            np.array([value]), Format.parse("ap_fixed<3,2>"), profile(name, "rounding").mode
        )
        assert tensor.real.tolist() == [wanted]


@pytest.mark.parametrize(
    "name, signed, wanted",
    [
        ("AP_SAT", True, (7, -8)),
        ("AP_SAT", False, (15, 0)),
        ("AP_SAT_ZERO", True, (0, 0)),
        ("AP_SAT_ZERO", False, (0, 0)),
        ("AP_SAT_SYM", True, (7, -7)),
        ("AP_SAT_SYM", False, (15, 0)),
    ],
)
def test_the_examples_of_ug1399_for_overflows(name, signed, wanted):
    """ap_fixed<4, 4> and ap_ufixed<4, 4> of 19.0 and -19.0."""
    format = Format.parse("ap_fixed<4,4>" if signed else "ap_ufixed<4,4>")
    mode = profile(name, "overflow").mode
    assert quantize(np.array([19.0, -19.0]), format, "nearest_up", mode).codes.tolist() == list(
        wanted
    )


@pytest.mark.parametrize(
    "signed, values, wanted", [(True, (31, -19), (-1, -3)), (False, (19, -19), (3, 13))]
)
def test_the_examples_of_ug1399_for_wrapping(signed, values, wanted):
    format = Format.parse("ap_fixed<4,4>" if signed else "ap_ufixed<4,4>")
    codes = quantize(
        np.array(values), format, "nearest_up", profile("AP_WRAP", "overflow").mode
    ).codes
    assert codes.tolist() == list(wanted)


def test_what_is_said_to_have_run_is_run_by_a_test_here():
    """... and what is said to be compared otherwise is, too."""
    ran = {row.system for row in PROFILES if row.checked.startswith("run")}
    assert ran == {
        "ap_fixed",
        "VHDL fixed_pkg",
        "VHDL numeric_std",
        "SystemVerilog",
        "FPGA-FixedPoint",
        "APyTypes",
        "QONNX",
        "ONNX",
    }
    left = {(row.system, row.name) for row in PROFILES if row.checked == "not compared"}
    assert left == {
        ("ap_fixed", "AP_WRAP_SM"),
        ("MATLAB fimath", "Saturate"),
        ("MATLAB fimath", "Wrap"),
        ("APyTypes", "STOCH_WEIGHTED"),
        ("APyTypes", "STOCH_EQUAL"),
    }


@pytest.fixture(scope="module")
def qonnx_quant():
    module = pytest.importorskip(
        "qonnx.custom_op.general.intquant", reason="needs qonnx (pip install qonnx)"
    )

    def quant(values, bits, signed, narrow, rounding):
        return module.int_quant(
            values, np.float64(1), np.float64(0), np.array(bits), signed, narrow, rounding
        )

    return quant


@pytest.mark.parametrize("row", of_system("QONNX", "rounding"))
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_qonnx_roundings(qonnx_quant, row, bits):
    theirs = qonnx_quant(QUARTERS / 4, bits, True, False, row.name)
    assert ours("rounding", row.mode, QUARTERS, 2, bits).tolist() == theirs.tolist()


@pytest.mark.parametrize("row", of_system("QONNX", "overflow"))
def test_qonnx_ranges(qonnx_quant, row):
    narrow = row.name == "narrow=1"
    theirs = qonnx_quant(QUARTERS / 4, 4, True, narrow, "ROUND")
    wanted = requantize(
        Tensor(QUARTERS, Format(8, 5)), Format(4, 3), "nearest_even", row.mode
    ).codes
    assert wanted.tolist() == theirs.tolist()
    unsigned = qonnx_quant(QUARTERS / 4, 4, False, narrow, "ROUND")
    same = requantize(
        Tensor(QUARTERS, Format(8, 5)), Format(4, 4, False), "nearest_even", row.mode
    ).codes.tolist()
    assert (same == unsigned.tolist()) == (not narrow)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_onnx_runtime_quantize_linear(kind):
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="needs ONNX Runtime (pip install onnxruntime)"
    )
    onnx = pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")
    helper = onnx.helper
    types = onnx.TensorProto
    element = {"int8": types.INT8, "uint8": types.UINT8}[kind]
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])],
        "quantize",
        [helper.make_tensor_value_info("x", types.FLOAT, [None])],
        [helper.make_tensor_value_info("y", element, [None])],
        [
            helper.make_tensor("scale", types.FLOAT, [], [1.0]),
            helper.make_tensor("zero", element, [], [0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    values = (np.arange(-1200, 1200) / 4).astype(np.float32)
    theirs = session.run(None, {"x": values})[0]
    format = Format(8, 7) if kind == "int8" else Format(8, 8, False)
    wanted = quantize(
        values,
        format,
        profile("QuantizeLinear", "rounding").mode,
        profile("QuantizeLinear", "overflow").mode,
    )
    assert theirs.tolist() == wanted.codes.tolist()


def divide_by_power(x, exponent):
    """gemmlowp's RoundingDivideByPOT, from its definition."""
    mask = 2**exponent - 1
    return (x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0))


def doubling_high_multiply(a, b):
    """gemmlowp's SaturatingRoundingDoublingHighMul of int32 values, from its definition.

    C division truncates.
    """
    if a == b == -(2**31):
        return 2**31 - 1
    nudged = a * b + (2**30 if a * b >= 0 else 1 - 2**30)
    return nudged // 2**31 if nudged >= 0 else -(-nudged // 2**31)


@pytest.mark.parametrize("exponent", [1, 2, 3, 7])
def test_gemmlowp_rounding_divide(exponent):
    wanted = [divide_by_power(int(x), exponent) for x in QUARTERS]
    mode = profile("RoundingDivideByPOT", "rounding").mode
    assert ours("rounding", mode, QUARTERS, exponent, 12).tolist() == wanted


def factors():
    """Pairs of int32 whose doubled high product is a tie, next to one, extreme, or random."""
    ties = [(odd * 2**15, 2 ** (15 + k)) for odd in range(-9, 10, 2) for k in range(8)]
    near = [(a + d, b) for a, b in ties for d in (-1, 1)]
    edge = [(a, b) for a in (-(2**31), 2**31 - 1) for b in (-(2**31), -1, 1, 2**31 - 1)]
    random = np.random.default_rng(0).integers(-(2**31), 2**31, (200, 2)).tolist()
    return [*ties, *near, *edge, *random]


def products_in(pairs):
    """The exact products; dropping 31 bits of them gives Format(32, 31)."""
    return Tensor(np.array([a * b for a, b in pairs], np.int64), Format(64, 32))


def test_gemmlowp_doubling_high_multiply():
    pairs = factors()
    got = requantize(
        products_in(pairs),
        Format(32, 31),
        profile("SaturatingRoundingDoublingHighMul", "rounding").mode,
        profile("SaturatingRoundingDoublingHighMul", "overflow").mode,
    )
    assert got.codes.tolist() == [doubling_high_multiply(a, b) for a, b in pairs]


@pytest.mark.parametrize("exponent", [1, 3, 6])
def test_the_two_roundings_of_tensorflow_lite(exponent):
    pairs = factors()
    high = requantize(products_in(pairs), Format(32, 31), "nearest_up")
    got = requantize(high, Format(32, 31 + exponent), "nearest_away").codes.tolist()
    double = [divide_by_power(doubling_high_multiply(a, b), exponent) for a, b in pairs]
    single = [(a * b + 2 ** (30 + exponent)) >> (31 + exponent) for a, b in pairs]
    assert got == double
    assert double != single, "no case tells the two apart"
    for mode in oracle.DETERMINISTIC:
        once = requantize(products_in(pairs), Format(32, 31 + exponent), mode).codes.tolist()
        assert once != double, mode
        assert (once == single) == (mode == profile("TFLITE_SINGLE_ROUNDING", "rounding").mode), (
            mode
        )


VERILOG = """
module shifts;
  reg signed [7:0] x; reg signed [7:0] shifted; reg signed [3:0] narrow; integer i;
  initial for (i = -128; i < 128; i = i + 1) begin
    x = i; shifted = x >>> 2; narrow = x;
    $display("%0d %0d %0d", shifted, x / 8'sd4, narrow);
  end
endmodule
"""


@pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="needs Icarus Verilog (apt-get install iverilog)"
)
def test_verilog_shift_division_and_narrowing(tmp_path):
    (tmp_path / "shifts.sv").write_text(VERILOG)
    subprocess.run(["iverilog", "-g2012", "-o", "shifts", "shifts.sv"], cwd=tmp_path, check=True)
    printed = subprocess.run(
        ["vvp", "shifts"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    shifted, divided, narrowed = np.array(
        [line.split() for line in printed.splitlines()], int
    ).T.tolist()
    assert ours("rounding", profile(">>>", "rounding").mode, QUARTERS, 2, 8).tolist() == shifted
    assert (
        ours("rounding", profile("signed / 2**n", "rounding").mode, QUARTERS, 2, 8).tolist()
        == divided
    )
    assert (
        ours("overflow", profile("narrower assignment", "overflow").mode, QUARTERS, 0, 4).tolist()
        == narrowed
    )


ZOOM_TARGETS = ((4, 2), (3, 2), (2, 0), (8, 3), (4, 6), (3, 6))
"""(integer bits with the sign, fraction bits) of outputs; the inputs have 4 and 4."""


@pytest.mark.parametrize("rounds", [1, 0])
@pytest.mark.parametrize("integer_bits, fraction_bits", ZOOM_TARGETS)
def test_the_library_with_zooms_products_and_sums(tmp_path, integer_bits, fraction_bits, rounds):
    """Units of tests/rtl with the semantics of the library's source, for every pair of codes."""
    options = {"OUT_INT": integer_bits, "OUT_FRAC": fraction_bits, "ROUND": rounds}
    simulation = ICARUS.build("half_up_zoom_tb", tmp_path, **options)
    simulation.run(codes="codes")
    bits = integer_bits + fraction_bits
    words = [int(word, 16) for word in (simulation.folder / "codes").read_text().split()]
    theirs = np.array([oracle.wrap(word, bits, True) for word in words]).reshape(-1, 3).T
    a, b = (codes.reshape(-1) for codes in np.meshgrid(QUARTERS, QUARTERS, indexing="ij"))
    target = Format(bits, integer_bits - 1)
    overflow = profile("fxp_zoom", "overflow").mode
    exact = {
        f"fxp_zoom ROUND={rounds}": (Format(8, 3), a),
        "fxp_mul": (Format(16, 7), a * b),
        "fxp_add": (Format(9, 4), a + b),
    }
    for (name, (format, codes)), got in zip(exact.items(), theirs):
        mode = profile(name, "rounding").mode if rounds else "floor"
        wanted = requantize(Tensor(codes, format), target, mode, overflow).codes
        beyond = wanted > format.max // target.step  # no equal there, as the profile says
        assert not beyond.any() or integer_bits > format.range_exp + 1
        assert np.array_equal(wanted[~beyond], got[~beyond]), name
        assert (got[beyond] == wanted[beyond] - 1).all(), name


VHDL = """
library ieee;
use ieee.std_logic_1164.all; use ieee.numeric_std.all; use ieee.fixed_float_types.all; use ieee.fixed_pkg.all;
entity modes is end;
architecture test of modes is begin
  process
    variable n : signed(7 downto 0);
    variable x : sfixed(5 downto -2);
    function show(value : integer) return string is begin return integer'image(value) & " "; end;
    function show(value : sfixed) return string is begin return show(to_integer(signed(to_slv(value)))); end;
  begin
    for i in -128 to 127 loop
      n := to_signed(i, 8);
      x := to_sfixed(std_logic_vector(n), 5, -2);
      report show(resize(x, 9, 0, fixed_saturate, fixed_round)) & show(resize(x, 9, 0, fixed_saturate, fixed_truncate))
        & show(resize(x, 3, 0, fixed_saturate, fixed_truncate)) & show(resize(x, 3, 0, fixed_wrap, fixed_truncate))
        & show(to_integer(shift_right(n, 2))) & show(to_integer(n / 4)) & show(to_integer(resize(n, 4)))
        & show(to_integer(resize(unsigned(n), 4)));
    end loop;
    wait;
  end process;
end;
"""
GHDL = shutil.which("ghdl") or shutil.which("ghdl-mcode")


@pytest.mark.skipif(GHDL is None, reason="needs GHDL (apt-get install ghdl-mcode)")
def test_vhdl_fixed_pkg_and_numeric_std(tmp_path):
    (tmp_path / "modes.vhd").write_text(VHDL)
    subprocess.run([GHDL, "-a", "--std=08", "modes.vhd"], cwd=tmp_path, check=True)
    subprocess.run([GHDL, "-e", "--std=08", "modes"], cwd=tmp_path, check=True)
    run = subprocess.run(
        [GHDL, "-r", "--std=08", "modes"],
        cwd=tmp_path,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    lines = [line.rpartition(":")[2].split() for line in run.stdout.splitlines()]
    rounded, truncated, saturated, wrapped, shifted, divided, resized, cut = np.array(lines, int).T
    for name, theirs in (
        ("fixed_round", rounded),
        ("fixed_truncate", truncated),
        ("shift_right(signed)", shifted),
    ):
        assert np.array_equal(
            ours("rounding", profile(name, "rounding").mode, QUARTERS, 2, 12), theirs
        ), name
    mode = profile("signed / 2**n", "rounding", "VHDL numeric_std").mode
    assert np.array_equal(ours("rounding", mode, QUARTERS, 2, 12), divided)
    for name, theirs in (("fixed_saturate", saturated), ("fixed_wrap", wrapped)):
        mode = profile(name, "overflow").mode
        assert np.array_equal(ours("overflow", mode, QUARTERS >> 2, 0, 4), theirs), name
    assert not [
        mode
        for mode in oracle.OVERFLOWS
        if np.array_equal(ours("overflow", mode, QUARTERS, 0, 4), resized)
    ]
    mode = profile("resize(unsigned)", "overflow").mode
    wide = Tensor(QUARTERS % 256, Format(8, 8, False))
    assert np.array_equal(requantize(wide, Format(4, 4, False), overflow=mode).codes, cut)


def round_fixed(x, dropped):
    """fixed_generic_pkg's round_fixed.

    Up where the remainder is above one half, or is one half and the last bit 1.
    """
    kept = x >> dropped
    rest = x % 2**dropped
    first = rest >> (dropped - 1)
    others = rest % 2 ** (dropped - 1)
    return kept + bool(first and (kept % 2 or others))


@pytest.mark.parametrize("dropped", [1, 2, 4])
def test_fixed_round_of_vhdl_by_its_definition(dropped):
    wanted = [round_fixed(int(x), dropped) for x in QUARTERS]
    assert (
        ours("rounding", profile("fixed_round", "rounding").mode, QUARTERS, dropped, 12).tolist()
        == wanted
    )


def test_resize_of_numeric_std_is_no_mode():
    """The sign bit of the long vector beside its low bits, by IEEE 1076.3."""
    theirs = [int(x) % 8 - 8 * (x < 0) for x in QUARTERS]
    assert profile("resize(signed)", "overflow").mode is None
    assert not [
        mode
        for mode in oracle.OVERFLOWS
        if ours("overflow", mode, QUARTERS, 0, 4).tolist() == theirs
    ]


FIMATH_TIES = {  # fimath's documents: of -2.5, -1.5, -0.5, 0.5, 1.5, 2.5
    "Ceiling": (-2, -1, 0, 1, 2, 3),
    "Convergent": (-2, -2, 0, 0, 2, 2),
    "Floor": (-3, -2, -1, 0, 1, 2),
    "Nearest": (-2, -1, 0, 1, 2, 3),
    "Round": (-3, -2, -1, 1, 2, 3),
    "Zero": (-2, -1, 0, 0, 1, 2),
}


@pytest.mark.parametrize("name", FIMATH_TIES)
def test_fimath_on_ties(name):
    mode = profile(name, "rounding", "MATLAB fimath").mode
    assert quantize(
        np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]), Format(8, 7), mode
    ).codes.tolist() == list(FIMATH_TIES[name])


def test_every_rounding_and_overflow_of_ours_has_a_name_elsewhere():
    assert {row.mode for row in PROFILES if row.kind == "rounding"} >= {
        *oracle.DETERMINISTIC,
        *oracle.STOCHASTIC,
    }
    assert {row.mode for row in PROFILES if row.kind == "overflow"} >= set(oracle.OVERFLOWS)


def test_a_name_is_looked_up_with_help():
    assert profile("AP_RND_CONV", "rounding").mode == "nearest_even"
    assert profile("SaturatingRoundingDoublingHighMul", "overflow").mode == "saturate"
    with pytest.raises(InputError, match="did you mean 'AP_RND_CONV'"):
        profile("AP_RND_CNV", "rounding")
    with pytest.raises(InputError, match="did you mean 'QONNX'"):
        profile("ROUND", "rounding", "QONX")
    with pytest.raises(InputError, match="kind 'rouding' is unknown"):
        profile("ROUND", "rouding")


def test_a_name_with_two_meanings_needs_its_system(monkeypatch):
    other = profiles.Profile(
        "Other", "AP_RND", "rounding", "nearest_away", "nowhere", "not compared"
    )
    monkeypatch.setattr(profiles, "PROFILES", (*PROFILES, other))
    with pytest.raises(InputError, match="differs among ap_fixed, Other; give the system"):
        profile("AP_RND", "rounding")
    assert profile("AP_RND", "rounding", "Other") == other


def test_the_table_shows_what_the_twin_computes():
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in profiles_markdown().splitlines()
    ]
    assert len({len(line) for line in lines if len(line) > 12}) == 1
    for row in PROFILES:
        cases = profiles.ROUNDING_CASES if row.kind == "rounding" else profiles.OVERFLOW_CASES
        (shown,) = (
            line[2:-2]
            for line in lines
            if line[:2] == [row.system, f"`{row.name}`"] and len(line) == len(cases) + 5
        )
        assert [row.checked, row.note] in [
            line[-2:] for line in lines if line[:2] == [row.system, f"`{row.name}`"]
        ]
        if row.mode is None or row.mode in oracle.STOCHASTIC:
            assert shown == [row.mode or "no equal", *[""] * len(cases)]
            continue
        if row.kind == "rounding":
            wanted = [oracle.round_exact(oracle.Fraction(case), row.mode) for case in cases]
        else:
            wanted = [oracle.bound(case, (4, 3, True), row.mode)[0] for case in cases]
        assert shown == [row.mode, *map(str, wanted)], row
