"""The one page of a program or an artifact: figures of `show` in, HTML out."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from perse_compile.manifest import MANIFEST, PACK
from perse_compile.report.drawing import drawing
from perse_compile.report.environment import render
from perse_compile.report.records import MEASURED
from perse_compile.study.chart import Line, chart

Row = dict[str, Any]
CHANGING = (MANIFEST, PACK, MEASURED)  # the files of an artifact that its figures are of


def page(found: Row) -> str:
    """Self-contained; everything on it is in `found`."""
    kinds = list(dict.fromkeys(layer["kind"] for layer in found["layers"] or []))
    return render(
        "page.html.jinja",
        found,
        graph=Markup(drawing(found)) if found["layers"] else "",
        kinds=kinds,
        curve=Markup(_curve(found["curve"])),
        answers=_answers(found),
        study_chart=_figure(_study(found["study"]), "Accuracy over mean time, as exits need more confidence."),
        place_chart=_figure(_place(found["place"]), "Mean work against accuracy."),
        made_of=made_of(found["files"]),
    )


def made_of(files: list[Row]) -> str:
    """manifest.json 0123abcd, heads.pack 4567cdef: which files a page is of."""
    changing = [file for file in files if len(files) == 1 or file["name"] in CHANGING]
    return ", ".join(f"{file['name']} {file['crc32']:08x}" for file in changing)


def _curve(curve: Row | None) -> str:
    if curve is None:
        return ""
    scale = 1 if curve["x"] == "ms" else 100
    lines = []
    for line, dashed in zip(curve["lines"], (True, False), strict=True):
        points = [(scale * point["x"], 100 * point["y"]) for point in line["points"]]
        lines.append(Line(f"{line['name']}, each exit alone", points, dashed))
    for line in curve["lines"]:
        if line["together"]:
            at = line["together"]
            lines.append(Line(f"{line['name']}, all together", [(scale * at["x"], 100 * at["y"])]))
    across = "milliseconds an image" if curve["x"] == "ms" else "% of the full network's work"
    return chart(lines, across, f"{curve['measure']}, %")


def _answers(found: Row) -> Row | None:
    """Shares of the images, from the best source there is, as columns."""
    record, evaluated, trained = found["personalised"], found["evaluated"], found["trained"]
    if record is not None:
        columns = [
            {"name": when, "path": f"personalised.exits.{{0}}.share_{when}",
             "shares": [row[f"share_{when}"] for row in record["exits"]]}
            for when in ("before", "after")
        ]  # fmt: skip
        words = "before and after personalising, on images that the heads did not learn from"
        return {"columns": columns, "words": words}
    if evaluated is not None:
        shares = [row["share"] for row in evaluated["exits"]]
        words = f"of {evaluated['data']}"
        return {"columns": [{"name": "share", "path": "evaluated.exits.{0}.share", "shares": shares}], "words": words}
    if trained is not None and "shares" in trained:
        shares = [trained["shares"][exit["name"]] for exit in found["exits"]]
        words = "on the images that train-exits set aside"
        return {"columns": [{"name": "share", "path": "trained.shares.{1}", "shares": shares}], "words": words}
    return None


def _study(study: Row | None) -> str:
    if study is None:
        return ""
    most = max((row["samples"] for row in study["settings"]), default=0)
    lines = [
        Line(f"{row['labels']:.0%} of {most} labelled", _in_percent(row["curve"], 1))
        for row in study["settings"]
        if row["samples"] == most
    ]
    lines.append(Line("as built", _in_percent(study["people"]["curve"], 1), dashed=True))
    return chart(lines, "mean milliseconds an image", "accuracy, %")


def _place(place: Row | None) -> str:
    points = (place or {}).get("front") or []
    lines = []
    for which, name in (("search", "on the images of the search"), ("report", "on others")):
        known = [point[which] for point in points if which in point]
        lines.append(Line(name, _in_percent([(one["cost"], one["accuracy"]) for one in known], 100), which == "report"))
    return chart(lines, "mean work, % of the full network's", "accuracy, %")


def _in_percent(points: Any, scale: int) -> list[tuple[float, float]]:
    return [(scale * x, 100 * y) for x, y in points]


def _figure(svg: str, caption: str) -> Markup:
    return (
        Markup('<figure class="chart"><figcaption class="soft">{}</figcaption>{}</figure>').format(caption, Markup(svg))
        if svg
        else Markup("")
    )
