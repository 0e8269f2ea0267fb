"""A third kind of model: no attention, only gene vectors through small networks. Two files, as CONTRIBUTING asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from scfm.embed import evaluating
from scfm.models.base import Model
from scfm.tokenize import rank_encode
from scfm.tokenized import TokenizedCells


class ThirdConfig(PretrainedConfig):
    model_type = "third"

    def __init__(self, vocab_size: int = 50, hidden_size: int = 16, num_hidden_layers: int = 2, **more: Any) -> None:
        super().__init__(**more)
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers


class Block(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(torch.relu(self.inner(self.norm(x))))


class ThirdNetwork(PreTrainedModel):
    config_class = ThirdConfig

    def __init__(self, config: ThirdConfig) -> None:
        super().__init__(config)
        self.genes = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config.hidden_size) for _ in range(config.num_hidden_layers))
        self.post_init()


class ThirdKind(Model):
    kind = "third"
    poolings = ("mean",)
    places: ClassVar[dict[str, str]] = {"all": r"blocks\.({n})\.(inner|outer)", "feedforward": r"blocks\.({n})\.inner"}
    ia3 = (r"blocks\.({n})\.(inner|outer)", r".*\.outer")
    norms = r"blocks\.({n})\.norm"
    why_not: ClassVar[dict[str, str]] = {
        "prompts": "A third kind has no attention that could look at learned positions."
    }

    @property
    def special(self) -> dict[str, int]:
        return dict(self.vocabulary.special)

    @property
    def default_pooling(self) -> str:
        return "mean"

    def tokenize(self, adata: Any, max_len: int | None = None) -> TokenizedCells:
        return rank_encode(adata, version=self.vocabulary, max_len=max_len)

    def embed(self, cells: Any, *args: Any, **how: Any) -> np.ndarray:
        cells = self.as_cells(cells)
        with evaluating(self.network, cells), torch.inference_mode():
            x = self.hidden_states(cells)
            return torch.stack([own.mean(0) for own in x.split(cells.lengths.tolist())]).cpu().numpy()

    def layers(self) -> list[nn.Module]:
        return list(self.network.blocks)

    def input_modules(self) -> list[nn.Module]:
        return [self.network.genes]

    def input_vectors(self, cells: TokenizedCells) -> Tensor:
        return self.network.genes(torch.from_numpy(cells.tokens).to(self.network.device, torch.int64))

    def run_layer(self, layer: nn.Module, x: Tensor, lengths: list[int]) -> Tensor:
        return layer(x)

    def _save_vocabulary(self, folder: Path) -> None:
        self.vocabulary.save(folder)
