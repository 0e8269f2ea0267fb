"""A small scGPT, pretrained to generate: from some genes of a cell, the values of its other genes.

    python -m scfm.pretraining scgpt-mini --help

As upstream's generative pretraining (Cui et al. 2024, 10.1038/s41592-024-02201-0): a random share of each cell's genes is
perceived with its binned values, the rest is to be generated (GEP), and predicted a second time from the cell embedding
alone (GEPC); a second pass reads that embedding as a prompt in the place of ``<cls>``. Values are learned of expressed genes
only, as upstream does. Two things are ours, so that the small model can do what the lessons ask of it. Zeros are among the
genes, and the decoders also give P(value > 0), so that it learns what is off: the two together are upstream's "explicit zero
probability", value × P. And in half of the second passes the perceived genes are left out, so that the prompt must carry the
whole cell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import genes
from scfm.inside.seeded import seeded
from scfm.models.scgpt import GENE_MEANS
from scfm.pretraining.corpus import Corpus, gene_directions
from scfm.pretraining.minibatches import augment
from scfm.pretraining.scgpt_settings import Settings
from scfm.pretraining.training import check_held_out, learned_from, on_device, pools_of_cells, run, split
from scfm.pretraining.value_minibatches import Minibatch, ValueCells, symbol_vocabulary
from scfm.store import cache

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from scfm.models.scgpt_network import ScGPTModel


SCALE = 10.0  # bins per unit of the network's own scale while it is trained
DEVIATION = 0.06  # of the gene embeddings at the start, as upstream's


# --- network and losses -----------------------------------------------------------------------------


def new_network(settings: Settings, vocabulary: genes.SymbolVocabulary) -> ScGPTModel:
    """An scGPT with random weights, drawn from the seed."""
    import torch

    from scfm.models.scgpt_network import ScGPTConfig, ScGPTModel

    with seeded(settings.seed):
        network: Any = ScGPTModel(
            ScGPTConfig(
                vocab_size=len(vocabulary),
                hidden_size=settings.hidden,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
                intermediate_size=settings.feed_forward,
                dropout=settings.dropout,
                attention_dropout=0.0,
                pad_token_id=vocabulary.special[genes.PAD],
                cls_token_id=vocabulary.special[genes.CLS],
                n_bins=settings.n_bins,
                max_seq_len=settings.max_len,
                zero_prob=True,
                if_expressed=True,
            )
        )
        with torch.no_grad():  # an inner product of two long vectors: at torch's own start its errors would drown GEP's
            network.mvc_decoder.W.weight *= 0.1
            network.mvc_decoder.W_zero_logit.weight *= 0.1
        return network


def rescale(network: Any, factor: float) -> None:
    """Let the network read and answer values ``factor`` times as large; what it computes stays the same otherwise.

    Bins run to 50; a network learns faster with numbers around 1. It is trained on bins / 10, and in the end the factor goes
    into the weights, so that the released network reads and answers bins as every scGPT does.
    """
    import torch

    with torch.no_grad():
        network.value_encoder.linear1.weight /= factor
        network.decoder.fc[4].weight *= factor
        network.decoder.fc[4].bias *= factor
        network.mvc_decoder.W.weight *= factor


def losses(
    network: Any, batch: Minibatch, scale: float, prompt_alone: bool, zero_weight: float = 1.0
) -> dict[str, torch.Tensor]:
    """The named losses of one minibatch: GEP, GEPC and the prompted pass, on the generated genes; values in units of ``scale``."""
    import torch

    from scfm.objectives import gep_loss, zero_prob_loss

    g, v = on_device(network, batch.genes, batch.values / np.float32(scale))
    n, config = batch.n_perceived, network.config
    cls = torch.full((len(g), 1), config.cls_token_id, device=g.device)
    no_value = torch.full((len(g), 1), config.pad_value / scale, device=g.device)  # what <cls> carries, as upstream's
    shown, values = torch.cat([cls, g[:, :n]], 1), torch.cat([no_value, v[:, :n]], 1)
    asked, target = g[:, n:], v[:, n:]
    on, everywhere = target > 0, torch.ones_like(target)
    out = network.generate_forward(shown, values, asked)
    prompt = out.cell_embedding.detach()
    seen = 1 if prompt_alone else n + 1
    again = network.generate_forward(shown[:, :seen], values[:, :seen], asked, cell_prompt=prompt)
    found = {
        "gep": gep_loss(out.generated, target, on),
        "gepc": gep_loss(out.gepc[:, n + 1 :], target, on),
        "prompted": gep_loss(again.generated, target, on),
    }
    # nats, beside squared errors of values around 1
    found |= {
        f"{name}_zeros": zero_weight * zero_prob_loss(probability, target, everywhere)
        for name, probability in (
            ("gep", out.generated_zero_prob),
            ("gepc", out.gepc_zero_prob[:, n + 1 :]),
            ("prompted", again.generated_zero_prob),
        )
    }
    return found


def evaluate(network: ScGPTModel, sample: list[Minibatch], scale: float = SCALE) -> dict[str, float]:
    """Mean losses over a fixed sample; squared errors in bins², the zero probabilities' in nats. ``loss`` is GEP's error."""
    import torch

    was_training = network.training
    network.eval()
    totals: dict[str, list[float]] = {}
    with torch.inference_mode():
        for number, batch in enumerate(sample):
            for alone in (True,) if number % 2 else (False,):
                for name, value in losses(network, batch, scale, prompt_alone=alone).items():
                    shown = f"{name}_alone" if alone and name.startswith("prompted") else name
                    totals.setdefault(shown, []).append(value.item() * (1 if name.endswith("_zeros") else scale**2))
    network.train(was_training)
    found = {name: float(np.mean(values)) for name, values in totals.items()}
    return {"loss": found["gep"], **found}


# --- the run ----------------------------------------------------------------------------------------


def pretrain(corpus: Corpus, settings: Settings, work: Path, out: Path, checkpoint_every: int = 250) -> dict:
    """Pretrain, or go on from ``work/checkpoint.pt``; write the model folder to ``out`` at each checkpoint. Returns the log.

    Raises
    ------
    ValueError
        If the checkpoint in ``work`` was made with other settings or another corpus, or if there are too few cells.
    """
    train, held_out = split(corpus, settings)
    vocabulary, column_token = symbol_vocabulary(corpus, train, settings)
    cells = ValueCells(corpus, vocabulary, settings, column_token)
    train = learned_from(train, settings)
    sample = cells.minibatches(held_out, corpus.counts[held_out], np.random.default_rng([settings.seed, 4]), (0.5,))
    check_held_out(sample, held_out, settings.minibatch, settings)
    network: Any = new_network(settings, vocabulary)
    means = gene_means(cells, train, settings.seed)
    if settings.warm_start:
        warm_start(network, corpus, train, cells, means, settings.seed)
    start = {
        "encoder.embedding.weight": network.encoder.embedding.weight.detach().clone(),
        "decoder.fc.4.bias": network.decoder.fc[4].bias.detach() * SCALE,
    }

    def pools(pool: int) -> Iterator[list[Minibatch]]:
        for chosen, rng in pools_of_cells(train, settings, pool):
            yield cells.minibatches(chosen, augment(corpus.counts[chosen], settings, rng), rng)

    def loss_of(batch: Minibatch, rng: np.random.Generator) -> torch.Tensor:
        return sum(
            losses(
                network, batch, SCALE, prompt_alone=bool(rng.random() < 0.5), zero_weight=settings.zero_weight
            ).values()
        )  # type: ignore[return-value]

    report: dict[str, Any] = {}

    def keep() -> None:
        write_model(network, start if settings.warm_start else None, cells.vocabulary, means, report, out)

    report |= run(
        network,
        settings,
        corpus,
        pools,
        loss_of,
        lambda: evaluate(network, sample),
        work,
        checkpoint_every,
        keep,
    )
    report |= {
        "n_cells_train": len(train),
        "n_cells_held_out": len(held_out),
        "n_genes": len(vocabulary.tokens),
        "gene_means": guess_by_means(means, sample),
    }
    keep()
    return report


def warm_start(
    network: Any, corpus: Corpus, train: np.ndarray, cells: ValueCells, means: pd.DataFrame, seed: int
) -> None:
    """Start the gene embeddings from a truncated SVD of which cell expresses which gene.

    Each gene's mean bin is one more direction; the decoder's answer starts at the mean over all genes.
    """
    import torch

    embedding = network.encoder.embedding.weight
    known = cells.column_token >= 0
    directions, _ = gene_directions(corpus, train, known, embedding.shape[1] - 1, seed)
    mean = means["mean_bin"].to_numpy(np.float32)
    with torch.no_grad():
        embedding[cells.column_token[known], 1:] = torch.from_numpy(directions * DEVIATION)
        embedding[: len(mean), 0] = torch.from_numpy((mean - mean.mean()) / mean.std() * DEVIATION)
        network.decoder.fc[4].bias.fill_(float(mean.mean()) / SCALE)


def gene_means(cells: ValueCells, train: np.ndarray, seed: int) -> pd.DataFrame:
    """What a guesser that looks at no cell knows of each gene, from training cells and the run's own kind of questions.

    One row per token, indexed by gene symbol: ``mean_bin`` where it is expressed, ``share_on`` of the times it is asked for. One
    average value and one pair of on and off is added to each gene, so that none is undefined.
    """
    import pandas as pd

    n = len(cells.vocabulary.tokens)
    total, on, shown = np.zeros(n), np.zeros(n), np.zeros(n)
    rng = np.random.default_rng([seed, 5])
    for batch in cells.minibatches(train, cells.corpus.counts[train], rng):
        asked, values = (a[:, batch.n_perceived :].ravel() for a in (batch.genes, batch.values))
        total += np.bincount(asked, values, minlength=n)
        on += np.bincount(asked, values > 0, minlength=n)
        shown += np.bincount(asked, minlength=n)
    mean_bin = (total + total.sum() / on.sum()) / (on + 1)
    table = {"mean_bin": mean_bin, "share_on": (on + 1) / (shown + 2)}
    return pd.DataFrame(table, index=pd.Index(list(cells.vocabulary.tokens), name="gene_symbol"))


def guess_by_means(means: pd.DataFrame, sample: list[Minibatch]) -> dict[str, float]:
    """What predicting each gene's mean achieves on :func:`evaluate`'s own questions, in the same units."""
    mean, share = means["mean_bin"].to_numpy(), means["share_on"].to_numpy()
    errors, nats = [], []
    for batch in sample:
        asked, values = (a[:, batch.n_perceived :] for a in (batch.genes, batch.values))
        errors.append(((mean[asked] - values)[values > 0] ** 2).mean())
        nats.append(-np.log(np.where(values > 0, share[asked], 1 - share[asked])).mean())
    return {"gep": float(np.mean(errors)), "gep_zeros": float(np.mean(nats))}


def write_model(
    network: ScGPTModel,
    start: dict[str, torch.Tensor] | None,
    vocabulary: genes.SymbolVocabulary,
    means: pd.DataFrame,
    report: dict,
    out: Path,
) -> None:
    """Write the folder that ``scfm.load_model`` reads: half-precision weights in bins, config, vocabulary, log.

    ``start.safetensors`` keeps what the warm start set, so that it can be put beside the trained model alone; ``gene_means.tsv.gz`` what a guesser knows that looks at no cell.
    """
    import copy

    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    whole = copy.deepcopy(network).cpu()
    rescale(whole, SCALE)
    whole.config.architectures = ["ScGPTModel"]
    state = {name: value.half().contiguous() for name, value in whole.state_dict().items()}
    with cache.atomic_write(out / "config.json") as path:
        whole.config.to_json_file(path)
    with cache.atomic_write(out / "model.safetensors") as path:
        save_file(state, path, metadata={"format": "pt"})
    if start is not None:
        with cache.atomic_write(out / "start.safetensors") as path:
            save_file({name: value.cpu().half() for name, value in start.items()}, path, metadata={"format": "pt"})
    with cache.atomic_write(out / "vocab.json") as path:
        path.write_text(json.dumps({**vocabulary.tokens, **vocabulary.special}, indent=0) + "\n", encoding="utf-8")
    with cache.atomic_write(out / GENE_MEANS) as path:
        means.round(5).to_csv(path, sep="\t", compression={"method": "gzip", "mtime": 0})
    if report:
        with cache.atomic_write(out / "training_log.json") as path:
            path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def summary(report: dict[str, Any]) -> str:
    """The end of a run in a sentence."""
    last = report["log"][-1]
    return (
        f"Held-out cells, squared error in bins: GEP {last['gep']:.1f}, GEPC {last['gepc']:.1f}; "
        f"each gene's mean alone: {report['gene_means']['gep']:.1f}."
    )
