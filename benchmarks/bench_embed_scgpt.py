"""How much faster and leaner than the textbook way is scGPT's model.embed? Ratios measured in one run, on this machine.

    python benchmarks/bench_embed_scgpt.py [--json FILE]

Textbook: padded minibatches of 8 through ``torch.nn.TransformerEncoder`` in eval and inference mode (its fast path, with nested
tensors), float32, as upstream's own embedding task; the decoders are left out of it, as upstream leaves them out there. The
network has the whole-human shape (random weights: speed does not depend on them), the cells have 1,200 tokens, or the
lengths of pbmc3k's.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_embed import make_cells as ranked_cells
from side_by_side import Contest, main
from torch import nn

from scfm.genes import SymbolVocabulary
from scfm.models.scgpt import ScGPT, ScGPTConfig, ScGPTModel
from scfm.store import cache
from scfm.tokenized import TokenizedCells

N_GENES = 60_694


def load(device: str = "cpu") -> ScGPT:
    torch.manual_seed(0)
    special = {"<pad>": N_GENES, "<cls>": N_GENES + 1, "<eoc>": N_GENES + 2}
    vocabulary = SymbolVocabulary("whole-human shape", {f"gene {i}": i for i in range(N_GENES)}, special)
    config = ScGPTConfig(pad_token_id=N_GENES, cls_token_id=N_GENES + 1)
    return ScGPT(ScGPTModel(config).eval().to(device), vocabulary, "whole-human shape")


def make_cells(kind: str, n_cells: int, seed: int = 0) -> TokenizedCells:
    rng = np.random.default_rng(seed)
    lengths = np.full(n_cells, 1199) if kind == "full" else np.minimum(ranked_cells("ragged", n_cells).lengths, 1199)
    tokens = [np.r_[N_GENES + 1, rng.choice(N_GENES, n, replace=False)] for n in lengths]
    return TokenizedCells.from_lists(tokens, [np.r_[0, rng.integers(1, 51, n)].astype(np.float32) for n in lengths])


@functools.cache
def encoder_of(network: ScGPTModel) -> nn.TransformerEncoder:
    """torch's own encoder with the same weights."""
    c = network.config
    layer = nn.TransformerEncoderLayer(
        c.hidden_size, c.num_attention_heads, c.intermediate_size, c.dropout, batch_first=True
    )
    encoder = nn.TransformerEncoder(layer, c.num_hidden_layers).eval()
    state = network.transformer_encoder.state_dict()
    encoder.load_state_dict(
        {key.replace("self_attn.Wqkv.", "self_attn.in_proj_"): value for key, value in state.items()}
    )
    return encoder.to(network.device)


def textbook(model: ScGPT, cells: TokenizedCells) -> np.ndarray:
    network, out, device = model.network, [], model.network.device
    encoder = encoder_of(network)
    with torch.inference_mode():
        for first in range(0, len(cells), 8):
            rows = range(first, min(first + 8, len(cells)))
            ids, mask = (torch.from_numpy(x).to(device) for x in cells.padded(rows))
            values = torch.from_numpy(cells.padded_values(rows)).to(device)
            values[:, 0] = network.config.pad_value
            x = network.encoder(ids) + network.value_encoder(values)
            cell = encoder(x, src_key_padding_mask=~mask.bool())[:, 0]
            out.append(nn.functional.normalize(cell, dim=1).cpu().numpy())
    return np.concatenate(out)


def ours(model: Any, cells: TokenizedCells, way: str) -> np.ndarray:
    return model.embed(cells, dtype=way, progress=False)


def vocabulary_seconds(times: int = 5) -> str:
    """How long the whole-human vocabulary takes to load; a generated one of the same size where the genuine is not at hand."""
    path = cache.find("dictionaries/scgpt/default_census_vocab.json")
    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            path = Path(folder) / "vocab.json"
            path.write_text(json.dumps({f"ENSG{i:011d}": i for i in range(N_GENES)}))
        took = []
        for _ in range(times):
            start = time.perf_counter()
            n_tokens = len(SymbolVocabulary.load(path))
            took.append(time.perf_counter() - start)
    return f"vocabulary of {n_tokens:,} tokens: {statistics.median(took):.3f} s, at most {max(took):.3f} s (goal 0.3 s)"


if __name__ == "__main__":
    if "--one" not in sys.argv:
        print(vocabulary_seconds())
    main(
        Contest(
            file=__file__,
            load=load,
            kinds={kind: (n, functools.partial(make_cells, kind)) for kind, n in (("full", 8), ("ragged", 16))},
            textbook=textbook,
            ours=ours,
            goal={"float32": 2.3, "bfloat16": 7.0},
        ),
        __doc__.splitlines()[0],
    )
