"""Levels of images, as Python measures them; tests/test_runtime.py compares with C."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perse_compile.personalise.levels import CHUNK, measure_levels
from perse_compile.program import Program
from tests.artifacts import pictures


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 5, 7, 3), (CHUNK + 9, 4, 5, 2), (2, 10, 10, 1)])
def test_the_quantiles(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    ends = [np.quantile(pixels, share, axis=(1, 2), method="inverted_cdf").mean(0) for share in (0.05, 0.95)]
    np.testing.assert_array_equal(np.array(measure_levels(pixels)), np.stack(ends, 1).astype(np.float32))


def test_one_pixel_in_twenty() -> None:
    pixels = np.full((1, 4, 5, 1), 9, np.uint8)
    pixels[0, 0, 0], pixels[0, 3, 4] = 1, 200
    assert measure_levels(pixels) == [[1, 9]]  # the greatest is above 19/20
    pixels[0, 3, 3] = 200
    assert measure_levels(pixels) == [[1, 200]]


def test_training_keeps_the_levels_of_its_images(tiny: Program, tmp_path: Path) -> None:
    """`tiny` was trained and read from its file."""
    assert tiny.levels == measure_levels(pictures(300, seed=2)[0])
    replace(tiny, levels=None).save(tmp_path / "untrained.perse")
    assert Program.load(tmp_path / "untrained.perse").levels is None
