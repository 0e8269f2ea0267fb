"""A small rank vocabulary for files of any size."""

from __future__ import annotations

import numpy as np

from scfm.genes import RankVocabulary

N_GENES = 60


def vocabulary(framed=True) -> RankVocabulary:
    special = {"<pad>": 0, "<mask>": 1} | ({"<cls>": 2, "<eos>": 3} if framed else {})
    ids = [f"ENSG{number:011d}" for number in range(N_GENES)]
    medians = np.random.default_rng(5).lognormal(0, 1, N_GENES).tolist()
    return RankVocabulary(
        name="small",
        tokens={gene: len(special) + number for number, gene in enumerate(ids[:50])},
        medians=dict(zip(ids, medians, strict=True)),
        mapping={gene: gene for gene in ids},
        symbols={},
        special=special,
        max_len=20,
    )
