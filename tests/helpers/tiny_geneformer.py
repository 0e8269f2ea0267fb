"""A Geneformer small enough for tests: 40 genes, 3 layers, 16 wide, in the hub's layout or in our own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from scfm.genes import RankVocabulary
from scfm.models.geneformer import SPECIAL, Geneformer
from scfm.models.geneformer_files import random_network
from scfm.tokenized import TokenizedCells

N_GENES = 40


def config(version: str = "V2", **changes):
    from transformers import BertConfig

    settings = {
        "vocab_size": N_GENES + len(SPECIAL[version]),
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "hidden_act": "relu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.3,  # wide enough that layers and positions matter
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    return BertConfig(**(settings | changes))


def vocabulary(version: str = "V2", name: str = "tiny") -> RankVocabulary:
    special = SPECIAL[version]
    genes = [f"ENSG{number:011d}" for number in range(N_GENES)]
    return RankVocabulary(
        name=name,
        tokens={gene: number + len(special) for number, gene in enumerate(genes)},
        medians={gene: 1.0 + number / 10 for number, gene in enumerate(genes)},
        mapping={gene: gene for gene in genes},
        symbols={gene: f"GENE{number}" for number, gene in enumerate(genes)},
        special=special,
        max_len=64,
    )


def model(version: str = "V2", seed: int = 0, **changes) -> Geneformer:
    network = random_network(config(version, **changes), seed).eval()
    with torch.no_grad():  # biases that are not zero, so that a forgotten one shows
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return Geneformer(network, vocabulary(version), "tiny")


def cells(version: str = "V2", n_cells: int = 12, seed: int = 0, vocabulary_name: str = "") -> TokenizedCells:
    rng = np.random.default_rng(seed)
    n_special = len(SPECIAL[version])
    lists = []
    for n in rng.integers(3, N_GENES, n_cells):
        genes = rng.choice(np.arange(n_special, n_special + N_GENES), n, replace=False).tolist()
        lists.append([2, *genes, 3] if version == "V2" else genes)
    return TokenizedCells.from_lists(lists, vocabulary_name=vocabulary_name)


def save_in_hub_layout(folder: Path, version: str = "V2", seed: int = 0, **changes) -> Path:
    """config.json and model.safetensors, without a vocabulary."""
    model(version, seed, **changes).network.save_pretrained(folder)
    return folder
