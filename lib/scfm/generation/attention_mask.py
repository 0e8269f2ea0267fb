"""Who may look at whom while a cell is generated: as a matrix to draw, and as an experiment that proves it.

Perceived genes see perceived genes; a generated gene sees them and itself. The matrix says what should be, and
:func:`influence` finds out what is: it changes one input after the other and watches which outputs move.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np


def attention_mask(n_perceived: int, n_generated: int) -> np.ndarray:
    """Who sees whom in one step: bool (n, n) with n = perceived + generated; row i may look at column j where True.

    n_perceived counts ``<cls>`` too.
    """
    return block_causal_mask([n_perceived, n_generated])


def block_causal_mask(blocks: Sequence[int]) -> np.ndarray:
    """Who sees whom in the block-causal variant: bool (n, n), row i may look at column j where True.

    blocks: sizes of the prompt (with ``<cls>``), of the genes that became known in each step so far, and of the genes to be
    generated now. A known gene sees its own block and all earlier ones; a generated one sees all known genes and itself.
    """
    if len(blocks) < 2 or min(blocks) < 0 or blocks[0] < 1:
        raise ValueError(
            f"blocks are {list(blocks)}; sizes of the prompt (at least 1, for <cls>) and of what follows were expected."
        )
    of = np.repeat(np.arange(len(blocks)), blocks)  # (token,) number of its block
    mask = of[:, None] >= of[None]
    mask[of == len(blocks) - 1] &= of != len(blocks) - 1
    np.fill_diagonal(mask, True)
    return mask


def influence(
    network: Any, gene_ids: np.ndarray, values: np.ndarray, blocks: Sequence[int], exact: bool = True
) -> np.ndarray:
    """Which outputs move when an input is changed: bool (n, n), row i moved when input j changed.

    Parameters
    ----------
    network
        The scGPT network; a copy of it answers, in float64, so that no rounding passes for influence.
    gene_ids, values
        int64 and float (n,): ``<cls>`` and the genes in the order of ``blocks``; values of the last block are not used.
    blocks
        As for :func:`block_causal_mask`. With ``exact`` all blocks but the last are read as one: what training did.

    A perceived token is changed in its value, a generated one in its gene. With several layers, what one sees through
    another counts too; under these masks that adds nothing, which is what makes them consistent.
    """
    import torch

    from scfm.generation.kstep import Perceived

    genes, shown = np.asarray(gene_ids, np.int64), np.asarray(values, np.float32)
    edges = np.cumsum([0, *blocks])
    if genes.shape != (edges[-1],) or shown.shape != genes.shape:
        raise ValueError(
            f"{edges[-1]} genes and values were expected, by the sizes of the blocks; got {genes.shape[0]}."
        )
    n, known = len(genes), int(edges[-2])
    rows_g, rows_v = (
        np.tile(genes, (n + 1, 1)),
        np.tile(shown, (n + 1, 1)),
    )  # row 0: unchanged; row j + 1: input j changed
    for j in range(known):
        rows_v[j + 1, j] = shown[j] + (7 if shown[j] < 25 else -7)
    others = np.setdiff1d(np.arange(network.config.vocab_size), [*genes, network.config.pad_token_id or 0])
    for j in range(known, n):
        rows_g[j + 1, j] = others[j % len(others)]
    careful = copy.deepcopy(network).to(torch.float64).eval()
    with torch.inference_mode():
        g, v = torch.from_numpy(rows_g).to(network.device), torch.from_numpy(rows_v).to(network.device)
        reader = Perceived(careful)
        cuts = [0, known] if exact else edges[:-1].tolist()
        parts = [reader.add(g[:, a:b], v[:, a:b]) for a, b in itertools.pairwise(cuts) if b > a]
        out = torch.cat([*parts, reader.hidden(g[:, known:])[0]], 1)  # (1 + input, output, d)
    moved = (out[1:] - out[:1]).abs().amax(-1) > 1e-10  # (input, output)
    return moved.T.cpu().numpy()
