"""Torch's random numbers from a seed, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[Callable[[int], Any]]:
    """Inside, torch draws from ``seed``; afterwards the caller's random state, of the CPU and of every GPU, is as it was.

    What it gives seeds anew, inside.
    """
    import torch

    # a GPU that nobody has used yet is left alone: torch.manual_seed would set its seed for good, and asking for its state would
    # take it into use
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    reseed = torch.manual_seed if gpus else torch.default_generator.manual_seed
    with torch.random.fork_rng(devices=gpus):
        reseed(seed)
        yield reseed
