"""Fixtures for all tests. What needs files that are not in the repository says so when it is skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

from scfm.store import cache

# The same examples in every run and no time limit: a stranger's run does not fail by chance, nor because the machine is busy.
# Who hunts for new ones: pytest --hypothesis-profile=default
hypothesis.settings.register_profile("house", derandomize=True, deadline=None)
hypothesis.settings.load_profile("house")


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """``shared("golden/scgpt_plain")`` → its path in one of the folders of SCFM_CACHE, or a skip that says what to set."""

    def locate(name: str) -> Path:
        path = cache.find(name)
        if path is None:
            pytest.skip(f"needs {name}, no part of the repository: set SCFM_CACHE to a folder that holds it")
        return path

    return locate


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; this machine has none"))
