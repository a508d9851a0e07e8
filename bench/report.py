"""From the figures to the table on the terminal and the page in the documentation.

    python -m bench.report [FIGURES]     writes docs/performance.md

What people wrote on the page stays: only what lies between the two marks is ours.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.comparison import OURS, Comparison, compare
from bench.plots import draw
from bench.results import Cell, Results
from bench.rows import Row
from bench.run import ROWS
from bench.targets import (
    CRAWL_GROWTH_MB,
    PEAK_MB,
    TARGET_MB,
    Target,
    targets_of,
)

FIGURES: Final = Path("bench-results/figures.json")
PAGE: Final = Path("docs/performance.md")
BEGIN: Final = "<!-- written by python -m bench.report: begin -->"
END: Final = "<!-- written by python -m bench.report: end -->"
NEW_PAGE: Final = "# Performance\n\nHow it is measured: docs/performance.md\n"
PEERS: Final = (OURS, "sshfs", "rclone", "ssh")
MB: Final = 1e6
GIB_IN_MIB: Final = 1024
STREAMS: Final = ("seq-read", "seq-write", "eight-reads")

Line = Sequence[str]


def table(results: Results) -> str:
    """Return the table of all rows, and those of memory, growth and the relay."""
    parts = [_speed(results), _cost(results), _growth(results), _relay(results)]
    return "\n".join(part for part in parts if part)


def page(results: Results) -> str:
    """Return what goes between the marks of the page."""
    plots = "".join(
        f"![{title}](performance/{name}.svg)\n\n"
        for name, title in (
            ("ratios", "how many times faster than the better peer"),
            ("streams", "megabytes per second"),
            ("trees", "seconds for walks and small files"),
        )
    )
    return f"{_method(results)}\n{table(results)}\n{plots}{_failures(results)}"


def merged(old: str, new: str) -> str:
    """Return the page ``old`` with ``new`` between its marks, or at its end."""
    if BEGIN not in old or END not in old:
        old = f"{old.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{new.strip()}\n\n{END}{after}"


def _measured_rows(results: Results) -> list[Row]:
    names = {cell.row for cell in results.cells}
    return [row for row in ROWS if row.name in names]


def _speed(results: Results) -> str:
    lines = [
        line
        for row in _measured_rows(results)
        if not _is_growth(row)
        for rtt_ms in results.rtts()
        for line in _speed_lines(results, row, rtt_ms)
    ]
    head = ("row", "ms", "size", *PEERS, "pamfs is", "target", "")
    return _section("Speed", head, lines)


def _speed_lines(results: Results, row: Row, rtt_ms: float) -> Iterator[Line]:
    cells = [results.cell(row.name, peer, rtt_ms) for peer in PEERS]
    size = next((cell.size for cell in cells if cell), None)
    if size is None:
        return
    wanted = [t for t in targets_of(row.name) if rtt_ms in t.at_least]
    targets: Sequence[Target | None] = wanted or [None]
    shown = [_value(row, cell) for cell in cells]
    for number, target in enumerate(targets):
        found = compare(results, row, rtt_ms, target)
        verdict = _verdict(found, target.at_least[rtt_ms] if target else None)
        first = (row.title, f"{rtt_ms:g}", f"{size:,} {row.counts}", *shown)
        yield (*(first if number == 0 else [""] * len(first)), *verdict)


def _value(row: Row, cell: Cell | None) -> str:
    if cell is None:
        return ""
    if cell.median is None:
        return cell.failure if cell.failure.startswith(">") else "failed"
    late = "*" if cell.closed_early else ""
    failed = "!" if cell.failure else ""
    spread = f" ±{50 * cell.spread:.0f}%" if len(cell.samples) > 1 else ""
    return f"{_figure(cell.median)} {row.value.unit.value}{spread}{late}{failed}"


def _figure(value: float) -> str:
    """Return a number with three digits that count, never as a power of ten."""
    for least, digits in ((100, 0), (10, 1), (1, 2)):
        if value >= least:
            return f"{value:,.{digits}f}"
    return f"{value:.3f}"


def _verdict(found: Comparison | None, wanted: float | None) -> Line:
    target = f">= {wanted:g}x" if wanted is not None else ""
    if found is None:
        return "", target, "not measured" if target else ""
    sign = ">= " if found.at_least else ""
    ratio = f"{sign}{found.ratio:.2f}x {found.against}"
    if found.holds is None:
        return ratio, target, ""
    return ratio, target, "met" if found.holds else "missed"


def _cost(results: Results) -> str:
    lines = []
    for row in _measured_rows(results):
        cells = [_worst_peak(results, row, peer) for peer in PEERS[:3]]
        if any(cells) and not _is_growth(row):
            peaks = [_megabytes(cell.peak_bytes) if cell else "" for cell in cells]
            cpu = [_cpu_per_gib(results, row, peer) for peer in PEERS]
            met = _within(cells[0])
            lines.append((row.title, *peaks, met, *cpu))
    head = (
        "row",
        *(f"{peer}, MB" for peer in PEERS[:3]),
        f"<= {PEAK_MB:g} MB",
        *(f"{peer}, CPU s/GiB" for peer in PEERS),
    )
    return _section("Peak memory of the peer's processes, and their CPU", head, lines)


def _within(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return "met" if cell.peak_bytes <= PEAK_MB * MB else "missed"


def _worst_peak(results: Results, row: Row, peer: str) -> Cell | None:
    found = [results.cell(row.name, peer, rtt_ms) for rtt_ms in results.rtts()]
    cells = [cell for cell in found if cell and cell.samples]
    return max(cells, key=lambda cell: cell.peak_bytes, default=None)


def _cpu_per_gib(results: Results, row: Row, peer: str) -> str:
    cell = results.cell(row.name, peer, results.rtts()[0])
    if row.name not in STREAMS or cell is None or not cell.samples:
        return ""
    total = sum(sample.cpu_s for sample in cell.samples) / len(cell.samples)
    return f"{total * GIB_IN_MIB / cell.size:.2f}"


def _growth(results: Results) -> str:
    lines = []
    for row in _measured_rows(results):
        if _is_growth(row):
            for peer in PEERS:
                cell = results.cell(row.name, peer, results.rtts()[0])
                if cell:
                    peak = _megabytes(cell.peak_bytes) if cell.samples else ""
                    size = f"{cell.size:,} {row.counts}"
                    lines.append((row.title, size, peer, _value(row, cell), peak))
    text = _section("Growth", ("row", "size", "peer", "time", "peak MB"), lines)
    return text + "".join(f"{line}\n" for line in _growth_verdicts(results))


def _growth_verdicts(results: Results) -> Iterator[str]:
    crawl = _risen(results, "growth-1k", "growth-100k")
    if crawl is not None:
        risen, _ = crawl
        met = "met" if risen <= CRAWL_GROWTH_MB * MB else "missed"
        yield (
            f"\nFrom the least to the greatest tree pamfs grows by"
            f" {_megabytes(risen)} MB (target: {CRAWL_GROWTH_MB:g}): {met}."
        )
    opened = _risen(results, "targets-1", "targets-200")
    if opened is not None:
        risen, more = opened
        met = "met" if risen <= TARGET_MB * MB * more else "missed"
        yield (
            f"\nEach open target costs {risen / more / MB:.2f} MB"
            f" (target: {TARGET_MB:g}): {met}."
        )


def _risen(results: Results, few: str, many: str) -> tuple[int, int] | None:
    """Return how much more memory pamfs had with how many more."""
    rtt_ms = results.rtts()[0]
    less, more = (results.cell(name, OURS, rtt_ms) for name in (few, many))
    if not (less and more and less.samples and more.samples):
        return None
    return more.peak_bytes - less.peak_bytes, more.size - less.size


def _relay(results: Results) -> str:
    lines = [
        (
            f"{found['rtt_ms']:g}",
            f"{found['gb_s']:.2f}",
            f"{found['direct_gb_s']:.2f}",
            f"{found['ping_ms']:.2f}",
        )
        for found in results.relay
    ]
    head = ("ms", "GB/s", "GB/s without it", "round trip measured, ms")
    return _section("The relay itself", head, lines)


def _method(results: Results) -> str:
    facts = results.facts
    machine, versions = facts["machine"], facts["versions"]
    caches = "dropped" if facts["caches_dropped"] else "NOT dropped (not allowed)"
    size = " Quick run: small sizes." if facts["quick"] else ""
    return (
        f"Measured with `make bench` at commit {versions['commit']} on"
        f" {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB,"
        f" {machine['system']}, Linux {machine['kernel']}, Python"
        f" {machine['python']}; load {facts['load_before']} before and"
        f" {facts['load_after']} at the end; {facts['took_s']} s in all.{size}\n\n"
        + "".join(f"- {name}: {text}\n" for name, text in versions.items())
        + f"\n{_METHOD.format(caches=caches, runs=facts['runs'], **facts_of(facts))}"
    )


def facts_of(facts: dict[str, object]) -> dict[str, object]:
    """Return the facts that the text of the method names."""
    return {"cipher": facts["cipher"], "limit": facts["limit_s"]}


_METHOD: Final = """\
Cipher: {cipher}. The page cache was {caches} before each run. {runs} runs of each,
fewer where one takes long; the figure is the median, ± half of the spread. What took
over {limit} s was stopped and is shown so. `*`: the program had ended before all was
stored. `!`: a run failed.
"""


def _failures(results: Results) -> str:
    failed = [
        f"- {cell.row} at {cell.rtt_ms:g} ms, {cell.peer}: {cell.failure}\n"
        for cell in results.cells
        if cell.failure and not cell.failure.startswith(">")
    ]
    return "### What failed\n\n" + "".join(failed) if failed else ""


def _is_growth(row: Row) -> bool:
    return row.setting.only_near


def _megabytes(count: float) -> str:
    return f"{count / MB:.0f}"


def _section(title: str, head: Line, lines: Iterable[Line]) -> str:
    """Return a table that reads well in a terminal and as Markdown."""
    rows = [head, *lines]
    if len(rows) == 1:
        return ""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown = [
        " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        for row in rows
    ]
    rule = " | ".join("-" * max(width, 3) for width in widths)
    body = "".join(f"| {line} |\n" for line in [shown[0], rule, *shown[1:]])
    return f"### {title}\n\n{body}"


def main() -> None:
    """Write the page and the plots from a file of figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.report")
    parser.add_argument("json", type=Path, nargs="?", default=FIGURES)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    results = Results.load(given.json)
    old = given.page.read_text() if given.page.exists() else NEW_PAGE
    given.page.parent.mkdir(parents=True, exist_ok=True)
    given.page.write_text(merged(old, page(results)))
    draw(results, ROWS, given.page.parent / "performance")


if __name__ == "__main__":
    main()
