"""Packages of VHDL and SystemVerilog: formats, modes, shapes and files of every tensor of an
export.

The codes stay in the memory files, which both languages read.  Both packages have the same names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fxsim.formats import OVERFLOWS, ROUNDINGS
from fxsim.golden.manifest import Entry, FileKind, Manifest

NAME = "fxsim_vectors"
"""Of the package."""

IN_MEMORY: tuple[FileKind, ...] = ("mem", "hex")
"""Kinds of files that a package names, the first that is there."""

SUFFIXES = (
    "bits",
    "signed",
    "step_exp",
    "shape",
    "size",
    "rounding",
    "overflow",
    "accumulator_bits",
    "file",
)
"""What the names of a tensor's constants end in."""


def identifiers(names: Iterable[str]) -> dict[str, str]:
    """'layer.tensor' -> an identifier of its own in VHDL, SystemVerilog and C.

    It has letters, digits and single underscores, begins with a letter, and ends in the tensor's
    name or a number, as no reserved word does.  No two are equal if capitals count as small
    letters, as they do in VHDL, nor are the names that they begin with SUFFIXES.

    Example:
        >>> identifiers(["C1.weights", "c1.weights", "2_.bias"])
        {'C1.weights': 'C1_weights', 'c1.weights': 'c1_weights_2', '2_.bias': 'layer_2_bias'}
    """
    taken: set[str] = set()
    found = {}
    for name in names:
        first = _plain(name)
        number = 1
        chosen = first
        while not taken.isdisjoint(_claimed(chosen)):
            number += 1
            chosen = f"{first}_{number}"
        taken |= _claimed(chosen)
        found[name] = chosen
    return found


def _plain(name: str) -> str:
    """The name in letters, digits and single underscores, with a letter in front."""
    plain = re.sub("[^A-Za-z0-9]+", "_", name).strip("_")
    return plain if plain[:1].isalpha() else f"layer_{plain}"


def _claimed(identifier: str) -> set[str]:
    """All names that a tensor takes, in small letters."""
    return {f"{identifier}_{suffix}".lower() for suffix in SUFFIXES}


def _told(entry: Entry) -> str:
    """A tensor in a comment."""
    return f"{entry.name}: {entry.format}, ({entry.axes}), {entry.role}"


def _file(entry: Entry) -> str:
    """The memory file of a tensor."""
    kind = next(kind for kind in IN_MEMORY if kind in entry.files)
    return entry.files[kind].name


VHDL_HEAD = """\
-- fxsim vectors, {subject}: formats, shapes, modes and memory files.  VHDL-2008.
-- real value = code * 2.0**step_exp; elements are in row-major order, the last axis fastest.
--
--     library ieee; use ieee.numeric_std.all; use work.{name}.all;
--     constant w : code_vector(0 to x_weights_size - 1) :=
--         read_codes(folder & x_weights_file, x_weights_size, x_weights_bits, x_weights_signed);
--     resize(w(0), x_weights_bits)         -- the first code
--     write_codes("dump/x.activations.mem", device, x_activations_bits);   -- for vectors check

library ieee;
use ieee.std_logic_1164.all;
use ieee.numeric_std.all;
use std.textio.all;

package {name} is
    type rounding_mode is (
        {roundings});
    type overflow_mode is (
        {overflows});

    subtype code is signed(63 downto 0);
    type code_vector is array (natural range <>) of code;

    -- The codes of a memory file; failure where it holds fewer or more.
    impure function read_codes(
        path : string; size, bits : positive; is_signed : boolean) return code_vector;

    -- A memory file of codes.
    procedure write_codes(path : string; codes : code_vector; bits : positive);

    constant vectors_batch : positive := {batch};
"""

VHDL_BODY = """\
end package;

package body {name} is
    impure function read_codes(
        path : string; size, bits : positive; is_signed : boolean) return code_vector is
        file memory : text open read_mode is path;
        variable row : line;
        variable word : std_logic_vector(4 * ((bits + 3) / 4) - 1 downto 0);
        variable codes : code_vector(0 to size - 1);
    begin
        for i in codes'range loop
            assert not endfile(memory) report path & " holds too few codes" severity failure;
            readline(memory, row);
            hread(row, word);
            if is_signed then
                codes(i) := resize(signed(word(bits - 1 downto 0)), code'length);
            else
                codes(i) := signed(resize(unsigned(word(bits - 1 downto 0)), code'length));
            end if;
        end loop;
        assert endfile(memory) report path & " holds too many codes" severity failure;
        return codes;
    end function;

    procedure write_codes(path : string; codes : code_vector; bits : positive) is
        file memory : text open write_mode is path;
        variable row : line;
        variable word : std_logic_vector(4 * ((bits + 3) / 4) - 1 downto 0);
    begin
        for i in codes'range loop
            word := (others => '0');
            word(bits - 1 downto 0) := std_logic_vector(codes(i)(bits - 1 downto 0));
            hwrite(row, word);
            writeline(memory, row);
        end loop;
    end procedure;
end package body;
"""


def to_vhdl(manifest: Manifest) -> bytes:
    """The VHDL package of an export whose entries have memory files."""
    head = VHDL_HEAD.format(
        name=NAME,
        subject=manifest.subject,
        batch=manifest.batch,
        roundings=_wrapped([f"round_{mode}" for mode in ROUNDINGS]),
        overflows=_wrapped([f"overflow_{mode}" for mode in OVERFLOWS]),
    )
    lines = _vhdl_rate(manifest)
    for name, identifier in identifiers(manifest.entries).items():
        entry = manifest.entry(name)
        lines += ["", f"    -- {_told(entry)}"]
        lines += [
            f"    constant {identifier}_{suffix} : {value};"
            for suffix, value in _vhdl_values(entry).items()
        ]
    return (head + "\n".join([*lines, ""]) + VHDL_BODY.replace("{name}", NAME)).encode("ascii")


def _wrapped(names: list[str]) -> str:
    """Names of literals, a few to a line."""
    rows = [", ".join(names[start : start + 4]) for start in range(0, len(names), 4)]
    return ",\n        ".join(rows)


def _vhdl_rate(manifest: Manifest) -> list[str]:
    rate = manifest.learning_rate
    if rate is None:
        return []
    return [
        f"    constant learning_rate_mantissa : positive := {rate.mantissa};",
        f"    constant learning_rate_exponent : integer := {rate.exponent};",
    ]


def _vhdl_values(entry: Entry) -> dict[str, str]:
    """Suffix -> type and value of a tensor's constants."""
    format = entry.format
    sizes = ", ".join(f"{axis} => {size}" for axis, size in enumerate(entry.shape))
    values = {
        "bits": f"positive := {format.bits}",
        "signed": f"boolean := {str(format.signed).lower()}",
        "step_exp": f"integer := {format.step_exp}",
        "shape": f"integer_vector(0 to {len(entry.shape) - 1}) := ({sizes})",
        "size": f"positive := {entry.size}",
    }
    if entry.rounding is not None:
        values["rounding"] = f"rounding_mode := round_{entry.rounding}"
    if entry.overflow is not None:
        values["overflow"] = f"overflow_mode := overflow_{entry.overflow}"
    if entry.accumulator is not None:
        values["accumulator_bits"] = f"positive := {entry.accumulator.bits}"
    return {**values, "file": f'string := "{_file(entry)}"'}


SV_HEAD = """\
// fxsim vectors, {subject}: formats, shapes, modes and memory files.
// real value = code * 2.0**step_exp; elements are in row-major order, the last axis fastest.
//
//     import {name}::*;
//     logic signed [x_weights_bits-1:0] w [0:x_weights_size-1];     // signed where x_weights_signed is 1
//     initial $readmemh($sformatf("%s/%s", folder, x_weights_file), w);
//     $writememh("dump/x.activations.mem", device);                 // for vectors check
package {name};
    // verilator lint_off UNUSEDPARAM
"""


def to_systemverilog(manifest: Manifest) -> bytes:
    """The SystemVerilog package of an export whose entries have memory files."""
    lines = [
        f"    localparam logic [3:0] ROUND_{mode.upper()} = {place};"
        for place, mode in enumerate(ROUNDINGS)
    ]
    lines += [
        f"    localparam logic [1:0] OVERFLOW_{mode.upper()} = {place};"
        for place, mode in enumerate(OVERFLOWS)
    ]
    lines += ["", f"    localparam int vectors_batch = {manifest.batch};"]
    rate = manifest.learning_rate
    if rate is not None:
        lines.append(f"    localparam int learning_rate_mantissa = {rate.mantissa};")
        lines.append(f"    localparam int learning_rate_exponent = {rate.exponent};")
    for name, identifier in identifiers(manifest.entries).items():
        entry = manifest.entry(name)
        lines += ["", f"    // {_told(entry)}"]
        lines += [f"    localparam {each};" for each in _sv_values(identifier, entry)]
    head = SV_HEAD.format(name=NAME, subject=manifest.subject)
    tail = "    // verilator lint_on UNUSEDPARAM\nendpackage\n"
    return (head + "\n".join([*lines, ""]) + tail).encode("ascii")


def _sv_values(identifier: str, entry: Entry) -> list[str]:
    """Type, name and value of a tensor's parameters."""
    format = entry.format
    values = {
        "bits": format.bits,
        "signed": int(format.signed),
        "step_exp": format.step_exp,
        **{f"shape_{axis}": size for axis, size in enumerate(entry.shape)},
        "size": entry.size,
    }
    if entry.accumulator is not None:
        values["accumulator_bits"] = entry.accumulator.bits
    made = [f"int {identifier}_{suffix} = {value}" for suffix, value in values.items()]
    if entry.rounding is not None:
        made.append(f"logic [3:0] {identifier}_rounding = ROUND_{entry.rounding.upper()}")
    if entry.overflow is not None:
        made.append(f"logic [1:0] {identifier}_overflow = OVERFLOW_{entry.overflow.upper()}")
    return [*made, f'{identifier}_file = "{_file(entry)}"']
