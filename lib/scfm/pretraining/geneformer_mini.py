"""Corpus → medians → vocabulary → a small foundation model, in the way Geneformer was made.

    python -m scfm.pretraining geneformer-mini --help

One pool of cells after another is augmented, ranked, sorted by length and cut into minibatches; a BERT guesses the 15 % of
the genes that were masked. The loop is in ``training.py``; the recipe for scGPT's kind of model in ``scgpt_mini.py``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import genes
from scfm.pretraining.corpus import SPECIAL, Corpus, gene_directions, make_vocabulary
from scfm.pretraining.minibatches import length_grouped, mask_tokens, ranked, stream
from scfm.pretraining.training import Schedule, check_held_out, learned_from, on_device, run, split
from scfm.store import cache

if TYPE_CHECKING:
    import torch
    from transformers import BertForMaskedLM

EVALUATED = 16  # held-out cells in a minibatch


@dataclass(frozen=True)
class Settings(Schedule):
    """All that decides the result of a pretraining run."""

    name: str = "geneformer-mini"
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 512
    max_len: int = 256  # tokens of a cell, <cls> and <eos> included
    min_cells: int = 200  # a gene seen in fewer training cells gets no token: rare genes keep the loss from moving
    mask_fraction: float = 0.15
    dropout: float = 0.05  # hidden layers only: attention dropout would send SDPA down its slow path
    warm_start: bool = True  # gene embeddings from an SVD of gene presence, output bias from the genes' frequencies


# --- the network ------------------------------------------------------------------------------------


def new_network(settings: Settings, n_vocabulary: int) -> BertForMaskedLM:
    """A BERT with random weights, drawn from the seed."""
    from transformers import BertConfig

    from scfm.models.geneformer_files import random_network

    config = BertConfig(
        vocab_size=n_vocabulary,
        hidden_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=settings.feed_forward,
        max_position_embeddings=settings.max_len,
        hidden_act="relu",
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=0.0,
        pad_token_id=SPECIAL[genes.PAD],
    )
    return random_network(config, settings.seed)


def warm_start(network: BertForMaskedLM, corpus: Corpus, train: np.ndarray, columns: tuple, seed: int) -> None:
    """Start the gene embeddings from a truncated SVD of which cell expresses which gene, the output bias from frequencies."""
    import torch

    embedding = network.bert.embeddings.word_embeddings.weight
    directions, frequency = gene_directions(corpus, train, columns[0] >= 0, embedding.shape[1], seed)
    token = columns[0][columns[0] >= 0]
    with torch.no_grad():
        embedding[token] = torch.from_numpy(directions * 0.02)  # the scale of BERT's own start
        bias = network.cls.predictions.bias
        bias.fill_(float(np.log(1e-6)))  # a special token is never the answer
        bias[token] = torch.from_numpy(np.log(frequency / frequency.sum()).astype(np.float32))


def masked_loss(network: BertForMaskedLM, tokens: torch.Tensor, masked: torch.Tensor, positions: torch.Tensor) -> Any:
    """Cross-entropy (minibatch * k,) and logits at the masked positions only: elsewhere nothing is to be guessed."""
    import torch

    hidden = network.bert(input_ids=masked).last_hidden_state  # (cell, token, d)
    at_masked = torch.take_along_dim(hidden, positions[..., None], dim=1)  # (cell, k, d)
    logits = network.cls(at_masked).flatten(0, 1).float()  # (cell * k, vocabulary)
    target = torch.take_along_dim(tokens, positions, dim=1).flatten()
    return torch.nn.functional.cross_entropy(logits, target, reduction="none"), logits, target


# --- the run ----------------------------------------------------------------------------------------


def pretrain(corpus: Corpus, settings: Settings, work: Path, out: Path, checkpoint_every: int = 250) -> dict:
    """Pretrain, or go on from ``work/checkpoint.pt``; write the model folder to ``out``. Returns the training log.

    Raises
    ------
    ValueError
        If the checkpoint in ``work`` was made with other settings or another corpus, or if there are too few cells.
    """
    train, held_out = split(corpus, settings)
    vocabulary = make_vocabulary(corpus, train, settings.name, settings.min_cells, settings.max_len)
    columns = vocabulary.columns(corpus.ensembl_ids)
    train = learned_from(train, settings)
    sample = ranked(corpus.counts[held_out], corpus.n_counts[held_out], columns, settings.max_len)
    check_held_out(length_grouped(sample, EVALUATED, np.random.default_rng(0)), held_out, EVALUATED, settings)
    network: Any = new_network(settings, len(vocabulary))
    if settings.warm_start:
        warm_start(network, corpus, train, columns, settings.seed)
    start = {name: value.clone() for name, value in network.state_dict().items()}

    def loss_of(tokens: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        masked, positions = mask_tokens(tokens, len(vocabulary), settings.mask_fraction, rng)
        return masked_loss(network, *on_device(network, tokens, masked, positions))[0].mean()

    report = run(
        network,
        settings,
        corpus,
        lambda pool: stream(corpus, train, columns, settings, pool),
        loss_of,
        lambda: evaluate(network, sample, seed=0),
        work,
        checkpoint_every,
    )
    report |= {
        "n_cells_train": len(train),
        "n_cells_held_out": len(held_out),
        "n_genes": len(vocabulary) - len(SPECIAL),
    }
    frequencies = token_frequencies(corpus, train, columns, vocabulary, settings.max_len)
    vocabulary = replace(vocabulary, frequencies=frequencies)
    report["frequency_baseline"] = frequency_baseline(vocabulary, sample)
    write_model(network, start if settings.warm_start else None, vocabulary, report, out)
    return report


def evaluate(network: BertForMaskedLM, cells: list[np.ndarray], seed: int) -> dict[str, float]:
    """Loss and accuracy of the guesses on cells (bare gene tokens), 15 % masked, one at a time per equal-length group."""
    import torch

    losses, hits = [], []
    rng = np.random.default_rng(seed)
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        for tokens in length_grouped(cells, EVALUATED, rng):
            masked, positions = mask_tokens(tokens, network.config.vocab_size, 0.15, rng, bert=False)
            loss, logits, target = masked_loss(network, *on_device(network, tokens, masked, positions))
            losses.append(loss.cpu().numpy())
            hits.append((logits.argmax(1) == target).cpu().numpy())
    network.train(was_training)
    return {"loss": float(np.concatenate(losses).mean()), "accuracy": float(np.concatenate(hits).mean())}


def token_frequencies(
    corpus: Corpus, train: np.ndarray, columns: tuple, vocabulary: genes.RankVocabulary, max_len: int
) -> dict[str, float]:
    """Each gene's share of all gene tokens of the training cells; one is added to each count, so that none is zero."""
    counts = np.ones(len(vocabulary))
    for cell in ranked(corpus.counts[train], corpus.n_counts[train], columns, max_len):
        counts[cell] += 1
    total = counts[len(SPECIAL) :].sum()
    return {gene: float(counts[token] / total) for gene, token in vocabulary.tokens.items()}


def frequency_baseline(vocabulary: genes.RankVocabulary, cells: list[np.ndarray], seed: int = 0) -> dict[str, float]:
    """What knowing only how frequent each gene is achieves on :func:`evaluate`'s own questions.

    ``*_unseen``: with the genes that the cell shows excluded, since none occurs twice.
    """
    share = vocabulary.frequency_of_tokens()
    rng = np.random.default_rng(seed)
    found: dict[str, list[np.ndarray]] = {"loss": [], "accuracy": [], "loss_unseen": [], "accuracy_unseen": []}
    for tokens in length_grouped(cells, EVALUATED, rng):
        masked, positions = mask_tokens(tokens, len(share), 0.15, rng, bert=False)
        for cell, shown, at in zip(tokens, masked, positions, strict=True):
            target, left = cell[at], share.copy()
            left[shown] = 0
            found["loss"].append(-np.log(share[target]))
            found["loss_unseen"].append(-np.log(left[target] / left.sum()))
            found["accuracy"].append(target == share.argmax())
            found["accuracy_unseen"].append(target == left.argmax())
    return {name: float(np.concatenate(values).mean()) for name, values in found.items()}


def write_model(network: Any, start: dict | None, vocabulary: genes.RankVocabulary, report: dict, out: Path) -> None:
    """Write the folder that ``scfm.load_model`` reads: half-precision weights, config, vocabulary, log.

    ``start.safetensors`` keeps what the warm start set (gene embeddings and output bias), so that the warm start alone can
    be put beside the trained model.
    """
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}  # the same tensors under a second name

    def half(state: dict) -> dict[str, torch.Tensor]:
        return {name: value.detach().cpu().half().contiguous() for name, value in state.items() if name not in tied}

    network.config.architectures = ["BertForMaskedLM"]
    with cache.atomic_write(out / "config.json") as path:
        network.config.to_json_file(path)
    with cache.atomic_write(out / "model.safetensors") as path:
        save_file(half(network.state_dict()), path, metadata={"format": "pt"})
    if start is not None:
        warm = {name: start[name] for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias")}
        with cache.atomic_write(out / "start.safetensors") as path:
            save_file(half(warm), path, metadata={"format": "pt"})
    vocabulary.save(out)
    with cache.atomic_write(out / "training_log.json") as path:
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def summary(report: dict[str, Any]) -> str:
    """The end of a run in a sentence."""
    last, baseline = report["log"][-1], report["frequency_baseline"]
    return (
        f"Held-out cells: loss {last['loss']:.3f}, accuracy {last['accuracy']:.1%}; "
        f"gene frequencies alone: {baseline['loss_unseen']:.3f}, {baseline['accuracy_unseen']:.1%}."
    )
