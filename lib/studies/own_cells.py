"""The ladder's question of cells of one's own: on a few draws of labels, do a rung and logistic regression differ?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from studies import ladder
from studies.tables import COLUMNS

if TYPE_CHECKING:
    import anndata
    import pandas as pd

DRAWS = 5


@dataclass(frozen=True)
class Shard(ladder.Shard):
    """One draw of the lesson's size."""

    tokens: int | None = None  # of a cell, at most

    @property
    def minibatch(self) -> int:
        return 16

    @property
    def max_len(self) -> int | None:
        return self.tokens


def compare(
    model: str,
    adata: anndata.AnnData,
    methods: Sequence[str],
    labels_per_class: int,
    steps: int,
    tokens: int | None = None,
    n_draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores of the methods on the same labelled and test cells, draw by draw, in the columns of the stored ladder.

    Parameters
    ----------
    model
        Its name or folder.
    adata
        Raw counts with ``obs["cell_type"]``; types too small to test on are left out before.
    methods
        Some of ``ladder.RUNGS`` and ``ladder.FROM_SCRATCH``.
    steps, tokens
        Of the optimizer, for each rung that trains the network; of a cell, at most.
    """
    import pandas as pd

    kinds, name = adata.obs["cell_type"].astype(str).to_numpy(), adata.uns["scfm"]["name"]
    rows: list[tuple] = []
    for draw in range(seed, seed + n_draws):
        train, test = ladder.draw(kinds, labels_per_class, draw)
        for who, own in ((ladder.BASELINES, ladder.FROM_SCRATCH), (model, ladder.RUNGS)):
            contestants = ladder.Contestants(Shard(who, name, draw, tokens), adata, kinds, steps)
            for method in (m for m in methods if m in own):
                found = contestants.score(method, train, test)
                rows += [(who, method, name, labels_per_class, draw, k, v) for k, v in found.items()]
    return pd.DataFrame(rows, columns=COLUMNS)
