"""What the reports say, whatever they are written in: sections of texts, tables and terms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fxsim.accumulator import Overflows
from fxsim.analysis.assign import ROUNDED_GRADIENTS
from fxsim.analysis.fixed_run import SPREAD, accumulator_overflows
from fxsim.formats import STOCHASTIC
from fxsim.nn.layer_precision import SYMBOLS
from fxsim.nn.precision import PrecisionAssignment
from fxsim.report import text


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Args:
        key: a name for the page to find it by.
        title: its heading.
        rows: a table, the header first.
        before: paragraphs above the table, with `code` between backquotes.
        after: paragraphs below it.
        terms: words of the table, and what they mean.
    """

    key: str
    title: str
    rows: Sequence[Sequence[str]] = ()
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    terms: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Figure:
    """One number of the first screen, what it is of, and what it is to be compared with."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Criterion:
    """What a criterion is about, what it asks for, and what to do where it fails."""

    what: str
    meaning: str
    remedy: str


CRITERIA = {
    "GC": Criterion(
        "gradients that clip",
        "The range of a gradient holds nearly all of its values: at most 5% clip.",
        "Give the tensor one bit more of range in assignment.json, or train with a smaller "
        "learning rate.",
    ),
    "RQB": Criterion(
        "relative quantization bias of weight gradients",
        "Rounding does not shift the mean of the smallest weight gradients that survive it.",
        "Round gradients with `--gradient-rounding stochastic`; a finer step hardly helps.",
    ),
    "BQN": Criterion(
        "noise reflected from activation gradients, share of the weight gradients' own",
        "The rounding of activation gradients adds less noise to a weight gradient than the "
        "rounding of that weight gradient itself.",
        "Give the tensor one bit more below its step: that divides its noise by four.",
    ),
    "GF": Criterion(
        "sum of activation gradients that is flushed",
        "Of what activation gradients sum to, little is lost below half a step.",
        "Round gradients with `--gradient-rounding stochastic`, or give the tensor a finer step.",
    ),
    "AS": Criterion(
        "updates that are lost below the accumulator's step",
        "The smallest update at the smallest learning rate still moves the accumulator.",
        "Give W^acc a finer step, or end the training at a larger learning rate.",
    ),
}

SUMS = {
    "OC": Criterion(
        "overflows of an accumulator",
        "No input can overflow the accumulator.",
        "The weights have grown beyond those of the float run: give it one bit more, or use OP.",
    ),
    "OP": Criterion(
        "overflows of an accumulator",
        "A sum leaves its accumulator with at most this probability.",
        "The sums are larger than those of the float run: give the accumulator one bit more.",
    ),
}
DECISIONS = {
    "EFQN": Criterion(
        "decisions that differ from float's",
        "Decisions differ from float's no more often than the bound says.",
        "The noise of rounding is not small beside the margins of decisions: ask for a smaller "
        "target, or add one bit to weights and activations.",
    )
}


def _terms(criteria: Mapping[str, Criterion], results: Mapping[str, bool]) -> list[tuple[str, str]]:
    """What the criteria mean, and what to do about those that fail.

    results: whether each criterion that was measured holds.
    """
    return [
        (name, each.meaning if results[name] else f"{each.meaning} It fails here. {each.remedy}")
        for name, each in criteria.items()
        if name in results
    ]


HOLDS = "holds"
FAILS = "fails"

COST_NAMES = {
    "weight_storage": "weight storage",
    "activation_storage": "activation storage",
    "training_macs": "multiply-accumulates",
    "communication": "communication",
}
"""Metric -> what it is called in a sentence."""


def sections(data: dict, sensitivity: Sequence[dict]) -> list[Section]:
    """The sections of the report on the plain data of results.json.

    sensitivity: rows of study.sensitivity.
    """
    designs = data["designs"]
    found = [
        Section(
            "designs",
            "Designs",
            text.designs_rows(designs),
            ["In brackets the cost as a share of float's. C_A and C_M are for one image."],
        )
    ]
    if remarks := text.remarks(designs):
        told = [list(each.partition(": ")[::2]) for each in remarks]
        found.append(Section("remarks", "Worth a look", [["tensor or product", "what"], *told]))
    if sensitivity:
        found.append(
            Section(
                "sensitivity",
                "Sensitivity",
                _sensitivity_rows(sensitivity),
                ["Bits added to C_o in all tensors, or in one class of them."],
            )
        )
    chosen = text.chosen_design([row for row in designs if row["measured"]])
    if chosen:
        found += [_criteria(chosen), *_accumulators(chosen)]
    if "mismatch" in data:
        found.append(_mismatch(data["mismatch"]))
    if "output_error" in data:
        found.append(
            Section("outputs", "Outputs", before=[_output_error_text(data["output_error"])])
        )
    if shown := text.chosen_design(designs):
        found += _formats(shown)
    return found


def introduction(data: dict) -> str:
    """How the designs were trained, on what."""
    settings = data["identity"]["settings"]
    machine = data["designs"][0]["machine"]
    return (
        f"{settings['epochs']} epochs in batches of {settings['batch']}, learning rate "
        f"{settings['learning_rate']:g}, width {settings['width']:g}, seed {settings['seed']}; "
        f"{machine['processor']}, fxsim {machine['versions']['fxsim']}."
    )


def title(data: dict) -> str:
    """Network and data set."""
    settings = data["identity"]["settings"]
    return f"{settings['network']} on {settings['dataset']}"


def verdict(data: dict) -> str:
    """One sentence: whether the design in fixed point that is shown follows the float one.

    It does where its error on the test set is above float's by at most two standard errors of the
    difference, as if the two were independent; where nothing is decided, the losses are named.
    """
    designs = data["designs"]
    reference = text.float_row(designs)
    chosen = text.chosen_design(designs)
    if not chosen:
        return "No design in fixed point was trained."
    name = chosen["design"]
    if not reference:
        return f"No float run to compare with: {name} has {_tested(chosen)}."
    both = f"{name} has {_tested(chosen)}, float {_tested(reference)}"
    if chosen["test_error"] is None:
        ratio = chosen["test_loss"] / reference["test_loss"] if reference["test_loss"] else math.nan
        return f"{both}." if math.isnan(ratio) else f"{both}: {ratio:.3g} times as much."
    images = data["identity"]["images"]["test"]
    above = chosen["test_error"] - reference["test_error"]
    allowed = 2 * _error_of_difference(chosen["test_error"], reference["test_error"], images)
    start = "Fixed point follows float" if above <= allowed else "Fixed point falls behind float"
    return (
        f"{start}: {both}. Two standard errors of the difference over {images:,} test images are "
        f"{100 * allowed:.2f} points."
    )


def _tested(row: dict) -> str:
    if row["test_error"] is None:
        return f"test loss {row['test_loss']:.4g}"
    return f"test error {row['test_error']:.2%}"


def _error_of_difference(first: float, second: float, images: int) -> float:
    return math.sqrt((first * (1 - first) + second * (1 - second)) / max(images, 1))


def figures(data: dict) -> list[Figure]:
    """The numbers of the first screen: error, bits, costs, criteria of the design that is shown."""
    designs = data["designs"]
    reference = text.float_row(designs)
    chosen = text.chosen_design(designs)
    row = chosen or designs[0]
    value, loss = text.tested_cells(row)
    of_float = f"; float {text.tested_cells(reference)[0]}" if reference and chosen else ""
    found = [
        Figure(text.tested_header([row]), value, f"{row['design']}{of_float}; training loss {loss}")
    ]
    if not chosen:
        return found
    found.append(_bits(PrecisionAssignment.from_dict(chosen["assignment"])))
    for metric, (symbol, _) in text.METRICS.items():
        cost = row["costs"]["total"][metric]
        scale, unit = text.cost_unit([row], metric)
        amount = f"{symbol} {cost / scale:,.3g} {unit}"
        if reference and reference["costs"]["total"][metric]:
            share = cost / reference["costs"]["total"][metric]
            found.append(Figure(COST_NAMES[metric], f"{share:.2f}", f"of float's; {amount}"))
        else:
            found.append(Figure(COST_NAMES[metric], f"{cost / scale:,.3g} {unit}", symbol))
    if chosen["measured"]:
        criteria = chosen["measured"]["criteria"]
        failing = dict.fromkeys(each["criterion"] for each in criteria if not each["passed"])
        names = dict.fromkeys(each["criterion"] for each in criteria)
        all_hold = f"all {len(names)} hold"
        value = f"{', '.join(failing)} {'fail' if len(failing) > 1 else FAILS}"
        note = "measured on " + chosen["design"]
        found.append(Figure("criteria", value if failing else all_hold, note))
    return found


def _bits(assignment: PrecisionAssignment) -> Figure:
    ranges = {}
    for tensor, symbol in SYMBOLS.items():
        given = [layer.given().get(tensor) for layer in assignment.layers.values()]
        bits = [format.bits for format in given if format is not None]
        if bits:
            ranges[symbol] = min(bits), max(bits)
    least = min(low for low, _ in ranges.values())
    most = max(high for _, high in ranges.values())
    note = ", ".join(f"{symbol} {_span(*each)}" for symbol, each in ranges.items())
    return Figure("bits", _span(least, most, " to "), note)


def _span(least: int, most: int, between: str = "-") -> str:
    return str(least) if least == most else f"{least}{between}{most}"


def _sensitivity_rows(rows: Sequence[dict]) -> list[list[str]]:
    cells = [["class", "bits", "training loss", text.tested_header(rows)]]
    return cells + [
        [
            row["class"].replace("_", " "),
            f"{row['bits']:+d}" if row["bits"] else "0",
            *reversed(text.tested_cells(row)),
        ]
        for row in rows
    ]


_CRITERIA_TEXT = (
    "Clipping and lost updates over all of training; bias, reflected noise and what is flushed on "
    "steps recorded before it and after it. G^Z is batch norm's gradient at the pre-activations. The "
    "worst tensor of each; ± three standard errors, where a value is from a sample: it fails where "
    "it is above its bound by "
    "more."
)


_UNBIASED_TEXT = (
    "Gradients that round stochastically have no bias and lose nothing on the mean: what RQB and GF "
    "measure on them is the spread of the draws."
)
_DRAWN_TEXT = (
    "Gradients that round stochastically: {}. What is not without bias may lose or gain on the mean: "
    "RQB and GF measure that, and the spread of the draws."
)
_BIASED_TEXT = (
    "RQB fails because the assignment's step, a quarter of the least sigma of G^W, is for a normal "
    "distribution. Rounding to nearest has the bias D/12 |p'(D) / p(D)| at a step D, p the density "
    "of the magnitudes. At the end of a training that is about a power, |g|^-a, over many powers of "
    "two, and the bias about a/12 whatever the step: more bits hardly help. "
    "`--gradient-rounding stochastic` has no bias."
)


def _criteria(chosen: dict) -> Section:
    measured = chosen["measured"]["criteria"]
    names = dict.fromkeys(row["criterion"] for row in measured)
    results = {
        name: all(row["passed"] for row in measured if row["criterion"] == name) for name in names
    }
    return Section(
        "criteria",
        f"Criteria, measured on {chosen['design']}",
        _criteria_rows(measured),
        [_CRITERIA_TEXT],
        _rounding_text(chosen),
        _terms(CRITERIA, results),
    )


def _rounding_text(chosen: dict) -> list[str]:
    """What the rounding of gradients does to RQB and GF."""
    assignment = PrecisionAssignment.from_dict(chosen["assignment"])
    if assignment.rounding_of("weight_grads") in STOCHASTIC:
        drawn = {
            text.ALL_SYMBOLS[tensor]: text.randomness(assignment, tensor)
            for tensor in ROUNDED_GRADIENTS
            if assignment.rounding_of(tensor) in STOCHASTIC
        }
        if set(drawn.values()) == {text.WITHOUT_BIAS}:
            return [_UNBIASED_TEXT]
        return [_DRAWN_TEXT.format("; ".join(f"{name} {how}" for name, how in drawn.items()))]
    rows = chosen["measured"]["criteria"]
    failed = any(row["criterion"] == "RQB" and not row["passed"] for row in rows)
    return [_BIASED_TEXT] if failed else []


def _criteria_rows(measured: Sequence[dict]) -> list[list[str]]:
    rows = [["criterion", "what", "moment", "worst", "tensor", "bound", "result"]]
    groups = dict.fromkeys((row["criterion"], row["moment"]) for row in measured)
    for criterion, moment in sorted(groups, key=lambda group: list(CRITERIA).index(group[0])):
        found = [
            row for row in measured if (row["criterion"], row["moment"]) == (criterion, moment)
        ]
        worst = max(found, key=lambda row: row["value"] - SPREAD * row["error"])
        failed = sum(not row["passed"] for row in found)
        spread = f" ± {SPREAD * worst['error']:.2%}" if worst["error"] else ""
        rows.append(
            [
                criterion,
                CRITERIA[criterion].what,
                moment,
                f"{worst['value']:.2%}{spread}",
                f"{worst['layer']} {text.ALL_SYMBOLS[worst['tensor']]}",
                f"{worst['bound']:.0%}",
                f"{FAILS} in {failed} of {len(found)}" if failed else HOLDS,
            ]
        )
    return rows


_ACCUMULATORS_TEXT = (
    "Sums of products in the accumulators that the criteria give, over all of training. OC: no input "
    "overflows, as long as the weights' sums are those of the float run or less. OP: the probability "
    "that a sum leaves its accumulator is at most the bound, by the statistics of the float run."
)


def _accumulators(chosen: dict) -> list[Section]:
    """Overflows that were counted, and the bound on them; nothing where the sums are exact."""
    assignment = PrecisionAssignment.from_dict(chosen["assignment"])
    met = {key: Overflows(**row) for key, row in chosen["overflows"].items()}
    rows = [
        ["layer", "sums of", "criterion", "bits", "sums", "overflows", "per sum", "bound", "result"]
    ]
    results: dict[str, bool] = {}
    for found in accumulator_overflows(assignment, met):
        results[found.criterion] = found.passed and results.get(found.criterion, True)
        key = f"{found.layer}.{found.tensor}"
        rows.append(
            [
                found.layer,
                text.PRODUCTS[found.tensor],
                found.criterion,
                str(assignment.proposed[key].accumulator.bits),
                f"{met[key].sums:,}",
                f"{met[key].overflows:,}",
                f"{found.value:.2g}",
                f"{found.bound:.2g}",
                HOLDS if found.passed else FAILS,
            ]
        )
    if len(rows) == 1:
        return []
    title = f"Accumulators, measured on {chosen['design']}"
    return [Section("accumulators", title, rows, [_ACCUMULATORS_TEXT], terms=_terms(SUMS, results))]


_MISMATCH_TEXT = (
    "Criterion EFQN: the share of images that the trained float network with weights and "
    "activations in C_o decides otherwise than in float, and the two bounds on it, each over the "
    "same images. The {bound} bound is to be at most {target:g} on the images that were held out of "
    "training, or on the training images where none were. The result compares the share with that "
    "bound; it fails where it is above by more than three standard errors."
)


def _mismatch(mismatch: dict) -> Section:
    header = ["images", "number", "decided otherwise", "tight bound", "the paper's bound", "result"]
    rows = [header]
    for name, row in mismatch["measured"].items():
        shares = (f"{row[key]:.2g}" for key in ("share", "tight", "paper"))
        result = HOLDS if _within(row, row[mismatch["bound"]]) else FAILS
        rows.append([name, f"{row['images']:,}", *shares, result])
    before = [_MISMATCH_TEXT.format(bound=mismatch["bound"], target=mismatch["target"])]
    results = {"EFQN": all(row[-1] == HOLDS for row in rows[1:])}
    return Section("decisions", "Decisions", rows, before, terms=_terms(DECISIONS, results))


def _within(row: dict, bound: float) -> bool:
    """Whether the share of decisions is not above the bound by more than SPREAD standard errors of
    the number expected, of one image at least.
    """
    error = math.sqrt(max(bound * row["images"], 1.0)) / row["images"]
    return row["share"] - SPREAD * error <= bound


def _output_error_text(error: dict) -> str:
    means = ", ".join(
        f"{row['error']:.3g} over {row['images']:,} {name} images"
        for name, row in error["measured"].items()
    )
    return (
        "Criterion EFQN: there are no decisions, so that B_min follows from the mean squared "
        "error of the outputs against float. The trained float network with weights and "
        f"activations in C_o has {means}. Over the images that were held out of training, or the "
        f"training images where none were, noise gains expect {error['bound']:.3g}; the target is "
        f"{error['bound_asked']:.3g}, {error['target']:g} of the float network's loss there, "
        f"{error['loss']:.3g} for an output."
    )


def _formats(chosen: dict) -> list[Section]:
    assignment = PrecisionAssignment.from_dict(chosen["assignment"])
    name = chosen["design"]
    found = [
        Section(
            "formats",
            f"Formats of {name}",
            text.assignment_rows(assignment),
            ["The margin says how much finer or wider a format is than its criterion asks."],
            [f"{line[0].upper()}{line[1:]}." for line in text.stochastic_lines(assignment)],
        )
    ]
    if chosen["sums"]:
        found.append(
            Section(
                "sums",
                f"Exact sums of {name}",
                text.sums_rows(chosen),
                ["Bits of an accumulator that adds all products of a sum without loss."],
            )
        )
    return found
