"""A reader of a third kind of model, as a newcomer would write it: see tests/unit/scfm/models/test_third_kind.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import third_kind
import torch

from scfm.genes import RankVocabulary
from scfm.inside.seeded import seeded
from scfm.models.base import WEIGHTS
from scfm.store import cache


def recognizes(folder: Path | None, entry: dict[str, Any]) -> bool:
    if entry or folder is None:
        return entry.get("kind") == third_kind.ThirdKind.kind
    path = folder / "config.json"
    return path.exists() and json.loads(path.read_text()).get("model_type") == "third"


def load(folder: Path, name: str, entry: dict[str, Any], weights: str, seed: int) -> third_kind.ThirdKind:
    config = third_kind.ThirdConfig.from_pretrained(folder)
    with seeded(seed):
        network = third_kind.ThirdNetwork(config)
    if weights == "random":
        return third_kind.ThirdKind(network, RankVocabulary.load(folder), f"{name} (random weights, seed {seed})")
    from safetensors.torch import load_file

    network.load_state_dict({key: torch.as_tensor(value) for key, value in load_file(folder / WEIGHTS).items()})
    return third_kind.ThirdKind(network, RankVocabulary.load(folder), name, cache.sha256(folder / WEIGHTS))
