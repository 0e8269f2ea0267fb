"""Grids and atlases through Snakemake, as a person starts them."""

from __future__ import annotations

import importlib.util

import pytest


@pytest.fixture(autouse=True)
def _snakemake() -> None:
    if importlib.util.find_spec("snakemake") is None:
        pytest.skip("needs Snakemake, which `make grid` installs")
