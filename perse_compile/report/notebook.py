"""What a notebook shows of a program, an artifact, and of results: small tables, no script, no style of their own."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from perse_compile.report.environment import FORMATS
from perse_compile.report.figures import artifact_figures, program_figures

if TYPE_CHECKING:
    from perse_compile.artifact import Artifact
    from perse_compile.program import Program


def of_program(program: Program) -> str:
    return _of(program_figures(program))


def of_artifact(artifact: Artifact) -> str:
    return _of(artifact_figures(artifact))


def table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _of(found: dict[str, Any]) -> str:
    spec, target = found["input"], f" for {found['target']['name']}" if found["target"] else ""
    size = f"{spec['height']}×{spec['width']}×{spec['channels']}"
    title = f"{found['name']}{target}: {size} images, {found['classes']} classes"
    timed = found["time"] is not None
    rows = []
    for exit in found["exits"]:
        last = exit is found["exits"][-1]
        state = "always" if last else "–" if exit["enabled"] is None else "off"
        if exit["enabled"] and not last:
            state = FORMATS["three"](exit["threshold"])
        row = [exit["name"], exit["tap"], FORMATS["percent"](exit["share"]), state]
        rows.append([*row, FORMATS["ms"](exit["ms"])] if timed else row)
    warnings = "".join(f"<p><b>Warning</b>: {escape(warning)}</p>" for warning in found["warnings"])
    return warnings + table(title, ["exit", "reads", "work", "answers from", *(["time"] if timed else [])], rows)
