"""An scGPT small enough for tests: 40 genes, 2 layers, 16 wide; in memory, or in the layouts that checkpoints come in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from scfm.genes import SymbolVocabulary
from scfm.models.scgpt import ScGPT, ScGPTConfig, ScGPTModel
from scfm.tokenized import TokenizedCells

N_GENES = 40
PAD, CLS = N_GENES, N_GENES + 1
VOCABULARY = SymbolVocabulary(
    "tiny", {f"GENE{i}": i for i in range(N_GENES)}, {"<pad>": PAD, "<cls>": CLS, "<eoc>": CLS + 1}
)
SMALL = {
    "vocab_size": N_GENES + 3,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_seq_len": 64,
    "pad_token_id": PAD,
    "cls_token_id": CLS,
}
EVERYTHING = {
    "num_batches": 3,
    "batch_tokens": True,
    "domain_norm": "dsbn",
    "num_modalities": 2,
    "num_conditions": 3,
    "zero_prob": True,
    "num_classes": 5,
    "adversarial": True,
}


def network(seed: int = 0, **options) -> ScGPTModel:
    """In eval mode; every parameter and statistic is moved from its start, so that a forgotten one shows."""
    torch.manual_seed(seed)
    made = ScGPTModel(ScGPTConfig(**(SMALL | options))).eval()
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point() and tensor.dim() == 1:
                tensor.add_(torch.randn_like(tensor) * 0.2)
        made.encoder.embedding.weight.mul_(10)
    return made


def model(seed: int = 0, **options) -> ScGPT:
    return ScGPT(network(seed, **options), VOCABULARY, "tiny")


def inputs(n_cells: int = 4, n_tokens: int = 12, seed: int = 0, **options) -> dict[str, torch.Tensor]:
    """What ``network(**inputs)`` takes, with the last two tokens of the first cell padded."""
    rng = np.random.default_rng(seed)
    genes = np.stack([rng.permutation(N_GENES)[:n_tokens] for _ in range(n_cells)])
    values = rng.integers(1, 51, genes.shape).astype(np.float32)
    genes[:, 0], values[:, 0] = CLS, 0
    genes[0, -2:], values[0, -2:] = PAD, -2
    given = {"gene_ids": torch.from_numpy(genes), "values": torch.from_numpy(values)}
    given["pad_mask"] = given["gene_ids"] == PAD
    if options.get("num_batches"):
        given["batch_labels"] = torch.from_numpy(rng.integers(0, options["num_batches"], n_cells))
    if options.get("num_modalities"):
        given["modalities"] = torch.from_numpy(rng.integers(0, 2, genes.shape))
    if options.get("num_conditions"):
        given["conditions"] = torch.from_numpy(rng.integers(0, 3, genes.shape))
    return given


def cells(n_cells: int = 12, seed: int = 0) -> TokenizedCells:
    rng = np.random.default_rng(seed)
    lists = [[CLS, *rng.permutation(N_GENES)[:n].tolist()] for n in rng.integers(3, N_GENES, n_cells)]
    values = [[0.0, *rng.integers(1, 51, len(tokens) - 1).tolist()] for tokens in lists]
    return TokenizedCells.from_lists(lists, values, pad_id=PAD)


def save_as_released(folder: Path, state: dict[str, torch.Tensor], vocab_size: int = N_GENES + 3, **args) -> Path:
    """args.json, best_model.pt and vocab.json, as upstream releases them."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "embsize": 16,
        "nheads": 2,
        "d_hid": 24,
        "nlayers": 2,
        "n_layers_cls": 3,
        "dropout": 0.2,
        "max_seq_len": 64,
    }
    settings |= {"pad_token": "<pad>", "MVC": True, "USE_GENERATIVE_TRAINING": True, "input_emb_style": "continuous"}
    (folder / "args.json").write_text(json.dumps(settings | args))
    genes = {f"GENE{i}": i for i in range(vocab_size - 3)}
    special = {"<pad>": vocab_size - 3, "<cls>": vocab_size - 2, "<eoc>": vocab_size - 1}
    (folder / "vocab.json").write_text(json.dumps(genes | special))
    torch.save(state, folder / "best_model.pt")
    return folder
