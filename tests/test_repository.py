"""Rules about the repository itself."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_golden_is_asked_for() -> None:
    from perse_compile.passes import PASSES
    from tests import models

    asked = {f"plain-{name}" for name in PASSES} | {f"network-{network.__name__.lower()}" for network in models.ALL}
    asked.add("plan-plain")
    assert {path.stem for path in (ROOT / "tests" / "golden").glob("*.txt")} == asked


def test_passes_and_targets_have_one_import_name() -> None:
    for name in ("passes", "targets"):
        link = ROOT / "perse_compile" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name
