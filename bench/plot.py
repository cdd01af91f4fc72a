"""Bars of speed, memory and CPU; only where matplotlib is installed."""

from pathlib import Path

from bench.report import MIB, Result, memory, speed


def plot(result: Result, file: Path) -> bool:
    """Draw the medians, and the rounds as dots, into a PNG; return False where matplotlib isn't installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    names = list(result.titles)[::-1]
    panels = (
        ("rows/s (own seconds)", speed, 1.0),
        ("peak memory, MiB", memory, 1 / MIB),
        ("CPU seconds, client", lambda turn: turn.cpu_seconds, 1.0),
    )
    figure = Figure(figsize=(14, 1 + 0.5 * len(names)), layout="constrained")
    for axes, (title, value, scale) in zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True):
        colours = ["tab:blue" if name.startswith("ours") else "tab:gray" for name in names]
        axes.barh(
            [result.titles[name] for name in names],
            [result.median(name, value) * scale for name in names],
            color=colours,
        )
        for place, name in enumerate(names):
            axes.plot([value(turn) * scale for turn in result.of(name)], [place] * len(result.of(name)), "k.", ms=4)
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{result.rows:,} rows, {result.machine.cpu}, {result.machine.cores} cores")
    figure.savefig(file, dpi=110)
    return True
