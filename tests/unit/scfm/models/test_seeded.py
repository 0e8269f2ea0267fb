"""Torch's random numbers from a seed, and the caller's state afterwards: on the CPU, and on GPUs that only pretend to be there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import tiny_geneformer
import torch

from scfm.adaptation.heads import Head
from scfm.inside.seeded import seeded
from scfm.models.geneformer_files import random_network

SCFM = Path(__file__).resolve().parents[4] / "lib" / "scfm"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two GPUs whose random state is a number: the seed that was set last."""
    states = [111, 222]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.__setitem__(device, state))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: states.__setitem__(slice(None), [seed, seed]))
    return states


def test_the_numbers_are_those_of_the_seed_and_the_callers_go_on() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    seven = torch.rand(2, generator=torch.Generator().manual_seed(7))
    torch.manual_seed(5)
    with seeded(7) as reseed:
        first = torch.rand(2)
        reseed(7)
        assert torch.equal(first, torch.rand(2))
    assert torch.equal(first, seven)
    assert torch.equal(torch.rand(3), expected)


def test_every_gpu_gets_its_state_back_even_after_an_error(gpus: list[int]) -> None:
    with seeded(7) as reseed:
        assert gpus == [7, 7]
        reseed(8)
        assert gpus == [8, 8]
    assert gpus == [111, 222]
    with pytest.raises(ZeroDivisionError), seeded(7):
        _ = 1 / 0
    assert gpus == [111, 222]


def test_a_gpu_that_is_not_in_use_yet_is_left_alone(gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with seeded(7) as reseed:
        reseed(8)
    assert gpus == [111, 222]


def test_the_models_leave_a_gpus_state_alone(gpus: list[int]) -> None:
    random_network(tiny_geneformer.config(), 3)
    Head(4, {"label": ["a", "b"]}, seed=3)
    assert gpus == [111, 222]


def test_nobody_else_seeds_torch_or_forks_its_state() -> None:
    """Except a pretraining run, which is a program of its own."""
    found = {
        str(path.relative_to(SCFM))
        for path in SCFM.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("manual_seed", "fork_rng")
    }
    assert found <= {"inside/seeded.py", "pretraining/training.py"}
