"""report.md: what an experiment came to, in tables and plots."""

from __future__ import annotations

from collections.abc import Sequence

from fxsim.accumulator import Overflows
from fxsim.analysis.assign import ROUNDED_GRADIENTS
from fxsim.analysis.fixed_run import SPREAD, accumulator_overflows
from fxsim.formats import STOCHASTIC
from fxsim.nn.precision import PrecisionAssignment
from fxsim.report import text
from fxsim.report.tables import markdown_table

CRITERIA = {
    "GC": "gradients that clip",
    "RQB": "relative quantization bias of weight gradients",
    "BQN": "noise reflected from activation gradients, share of the weight gradients' own",
    "GF": "sum of activation gradients that is flushed",
    "AS": "updates that are lost below the accumulator's step",
}
TITLES = {
    "curves": "Convergence",
    "bits": "Bits of every tensor",
    "sensitivity": "Sensitivity by class of tensors",
    "ranges": "Ranges and steps over the values' magnitudes",
}


def report_markdown(data: dict, sensitivity: Sequence[dict], plots: Sequence[str]) -> str:
    """The report on the plain data of results.json.

    sensitivity: rows of study.sensitivity.  plots: names of image files beside it, of which the
    PNG ones are shown.
    """
    designs = data["designs"]
    settings = data["identity"]["settings"]
    chosen = text.chosen_design([row for row in designs if row["measured"]])
    parts = [
        f"# {settings['network']} on {settings['dataset']}",
        _introduction(data),
        "## Designs",
        "In brackets the cost as a share of float's. C_A and C_M are for one image.",
        _table(text.designs_rows(designs)),
    ]
    if sensitivity:
        parts += [
            "## Sensitivity",
            "Bits added to C_o in all tensors, or in one class of them.",
            _table(_sensitivity_rows(sensitivity)),
        ]
    if chosen:
        parts += [
            f"## Criteria, measured on {chosen['design']}",
            _CRITERIA_TEXT,
            _table(_criteria_rows(chosen["measured"])),
            *_rounding_text(chosen),
        ]
    if chosen:
        parts += _accumulators(chosen)
    if "mismatch" in data:
        mismatch = data["mismatch"]
        parts += [
            "## Decisions",
            _MISMATCH_TEXT.format(bound=mismatch["bound"], target=mismatch["target"]),
            _table(_mismatch_rows(mismatch)),
        ]
    if "output_error" in data:
        parts += ["## Outputs", _output_error_text(data["output_error"])]
    if chosen:
        formats = text.assignment_table(PrecisionAssignment.from_dict(chosen["assignment"]))
        parts += ["## Formats", f"```text\n{formats}\n```"]
    parts += [_plot(name) for name in plots if name.endswith(".png")]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its header."""
    header, *rows = rows
    return markdown_table(header, rows)


def _introduction(data: dict) -> str:
    settings = data["identity"]["settings"]
    first = data["designs"][0]
    return (
        f"`{first['command']}`\n\n{settings['epochs']} epochs in batches of {settings['batch']}, "
        f"learning rate "
        f"{settings['learning_rate']:g}, width {settings['width']:g}, seed {settings['seed']}; "
        f"{first['machine']['processor']}, fxsim {first['machine']['versions']['fxsim']}."
    )


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


def _criteria_rows(measured: dict) -> list[list[str]]:
    rows = [["criterion", "what", "moment", "worst", "tensor", "bound", ""]]
    groups = dict.fromkeys((row["criterion"], row["moment"]) for row in measured["criteria"])
    for criterion, moment in sorted(groups, key=lambda group: list(CRITERIA).index(group[0])):
        found = [
            row
            for row in measured["criteria"]
            if (row["criterion"], row["moment"]) == (criterion, moment)
        ]
        worst = max(found, key=lambda row: row["value"] - SPREAD * row["error"])
        failed = sum(not row["passed"] for row in found)
        spread = f" ± {SPREAD * worst['error']:.2%}" if worst["error"] else ""
        rows.append(
            [
                criterion,
                CRITERIA[criterion],
                moment,
                f"{worst['value']:.2%}{spread}",
                f"{worst['layer']} {text.ALL_SYMBOLS[worst['tensor']]}",
                f"{worst['bound']:.0%}",
                f"fails in {failed} of {len(found)}" if failed else "holds",
            ]
        )
    return rows


_ACCUMULATORS_TEXT = (
    "Sums of products in the accumulators that the criteria give, over all of training. OC: no input "
    "overflows, as long as the weights' sums are those of the float run or less. OP: the probability "
    "that a sum leaves its accumulator is at most the bound, by the statistics of the float run."
)


def _accumulators(chosen: dict) -> list[str]:
    """Overflows that were counted, and the bound on them; nothing where the sums are exact."""
    assignment = PrecisionAssignment.from_dict(chosen["assignment"])
    met = {key: Overflows(**row) for key, row in chosen["overflows"].items()}
    rows = [["layer", "sums of", "criterion", "bits", "sums", "overflows", "per sum", "bound", ""]]
    for found in accumulator_overflows(assignment, met):
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
                "holds" if found.passed else "fails",
            ]
        )
    if len(rows) == 1:
        return []
    title = f"## Accumulators, measured on {chosen['design']}"
    return [title, _ACCUMULATORS_TEXT, _table(rows)]


_MISMATCH_TEXT = (
    "Criterion EFQN: the share of images that the trained float network with weights and "
    "activations in C_o decides otherwise than in float, and the two bounds on it, each over the "
    "same images. The {bound} bound is to be at most {target:g} on the images that were held out of "
    "training, or on the training images where none were."
)


def _mismatch_rows(mismatch: dict) -> list[list[str]]:
    rows = [["images", "number", "decided otherwise", "tight bound", "the paper's bound"]]
    return rows + [
        [name, f"{row['images']:,}", *(f"{row[key]:.2g}" for key in ("share", "tight", "paper"))]
        for name, row in mismatch["measured"].items()
    ]


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


def _plot(name: str) -> str:
    title = TITLES[name.partition(".")[0]]
    return f"## {title}\n\n![{title}]({name})"
