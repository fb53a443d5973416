"""What the commands print: tables of an assignment, of designs, of costs, of the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fxsim.analysis.complexity import Complexity
from fxsim.analysis.scaling import Exchange, Scaling
from fxsim.analysis.statistics import Statistics
from fxsim.formats import STOCHASTIC, Format
from fxsim.machine import JIT_DISABLED
from fxsim.nn.layer_precision import SYMBOLS, TENSORS
from fxsim.nn.precision import PERTURBATION_CLASSES, PrecisionAssignment
from fxsim.nn.spec import Network
from fxsim.report.tables import text_table
from fxsim.train.designs import perturbed_name
from fxsim.words import Philox, source_text

ALL_SYMBOLS = SYMBOLS | {"preactivation_grads": "G^Z"}
"""Those of the method's tensors, and of batch norm's gradient at the pre-activations."""

METRICS = {
    "weight_storage": ("C_W", "b"),
    "activation_storage": ("C_A", "b"),
    "training_macs": ("C_M", "FA"),
    "communication": ("C_C", "b"),
}
"""Metric -> the paper's symbol and unit: bits, one-bit full adders."""

NOTABLE_OVERFLOWS = 0.01
"""Overflows of an accumulator per sum, above which they are reported."""

MOST_NAMED = 3
"""Designs that a remark names."""

NOTABLE_CLIPPING = 0.05
NOTABLE_FLUSHING = 0.5
"""Shares of a tensor's elements above which its clipping or flushing is reported.

5 % is criterion GC's bound.
"""


def chosen_design(designs: Sequence[dict]) -> dict | None:
    """The design of results.json whose formats are shown: one that was measured before others, and
    C_o before others; None where none has formats.
    """
    fixed = [row for row in designs if row["assignment"]]
    return min(
        fixed,
        key=lambda row: (not row["measured"], row["design"] != perturbed_name(0)),
        default=None,
    )


def float_row(designs: Sequence[dict]) -> dict | None:
    """The float design of results.json; None where it was not trained."""
    return next((row for row in designs if row["design"] == "FL"), None)


def assignment_rows(assignment: PrecisionAssignment) -> list[list[str]]:
    """A header, and a row for each tensor of each layer: bits, range, step, criterion, margin."""
    rows = [["layer", "tensor", "range", "step", "bits", "criterion", "margin"]]
    for name, layer in assignment.layers.items():
        given = layer.given()
        for tensor, symbol in ALL_SYMBOLS.items():
            format = given.get(tensor)
            if format is None:
                if tensor in TENSORS:
                    rows.append([name, symbol, "", "", "0", "none", ""])
                continue
            reason = assignment.reasons.get((name, tensor))
            rows.append(
                [
                    name,
                    symbol,
                    _range(format),
                    f"2^{format.step_exp}",
                    str(format.bits),
                    *((reason.criterion, f"{reason.margin:.2f}x") if reason else ("given", "")),
                ]
            )
    return rows


def stochastic_lines(assignment: PrecisionAssignment) -> list[str]:
    """Which tensors round stochastically, a line for each source of random words."""
    found: dict[str, list[str]] = {}
    for tensor, symbol in ALL_SYMBOLS.items():
        if assignment.rounding_of(tensor) in STOCHASTIC:
            found.setdefault(randomness(assignment, tensor), []).append(symbol)
    return [f"rounded stochastically, {how}: {', '.join(names)}" for how, names in found.items()]


def assignment_table(assignment: PrecisionAssignment) -> str:
    """Bits, range, step and criterion of every layer's tensors, in the paper's symbols; then which
    of them round stochastically.
    """
    header, *rows = assignment_rows(assignment)
    first = SYMBOLS[TENSORS[0]]
    shown = [[name if symbol == first else "", symbol, *rest] for name, symbol, *rest in rows]
    table = text_table(header, shown, "llllrrr")
    lines = stochastic_lines(assignment)
    return "\n".join([table, "", *lines] if lines else [table])


WITHOUT_BIAS = "without bias"


def randomness(assignment: PrecisionAssignment, tensor: str) -> str:
    """How a tensor rounds stochastically: WITHOUT_BIAS, or by which source of words."""
    if assignment.rounding_of(tensor) != "stochastic":
        return "up or down alike"
    sources = [assignment.words_of(layer, tensor) for layer in assignment.layers]
    if all(source == Philox() for source in sources):
        return WITHOUT_BIAS
    return f"by {' and '.join(dict.fromkeys(map(source_text, sources)))}"


PRODUCTS = {"forward": "Z", "weight_grad": "G^W", "input_grad": "G^A below"}
"""Kind of product -> what its sums become."""


def proposals_table(assignment: PrecisionAssignment) -> str:
    """Bits and criterion of the accumulators that are proposed, product after product; and how many
    of the last bits of products may be dropped.
    """
    header = ("layer", "sums of", "terms", "bits", "criterion", "margin", "droppable")
    rows = []
    for key, proposal in assignment.proposed.items():
        layer, _, kind = key.rpartition(".")
        reason = proposal.reason
        terms, dropped = map(reason.statistic.get, ("terms", "droppable_bits"))
        rows.append(
            [
                layer,
                PRODUCTS[kind],
                f"{terms:,.0f}" if terms is not None else "",
                str(proposal.accumulator.bits),
                reason.criterion,
                f"{reason.margin:.2f}x",
                f"{dropped:.0f}" if dropped is not None else "",
            ]
        )
    return text_table(header, rows, "llrrrrr")


def _range(format: Format) -> str:
    bound = f"{2**format.range_exp}" if 0 <= format.range_exp <= 10 else f"2^{format.range_exp}"
    return f"[-{bound}, {bound})" if format.signed else f"[0, {bound})"


def sums_table(design: dict) -> str:
    """Bits of an accumulator that adds without loss; see sums_rows."""
    header, *rows = sums_rows(design)
    return text_table(header, rows, "llrrr")


def sums_rows(design: dict) -> list[list[str]]:
    """A header, and for each layer the kernel paths and the bits of an accumulator that adds
    without loss, for its three products.

    Where there is an accumulator of another width: '26, has 16'.
    """
    rows = [["layer", "kernel", *PRODUCTS.values()]]
    for layer, sums in design["sums"].items():
        paths = ", ".join(dict.fromkeys(row["path"] for row in sums.values()))
        rows.append(
            [layer, paths, *(_sum_bits(sums[name]) if name in sums else "-" for name in PRODUCTS)]
        )
    return rows


def _sum_bits(row: dict) -> str:
    has = row.get("accumulator", "").partition(" ")[0]
    return f"{row['bits']}, has {has}" if has else str(row["bits"])


def imported_text(network: Network, differences: Mapping[str, float]) -> str:
    """The layers of an imported network: weights, output, and the difference to ONNX Runtime's
    output as a share of its largest; without differences, why there are none.
    """
    rows = []
    for name in network.names:
        shape = network.shape(name)
        output = "x".join(map(str, shape.output))
        off = [f"{differences[name]:.1e}"] if differences else []
        rows.append([name, f"{shape.weights:,}", output, *off])
    header = ["layer", "weights", "output", *(["difference"] if differences else [])]
    if differences:
        end = "difference: to ONNX Runtime's output, as a share of the largest there"
    else:
        end = "not compared with ONNX Runtime: it is not installed"
    return f"{text_table(header, rows)}\n\n{end}"


def designs_table(designs: Sequence[dict]) -> str:
    """Designs of results.json side by side; see designs_rows."""
    header, *rows = designs_rows(designs)
    return text_table(header, rows)


def designs_rows(designs: Sequence[dict]) -> list[list[str]]:
    """A header and a row for each design: error (or loss, where nothing is decided) on the test
    set, training loss, the four costs and their share of FL's.
    """
    reference = float_row(designs)
    of_float = reference["costs"]["total"] if reference else {}
    units = {metric: cost_unit(designs, metric) for metric in METRICS}
    header = ["design", tested_header(designs), "train loss"]
    header += [f"{symbol} [{units[metric][1]}]" for metric, (symbol, _) in METRICS.items()]
    rows = []
    for row in designs:
        costs = row["costs"]["total"]
        cells = (_cost(costs[metric], units[metric][0], of_float.get(metric)) for metric in METRICS)
        rows.append([row["design"], *tested_cells(row), *cells])
    return [header, *rows]


def sweep_table(data: dict) -> str:
    """The points of sweep.json: what was asked, error (or test loss) and loss, costs as shares of
    float's.
    """
    reference = data["float"]
    rows = []
    for row in [reference, *data["rows"]]:
        asked = "" if row["target"] is None else f"{row['target']:g}"
        costs = (f"{row[metric] / reference[metric]:.3f}" for metric in METRICS)
        bits = f"{row['bits']:+d}" if row["bits"] else ""
        rows.append([row["design"], asked, bits, *tested_cells(row), *costs])
    symbols = (symbol for symbol, _ in METRICS.values())
    header = ("design", "target", "bits", tested_header([reference]), "train loss", *symbols)
    return text_table(header, rows)


def compared(designs: Sequence[dict]) -> list[dict]:
    """The designs of results.json that curves show: all but those with one class of tensors
    perturbed, which sensitivity is for.
    """
    classes = tuple(PERTURBATION_CLASSES)
    return [row for row in designs if not row["design"].endswith(classes)] or list(designs)


def tested_header(rows: Sequence[dict]) -> str:
    """What the test set tells of designs of results.json: their error, or their loss where they
    decide nothing.
    """
    return "test loss" if any(row["test_error"] is None for row in rows) else "test error"


def tested_cells(row: dict) -> list[str]:
    """What the test set tells, and the training loss."""
    if row["test_error"] is None:
        return [f"{row['test_loss']:.4g}", f"{row['train_loss']:.4g}"]
    return [f"{row['test_error']:.2%}", f"{row['train_loss']:.4f}"]


def statistics_table(statistics: Statistics) -> str:
    """What was measured of every layer, in the symbols of the method."""
    columns = {
        "E_W": statistics.weights_gain,
        "E_A": statistics.activations_gain,
        "max sigma G^W": statistics.weight_grads_sigma_max,
        "min sigma G^W": statistics.weight_grads_sigma_min,
        "max sigma G^A": statistics.activation_grads_sigma_max,
        "lambda_max": statistics.lambda_max,
    }
    rows = [
        [layer, *(f"{values[row]:.3g}" for values in columns.values())]
        for row, layer in enumerate(statistics.layers)
    ]
    return text_table(("layer", *columns), rows)


def _cost(value: int, unit: float, reference: int | None) -> str:
    return f"{value / unit:,.3g}" + (f" ({value / reference:.2f})" if reference else "")


def cost_unit(designs: Sequence[dict], metric: str) -> tuple[float, str]:
    """The power of 1000 that suits a cost of these designs, and the unit with its prefix."""
    scale, prefix = _unit(max(row["costs"]["total"][metric] for row in designs))
    return scale, prefix + METRICS[metric][1]


def _unit(value: int) -> tuple[float, str]:
    """The power of 1000 that leaves `value` between 1 and 1000, and its prefix."""
    return next(
        (scale, prefix)
        for scale, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))
        if value >= scale or scale == 1
    )


def remarks(designs: Sequence[dict]) -> list[str]:
    """One line for each tensor that clipped or flushed, and each product that overflowed, more than
    is usual, with the designs in which it did.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for row in designs:
        for tensor, counts in row["counts"].items():
            clipped = (counts["below"] + counts["above"]) / counts["elements"]
            flushed = counts["flushed"] / counts["elements"]
            for what, share, bound in (
                ("clipped", clipped, NOTABLE_CLIPPING),
                ("flushed", flushed, NOTABLE_FLUSHING),
            ):
                if share > bound:
                    found.setdefault((tensor, what), []).append(f"{share:.1%} in {row['design']}")
        for product, met in row.get("overflows", {}).items():
            if met["overflows"] > NOTABLE_OVERFLOWS * met["sums"]:
                share = met["overflows"] / met["sums"]
                found.setdefault((product, "overflows per sum"), []).append(
                    f"{share:.2g} in {row['design']}"
                )
    return [
        f"{tensor}: {what} {', '.join(where[:MOST_NAMED])}"
        + (f" and {len(where) - MOST_NAMED} more" if len(where) > MOST_NAMED else "")
        for (tensor, what), where in found.items()
    ]


def cost_table(costs: Complexity) -> str:
    """The four metrics of each layer and in total."""
    total = costs.total
    units = {metric: _unit(getattr(total, metric)) for metric in METRICS}
    header = [
        "layer",
        *(f"{symbol} [{units[metric][1]}{unit}]" for metric, (symbol, unit) in METRICS.items()),
    ]
    rows = [
        [name, *(f"{getattr(cost, metric) / units[metric][0]:,.4g}" for metric in METRICS)]
        for name, cost in (*costs.layers.items(), ("total", total))
    ]
    return text_table(header, rows)


def exchange_table(found: Exchange) -> str:
    """Bytes of every tensor that is exchanged, layer after layer, of the counts and of all."""
    tensors = list(dict.fromkeys(tensor for own in found.layers.values() for tensor in own))
    rows = [
        [name, *(f"{own[tensor]:,}" if tensor in own else "-" for tensor in tensors)]
        for name, own in found.layers.items()
    ]
    empty = [""] * (len(tensors) - 1)
    rows += [["counts", f"{found.counts:,}", *empty], ["all", f"{found.bytes:,}", *empty]]
    return text_table(["layer", *(f"{tensor} [B]" for tensor in tensors)], rows)


def scaling_line(predicted: Scaling) -> str:
    """What a step on several ranks takes."""
    return (
        f"{predicted.workers} ranks: {predicted.seconds:.4g} s a step, of these "
        f"{predicted.exchange_seconds:.4g} s for the exchange; {predicted.speedup:.3g} times as "
        "fast as one"
    )


def info_text(machine: dict, cache: dict) -> str:
    """What `fxsim info` prints, from machine.describe() and machine.kernel_cache()."""
    if cache["folder"]:
        where = f"{cache['folder']} ({'writable' if cache['writable'] else 'not writable'})"
    else:
        why = (
            "nothing is compiled"
            if JIT_DISABLED
            else "no folder can be written; NUMBA_CACHE_DIR names another"
        )
        where = f"none: {why}"
    rows = {
        "processor": f"{machine['processor']}, {machine['cores']} cores, {machine['system']}",
        "features": " ".join(machine["features"]) or "none of those that matter here",
        "kernel paths": f"{', '.join(machine['kernels']['available'])}; chosen: "
        f"{machine['kernels']['chosen']}",
        "threads": f"{machine['threads']} (NUMBA_NUM_THREADS sets fewer)",
        "kernel cache": where,
        **{name: version or "not installed" for name, version in machine["versions"].items()},
    }
    return text_table(None, rows.items(), "ll")
