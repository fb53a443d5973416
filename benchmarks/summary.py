"""The tables of README.md and benchmarks/README.md, from the committed result files.

    python benchmarks/summary.py            prints them
    python benchmarks/summary.py --write    puts them between the markers of both files

tests/test_readme.py checks that both show just these.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fxsim.files import write_text
from fxsim.nn.precision import PERTURBATION_CLASSES
from fxsim.report.tables import markdown_table
from fxsim.train.designs import perturbed_name

HERE = Path(__file__).parent
PAGES = (HERE.parent / "README.md", HERE / "README.md")
DESIGNS = ("FL", "FX C_+1", "FX C_o", "FX C_-1", "FX C_-2")
CIFAR_STUDIES = {
    "cifar10-convnet-full": "CIFAR-10 ConvNet, {epochs} epochs",
    "cifar10-convnet-criteria": "CIFAR-10 ConvNet, {epochs} epochs, the gradient at the logits by "
    "the criteria alone",
    "cifar10-resnet-narrow": "CIFAR-10 ResNet, width {width}, {images:,} images, {epochs} epochs",
}
COSTS = {
    "weight_storage": "C_W (Mb)",
    "activation_storage": "C_A (Mb)",
    "training_macs": "C_M (10^9 FA)",
    "communication": "C_C (Mb)",
}
PUBLISHED_FX = (56.5, 1.7, 11.9, 14)
"""Of the CIFAR-10 ConvNet: Sakr and Shanbhag (ICLR 2019), table 1."""
SPEED_FILES = ("step", "products", "elementwise", "scaling", "vectors")


def result(name: str) -> dict | None:
    path = HERE / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def claim_table() -> str:
    """Training loss and test error of each design, mean over the seeds, for both networks."""
    results = [result(f"claim-{network}-convnet") for network in ("digits", "mnist")]
    header = ["design", "digits: training loss", "test error", "MNIST: training loss", "test error"]
    rows = []
    for design in DESIGNS:
        cells = [design.replace("FX ", "")]
        for found in results:
            row = next(row for row in found["summary"] if row["design"] == design)
            loss = row["train_loss"]
            error = row["test_error"]
            cells += [
                f"{loss['mean']:.4f} ± {loss['stdev']:.4f}",
                f"{100 * error['mean']:.2f} ± {100 * error['stdev']:.2f} %",
            ]
        rows.append(cells)
    return markdown_table(header, rows)


def mismatch_table() -> str:
    """Both bounds on p_m and the measured mismatch, for each B_min, on digits."""
    found = result("mismatch-digits-convnet")["rows"]
    header = ["B_min"]
    for images in ("training", "held-out", "test"):
        header += [f"{images}: paper", "tight", "measured"]
    rows = []
    for bits in range(2, 11):
        cells = [str(bits)]
        for images in ("training", "held-out", "test"):
            row = next(row for row in found if (row["images"], row["min_bits"]) == (images, bits))
            cells += [f"{row[key]:.2g}" for key in ("paper", "tight", "measured")]
        rows.append(cells)
    return markdown_table(header, rows)


def paper_mismatch_table() -> str:
    """The paper's bound on p_m and the measured mismatch, for each B_min, on MNIST."""
    found = result("mismatch-mnist-convnet")["rows"]
    rows = []
    for bits in range(2, 9):
        cells = [str(bits)]
        for images in ("train", "test"):
            row = next(row for row in found if (row["images"], row["min_bits"]) == (images, bits))
            cells += [f"{row['bound']:.2g}", f"{row['measured']:.2g}"]
        rows.append(cells)
    return markdown_table(["B_min", "training: paper", "measured", "test: paper", "measured"], rows)


def cifar_table() -> str:
    """FL and FX with C_o side by side, from the studies that train only these."""
    header = ["network", "runs"]
    for design in ("FL", "FX"):
        header += [f"{design}: training loss", "test error"]
    rows = []
    for name, what in CIFAR_STUDIES.items():
        found = result(f"study-{name}")
        cells = [what.format(**found["settings"]), str(len(found["settings"]["seed"]))]
        for design in ("FL", "FX C_o"):
            cells += _outcome(next(row for row in found["summary"] if row["design"] == design), 4)
        rows.append(cells)
    return markdown_table(header, rows)


def costs_of_fx_table() -> str:
    """The four costs of the CIFAR-10 ConvNet at full width beside those of the paper's table."""
    runs = {run["design"]: run["costs"] for run in result("study-cifar10-convnet-full")["runs"]}
    rows = []
    measured = [[_unit(runs[design], cost) for cost in COSTS] for design in ("FL", "FX C_o")]
    for what, numbers in (
        ("FL", measured[0]),
        ("FX", measured[1]),
        ("FX, published", PUBLISHED_FX),
    ):
        rows.append([what, *(f"{number:.3g}" for number in numbers)])
    for what, numbers in (("FL / FX", measured[1]), ("FL / FX, published", PUBLISHED_FX)):
        ratios = (full / number for full, number in zip(measured[0], numbers))
        rows.append([what, *(f"{ratio:.1f}" for ratio in ratios)])
    return markdown_table(["", *COSTS.values()], rows)


def study_table() -> str:
    """The five designs on the narrow CIFAR-10 ConvNet.

    A short study over several seeds, and a longer one.
    """
    studies = [result(f"study-cifar10-convnet-{name}") for name in ("narrow", "binarized")]
    header = [""]
    for found in studies:
        images = found["settings"]["images"] or 50_000
        header += [
            f"{images:,} images, {found['settings']['epochs']} epochs: training loss",
            "test error",
        ]
    rows = []
    for design in ("FL", "FX C_o", "BN", "SQ", "TG"):
        cells = [
            _outcome(row, 3)
            for found in studies
            for row in found["summary"]
            if row["design"] == design
        ]
        rows.append([design, *cells[0], *(cells[1] if cells[1:] else ["", ""])])
    return markdown_table(header, rows)


def sensitivity_table() -> str:
    """Test error of the narrow CIFAR-10 ConvNet with bits added to or taken from one class of
    C_o's tensors.
    """
    found = {row["design"]: row for row in result("study-cifar10-convnet-narrow")["summary"]}
    classes = [only.replace("_", " ") for only in PERTURBATION_CLASSES]
    rows = []
    for bits in (-2, -1, 0, 1):
        names = [perturbed_name(bits, only) for only in (None, *PERTURBATION_CLASSES)]
        errors = (_outcome(found[name], 3)[1] for name in names)
        rows.append([f"{bits:+d}" if bits else "C_o", *errors])
    return markdown_table(["bits", "all tensors", *classes], rows)


def costs_table() -> str:
    """The four costs of every design of the paper's networks."""
    rows = [
        [row["network"], row["design"], *(f"{_unit(row, cost):.3g}" for cost in COSTS)]
        for row in result("costs")["rows"]
    ]
    return markdown_table(["network", "design", *COSTS.values()], rows)


def same_bits_table() -> str:
    """What must come out bit-identical at the size of real runs, and did or did not."""
    kills = result("sigkill")
    steps = result("steps-cifar10-resnet")
    threads = " and ".join(str(run["threads"]) for run in steps["runs"])
    rows = [
        [
            "weights and results of a run killed at a random moment (SIGKILL) and resumed",
            f"{kills['identical']} of {kills['kills']}",
        ],
        [
            f"{len(steps['runs'][0]['steps'])} steps of `{steps['runs'][0]['network']}` at full "
            f"width with {threads} threads",
            "yes" if steps["same_bits"] else "no",
        ],
    ]
    return markdown_table(["what", "equal"], rows)


def _outcome(row: dict, places: int) -> list[str]:
    """Training loss and test error of a summary's row, with their deviations where there are
    several seeds.
    """
    loss = row["train_loss"]
    error = row["test_error"]
    if row["seeds"] == 1:
        return [f"{loss['mean']:.{places}f}", f"{100 * error['mean']:.2f} %"]
    return [
        f"{loss['mean']:.{places}f} ± {loss['stdev']:.{places}f}",
        f"{100 * error['mean']:.2f} ± {100 * error['stdev']:.2f} %",
    ]


def _unit(costs: dict, cost: str) -> float:
    """Millions of bits; of the MACs' cost, thousand millions of full adders."""
    return costs[cost] / (1e9 if cost == "training_macs" else 1e6)


def speed_table() -> str:
    """The ratios that the committed benchmark results hold, with their targets.

    Layers have a table of their own.
    """
    results = [result(name) or {} for name in SPEED_FILES]
    processors = dict.fromkeys(found["machine"]["processor"] for found in results if found)
    rows = []
    for found in results:
        for row in found.get("ratios", []):
            if "path" in row:
                continue
            value = f"{row['ratio']:.2f}" if "ratio" in row else f"{row['seconds']:.2f} s"
            rows.append([row["what"], value, row["target"]])
    return markdown_table(["what", f"measured on {' and '.join(processors)}", "target"], rows)


MAIN_RATIOS = (
    "PyTorch float32 step / fixed-point step",
    "QPyTorch step / fixed-point step",
    "exact product, 8-bit by 8-bit, / PyTorch int8",
    "saturating 16-bit accumulator, 512^3, fxsim / APyTypes",
    "peak memory of the step above imports, fxsim / PyTorch",
)


def speed_summary() -> str:
    """The rows of the speed table that the README shows."""
    header, line, *rows = speed_table().splitlines()
    chosen = [row for row in rows if row.split("|")[1].strip() in MAIN_RATIOS]
    return "\n".join([header, line, *chosen])


def layers_table() -> str:
    """Rate of each product of each layer as a share of the square product of its kind, and of
    the processor's peak.
    """
    found = (result("products") or {"ratios": []})["ratios"]
    rates = {
        row["what"]: f"{row['ratio']:.2f} ({row['peak_share']:.2f})"
        for row in found
        if "path" in row
    }
    header = ["layer", "forward", "input gradient", "weight gradient", "forward in bytes"]
    rows = []
    for layer in dict.fromkeys(what.split()[0] for what in rates):
        whats = (
            f"{layer} {what}"
            for what in ("forward", "input_grad", "weight_grad", "forward, 8-bit weights")
        )
        rows.append([layer, *(rates.get(what, "") for what in whats)])
    return markdown_table(header, rows)


def rtl_table() -> str:
    """Cases in which RTL, kernel and twin were compared, and in how many they differ, by unit
    and simulator.
    """
    found = result("rtl-cases")
    rows = []
    groups = list(dict.fromkeys((row["unit"], row["simulator"]) for row in found["rows"]))
    for unit, simulator in groups:
        chosen = [
            row for row in found["rows"] if (row["unit"], row["simulator"]) == (unit, simulator)
        ]
        tool = " ".join(
            found["simulators"][simulator]
            .replace(" version", "")
            .split()[: simulator.count(" ") + 2]
        )
        rows.append([unit, tool, _formats(chosen), *_cases(chosen)])
    rows.append(["all", "", "", *_cases(found["rows"])])
    return markdown_table(["unit", "simulator", "formats", "cases", "differences"], rows)


def _formats(rows: list[dict]) -> str:
    if "input" not in rows[0]:
        return "; ".join(
            f"{' x '.join(row['operands'])} into {row['accumulator_bits']}" for row in rows
        )
    least, most = rows[-1]["dropped_bits"]
    outputs = "{} to {}".format(*rows[-1]["output_bits"])
    return (
        f"{rows[0]['input']}, {rows[1]['input']} ... {rows[-2]['input']}, {rows[-1]['input']} to "
        f"signed and unsigned of "
        f"{outputs} bits; {least} to {most} bits dropped"
    )


def _cases(rows: list[dict]) -> list[str]:
    return [f"{sum(row[name] for row in rows):,}" for name in ("cases", "differences")]


TABLES = {
    "claim": claim_table,
    "mismatch": mismatch_table,
    "mismatch-mnist": paper_mismatch_table,
    "cifar": cifar_table,
    "costs-of-fx": costs_of_fx_table,
    "study": study_table,
    "sensitivity": sensitivity_table,
    "costs": costs_table,
    "same-bits": same_bits_table,
    "speed": speed_table,
    "speed-summary": speed_summary,
    "layers": layers_table,
    "rtl": rtl_table,
}


def marked(text: str) -> str:
    """A page's text with each table between `<!-- table NAME -->` and `<!-- end NAME -->` made
    anew.
    """
    for name, table in TABLES.items():
        start = f"<!-- table {name} -->\n"
        end = f"<!-- end {name} -->"
        if start in text:
            before, _, rest = text.partition(start)
            text = before + start + table() + "\n" + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    if "--write" in sys.argv:
        for page in PAGES:
            write_text(page, marked(page.read_text()))
    else:
        print("\n\n".join(table() for table in TABLES.values()))
