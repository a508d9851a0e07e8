"""The same figures as pictures: SVG by matplotlib, for the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.comparison import MOUNTS, OURS, compare
from bench.results import Results
from bench.rows import Row, Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS: Final = {
    OURS: "#1b6ca8",
    "sshfs": "#d1803a",
    "rclone": "#7a9e3f",
    "ssh": "#999999",
}
LATENCY_COLOURS: Final = ("#9cc9e8", "#4a94c9", "#0d4a7a")
# Text stays text, and the same figures give the same file.
STYLE: Final = {"svg.fonttype": "none", "svg.hashsalt": "pamfs", "font.size": 9}


def draw(results: Results, rows: Sequence[Row], folder: Path) -> None:
    """Write all plots of a run to ``folder``."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    timed = [row for row in rows if not row.setting.only_near]
    plots = {
        "ratios": (_ratios, timed),
        "streams": (_peers, [row for row in timed if row.value.unit is Unit.RATE]),
        "trees": (_peers, [row for row in timed if row.value.unit is Unit.SECONDS]),
    }
    with mpl.rc_context(STYLE):
        for name, (plot, chosen) in plots.items():
            measured = _measured(results, chosen)
            panels = 1 if plot is _ratios else max(len(results.rtts()), 1)
            height = 1.2 + 0.42 * len(measured)
            figure = Figure(figsize=(9, height), layout="constrained")
            axes = figure.subplots(1, panels, squeeze=False, sharey=True)[0]
            plot(results, measured, list(axes))
            path = folder / f"{name}.svg"
            figure.savefig(path, format="svg", metadata={"Date": None})


def _measured(results: Results, rows: Sequence[Row]) -> list[Row]:
    names = {cell.row for cell in results.cells}
    return [row for row in rows if row.name in names]


def _ratios(results: Results, rows: Sequence[Row], panels: Sequence[Axes]) -> None:
    """Draw a bar for each row and latency: right of one, pamfs is ahead."""
    (axes,) = panels
    rtts = results.rtts()
    for number, rtt_ms in enumerate(rtts):
        found = [compare(results, row, rtt_ms, None) for row in rows]
        places = [_place(at, number, len(rtts)) for at in range(len(rows))]
        widths = [comparison.ratio if comparison else 1 for comparison in found]
        axes.barh(
            places,
            [width - 1 for width in widths],
            left=1,
            height=0.8 / len(rtts),
            color=LATENCY_COLOURS[number % len(LATENCY_COLOURS)],
            label=f"{rtt_ms:g} ms",
        )
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times as fast as the better of sshfs and rclone")
    _finish(axes, rows)


def _peers(results: Results, rows: Sequence[Row], panels: Sequence[Axes]) -> None:
    """Draw one panel for each latency, a bar for each row and peer."""
    peers = (OURS, *MOUNTS, "ssh")
    for axes, rtt_ms in zip(panels, results.rtts(), strict=True):
        for number, peer in enumerate(peers):
            cells = [results.cell(row.name, peer, rtt_ms) for row in rows]
            values = [(cell.median or 0) if cell else 0 for cell in cells]
            places = [_place(at, number, len(peers)) for at in range(len(rows))]
            height = 0.8 / len(peers)
            axes.barh(places, values, height=height, color=COLOURS[peer], label=peer)
        axes.set_xscale("log")
        axes.set_xlabel(rows[0].value.unit.value if rows else "")
        axes.set_title(f"{rtt_ms:g} ms")
        _finish(axes, rows)


def _place(row: int, number: int, of: int) -> float:
    return row + 0.8 * ((number + 0.5) / of - 0.5)


def _finish(axes: Axes, rows: Sequence[Row]) -> None:
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    if rows:
        axes.legend(fontsize=7)
