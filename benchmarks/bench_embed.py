"""How much faster and leaner than the textbook way is Geneformer's model.embed? Ratios measured in one run, on this machine.

    python benchmarks/bench_embed.py [--json FILE]
    OMP_NUM_THREADS=1 python benchmarks/bench_embed.py --clock cpu      on a busy machine: CPU time of one thread

Textbook: ``BertForMaskedLM`` with ``output_hidden_states``, padded minibatches of 8 in input order, float32. Both ways give
the mean-pooled second-to-last layer of the Geneformer-V1-10M network (random weights: speed does not depend on them).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from side_by_side import Contest, main

from scfm.models import load_model
from scfm.store import cache
from scfm.tokenized import TokenizedCells


def make_cells(kind: str, n_cells: int, seed: int = 0) -> TokenizedCells:
    """``"full"``: random tokens, 2,048 per cell. ``"ragged"``: cells as long as those of pbmc3k."""
    rng = np.random.default_rng(seed)
    lengths = np.full(n_cells, 2048)
    if kind == "ragged":
        golden = cache.find("golden/geneformer_tokens_pbmc3k.npz")
        if golden:
            with np.load(golden) as file:
                key = next(name for name in file.files if "offsets" in name.lower() and "v1" in name.lower())
                lengths = rng.choice(np.diff(file[key]), n_cells)
        else:  # pbmc3k's genes per cell: median about 800, a tail to 2,048
            lengths = np.clip(np.exp(rng.normal(np.log(800), 0.35, n_cells)), 200, 2048).astype(int)
    return TokenizedCells.from_lists([rng.choice(np.arange(2, 25_426), n, replace=False) for n in lengths])


def textbook(model: Any, cells: TokenizedCells) -> np.ndarray:
    out, device = [], model.network.device
    with torch.no_grad():
        for first in range(0, len(cells), 8):
            rows = range(first, min(first + 8, len(cells)))
            ids, mask = (torch.from_numpy(x).to(device) for x in cells.padded(rows))
            hidden = model.network(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]
            weights = mask[..., None].float()
            out.append(((hidden * weights).sum(1) / weights.sum(1)).cpu().numpy())
    return np.concatenate(out)


if __name__ == "__main__":
    main(
        Contest(
            file=__file__,
            load=lambda device: load_model("geneformer-v1-10m", device, weights="random"),
            kinds={kind: (n, functools.partial(make_cells, kind)) for kind, n in (("full", 8), ("ragged", 16))},
            textbook=textbook,
            ours=lambda model, cells, way: model.embed(cells, pooling="mean", layer=-1, dtype=way, progress=False),
            goal={"float32": 1.8, "bfloat16": 5.0},
        ),
        __doc__.splitlines()[0],
    )
