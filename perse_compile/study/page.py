"""study.html: the curves and the numbers of a study, on one self-contained page."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from perse_compile.report.environment import render
from perse_compile.study.chart import Line, chart


def study_page(found: dict[str, Any]) -> str:
    """Of what `summarise` gives."""
    drawn = {"latency": _latency(found), "samples": _samples(found), "labels": _labels(found)}
    return render("study.html.jinja", found, **{name: Markup(text) for name, text in drawn.items()})


def _latency(found: dict[str, Any]) -> str:
    """Each curve from always the first exit to always the last, over the threshold."""
    most = max((row["samples"] for row in found["settings"]), default=0)
    lines = []
    for row in found["settings"]:
        if row["samples"] == most:
            lines.append(Line(f"{row['labels']:.0%} of {most} labelled", _in_percent(row["curve"])))
    lines.append(Line("as built", _in_percent(found["people"]["curve"]), dashed=True))
    return chart(lines, "mean milliseconds an image", "accuracy, %")


def _in_percent(curve: list[list[float]]) -> list[tuple[float, float]]:
    return [(ms, 100 * accuracy) for ms, accuracy in curve]


def _samples(found: dict[str, Any]) -> str:
    by_labels: dict[float, list[tuple[float, float]]] = {}
    for row in sorted(found["settings"], key=lambda row: float(row["samples"])):
        by_labels.setdefault(row["labels"], []).append((row["samples"], 100 * row["gain"]["mean"]))
    lines = [Line(f"{share:.0%} labelled", points) for share, points in by_labels.items() if len(points) > 1]
    return chart(lines, "samples of a person", "gain, points")


def _labels(found: dict[str, Any]) -> str:
    most = max((row["samples"] for row in found["settings"]), default=0)
    rows = sorted((row for row in found["settings"] if row["samples"] == most), key=lambda row: float(row["labels"]))
    lines = []
    for who, name in (("severe", "severe shifts"), ("gain", "everybody"), ("mild", "mild shifts")):
        points = [(100 * row["labels"], 100 * row[who]["mean"]) for row in rows if row[who]]
        if len(points) > 1:
            lines.append(Line(name, points))
    return chart(lines, f"% of {most} samples labelled", "gain, points")
