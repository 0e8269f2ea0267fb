"""Has a small scGPT learned anything? Values it did not see, and its label efficiency, on sets kept out of the corpus.

    python -m studies.judge data/models/scgpt-mini

The questions are those of its pretraining (half of the genes to be generated, half of these off), and beside the model
stand its random twin, its warm start, and guessers that need no network: each gene's mean bin, and the same plus this
cell's own offset.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import scfm
from scfm import stats
from scfm.models.scgpt import ScGPT
from scfm.pretraining.corpus import read_corpus
from scfm.pretraining.scgpt_mini import Settings
from scfm.pretraining.training import on_device
from scfm.pretraining.value_minibatches import Minibatch, ValueCells
from scfm.store import cache
from studies import judging
from studies.sets import evaluation_set
from studies.tables import COLUMNS

if TYPE_CHECKING:
    import pandas as pd


ERRORS = {"gep": "GEP", "gepc": "GEPC", "prompted": "prompt alone"}
GUESSERS = ("gene means", "gene means + cell", "set's means + cell")


# --- the questions ----------------------------------------------------------------------------------


def questions(
    cells: ValueCells, n_draws: int, n_cells: int = 96
) -> Iterator[tuple[np.ndarray, list[Minibatch], np.random.Generator]]:
    """``n_draws`` times: cells of the set, and minibatches that ask for half of the genes shown of each, a half of them off."""
    for draw in range(n_draws):
        rng = np.random.default_rng([draw, 6])
        n = len(cells.corpus)
        chosen = np.sort(rng.choice(n, min(n_cells, n), replace=False))
        yield chosen, cells.minibatches(chosen, cells.corpus.counts[chosen], rng, (0.5,), (0.0,)), rng


def answers(network: Any, batch: Minibatch) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Predicted bin and P(value > 0) of the asked genes, (cell, asked) each, by GEP, GEPC and from the prompt alone."""
    import torch

    g, v = on_device(network, batch.genes, batch.values)
    n, config = batch.n_perceived, network.config
    cls = torch.full((len(g), 1), config.cls_token_id, device=g.device)
    no_value = torch.full((len(g), 1), config.pad_value, device=g.device)
    with torch.inference_mode():
        out = network.generate_forward(torch.cat([cls, g[:, :n]], 1), torch.cat([no_value, v[:, :n]], 1), g[:, n:])
        again = network.generate_forward(cls, no_value, g[:, n:], cell_prompt=out.cell_embedding)
    found = {
        "gep": (out.generated, out.generated_zero_prob),
        "gepc": (out.gepc[:, n + 1 :], out.gepc_zero_prob[:, n + 1 :]),
        "prompted": (again.generated, again.generated_zero_prob),
    }
    return {name: (value.cpu().numpy(), p.cpu().numpy()) for name, (value, p) in found.items()}


def guesses(
    batch: Minibatch, corpus_means: np.ndarray, set_means: np.ndarray, share: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What the guessers say, in the form of :func:`answers`. ``+ cell``: plus how far this cell's shown genes lie above or
    below their means, on average: a deep cell has other bins than a shallow one."""
    shown, asked = batch.genes[:, : batch.n_perceived], batch.genes[:, batch.n_perceived :]
    values = batch.values[:, : batch.n_perceived]
    on = values > 0
    p = share[asked]
    found = {"gene means": (corpus_means[asked], p)}
    for name, means in (("gene means + cell", corpus_means), ("set's means + cell", set_means)):
        offset = ((values - means[shown]) * on).sum(1, keepdims=True) / np.maximum(on.sum(1, keepdims=True), 1)
        found[name] = (means[asked] + offset, p)
    return found


def hidden_values(
    models: dict[str, ScGPT], name: str, n_draws: int = 20, n_cells: int = 96, settings: Settings | None = None
) -> list[tuple[str, int, str, float]]:
    """Errors (bins²) of the asked genes that are on, and nats of on or off; rows (method, draw, metric, value)."""
    model = models["pretrained"]
    known = model.gene_means()
    mean, share = known["mean_bin"].to_numpy(), known["share_on"].to_numpy()
    corpus = read_corpus([name])
    cells = ValueCells(corpus, model.vocabulary, settings or Settings(), weight=share / share.sum())
    rows = []
    for draw, (chosen, batches, _) in enumerate(questions(cells, n_draws, n_cells)):
        of_set = means_of_others(cells, chosen, mean)
        found: dict[tuple[str, str], list[np.ndarray]] = {}
        for batch in batches:
            truth = batch.values[:, batch.n_perceived :]
            for method, fm in models.items():
                for kind, (value, p) in answers(fm.network, batch).items():
                    found.setdefault((method, kind), []).append(_scores(truth, value, p))
            for method, (value, p) in guesses(batch, mean, of_set, share).items():
                for kind in ERRORS:
                    found.setdefault((method, kind), []).append(_scores(truth, value, p))
        for (method, kind), scores in found.items():
            error, nats = np.mean(scores, axis=0)
            rows += [(method, draw, f"{kind}_error", float(error)), (method, draw, f"{kind}_nats", float(nats))]
    return rows


def _scores(truth: np.ndarray, value: np.ndarray, p: np.ndarray) -> np.ndarray:
    on, p = truth > 0, np.clip(p, 1e-6, 1 - 1e-6)
    return np.array([((value - truth)[on] ** 2).mean(), -np.log(np.where(on, p, 1 - p)).mean()])


def means_of_others(cells: ValueCells, chosen: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """Each gene's mean bin where expressed, over the cells of the set that are not asked about. (gene token,)"""
    from scfm import tokenize

    others = np.setdiff1d(np.arange(len(cells.corpus)), chosen)
    counts = cells.corpus.counts[others]
    _, tokens, values = tokenize.bin_rows(counts.indptr, counts.indices, counts.data, cells.column_token)
    n = np.bincount(tokens, minlength=len(fallback))
    return (np.bincount(tokens, values, minlength=len(fallback)) + fallback) / (n + 1)


# --- the table --------------------------------------------------------------------------------------


def judge(folder: Path, sets: Sequence[str] = tuple(judging.TISSUES), n_draws: int = 20) -> pd.DataFrame:
    """Measure a model's folder on the evaluation sets. Returns the long table (columns of ``judge.COLUMNS``)."""
    import pandas as pd
    from tqdm.auto import tqdm

    model = scfm.load_model(folder)
    models = {name: net for name, net in judging.twins(model, folder).items() if isinstance(net, ScGPT)}
    parts = []
    for name in tqdm(sets, desc="judging", unit="set"):
        rows = [
            (m, name, 0, s, k, v) for m, s, k, v in hidden_values(models, name, n_draws, settings=read_settings(folder))
        ]
        parts.append(pd.DataFrame(rows, columns=COLUMNS[1:]))
        parts.append(judging.probes(model, evaluation_set(name), n_draws).assign(dataset=name))
    return pd.concat(parts, ignore_index=True).assign(model=folder.name)[COLUMNS]


def read_settings(folder: Path) -> Settings:
    """The settings that the model in ``folder`` was made with, from its log."""
    return Settings(**json.loads((folder / "training_log.json").read_text(encoding="utf-8"))["settings"])


def write_card(folder: Path, table: pd.DataFrame) -> None:
    """Write ``README.md`` of the model's folder in the hub's format, from its log and the table of :func:`judge_scgpt`."""
    log = json.loads((folder / "training_log.json").read_text(encoding="utf-8"))
    text = CARD.format(
        name=log["settings"]["name"],
        log=log,
        s=log["settings"],
        n_sets=len(log["corpus"]),
        minutes=log["seconds"] / 60,
        corpus=judging.corpus_table(log),
        held_out=judging.held_out_names(log),
        last=log["log"][-1],
        first=log["log"][0],
        errors=_error_table(table, "error"),
        nats=_error_table(table, "nats"),
        gaps=_gaps(table),
        probes=judging.probe_table(table),
        verdict=judging.verdict(table),
        sha=cache.sha256(folder / "model.safetensors"),
    )
    with cache.atomic_write(folder / "README.md") as path:
        path.write_text(text, encoding="utf-8")


def _error_table(table: pd.DataFrame, what: str) -> str:
    blocks = []
    for kind, title in ERRORS.items():
        found = stats.summary(table[table["metric"] == f"{kind}_{what}"])
        found["score"] = [judging.cell(row, 1 if what == "error" else 3) for _, row in found.iterrows()]
        if what == "nats":  # the three guessers say the same about on and off
            found = found[~found["method"].isin(GUESSERS[1:])]
        order = list(dict.fromkeys(found["method"]))
        blocks.append(
            f"{title}\n\n{judging.markdown(found.pivot(index='method', columns='dataset', values='score').loc[order])}"
        )
    return "\n\n".join(blocks)


def _gaps(table: pd.DataFrame) -> str:
    lines = []
    for name, part in table.groupby("dataset", sort=False):
        for kind, title in ERRORS.items():
            said = []
            for rival in ("random twin", *GUESSERS):
                gap = stats.paired_difference(part, "pretrained", rival, f"{kind}_error")
                outcome = {"better": "below", "worse": "above"}.get(
                    gap.verdict(lower_is_better=True), "not told apart from"
                )
                said.append(f"{outcome} {rival} ({gap.mean:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}])")
            lines.append(f"- **{name}**, {title}: {'; '.join(said)}.")
    return "\n".join(lines)


CARD = """---
license: apache-2.0
library_name: transformers
tags:
- single-cell
- scgpt
- generative
- teaching
---

# {name}

A small scGPT-like network for teaching: {s[layers]} layers, width {s[hidden]}, {log[n_genes]:,} genes, {s[max_len]} tokens per cell, values in {s[n_bins]} bins.
It was made by this course's `make pretrain MODEL=scgpt-mini` so that every lesson runs offline in minutes on two cores. Generated
from the training log and the evaluation table; do not edit by hand (`python -m studies.judge`).

- **Weights**: `model.safetensors`, half precision, sha256 `{sha}`; embeddings, GEP, GEPC, generation, zero probability
- **Also here**: `start.safetensors` (gene embeddings before the first step, for the warm-start twin), `vocab.json`,
  `gene_means.tsv.gz` (each gene's mean bin and how often it is on, for the guesser that looks at no cell), `training_log.json`
- **Licence**: Apache-2.0 for the weights; the corpus sets keep their own (data/datasets.toml)

## Intended use

Learning and testing. It is no substitute for the published models and no result about them: it saw some ten thousand cells,
they saw tens of millions. Not for clinical or diagnostic use.

## Training data

{log[n_cells_train]:,} cells of {n_sets} public human sets (on average five percent of the cells of each were held out: {log[n_cells_held_out]:,}); the corpus and the held-out
sets of geneformer-mini. Some sets are read counts or lack part of the genes; blood is over-represented.

| set | sha256 begins |
|---|---|
{corpus}

Kept out from the start, for evaluation: {held_out}. No cell of these is in the corpus (tested by content).

## Training

Generative pretraining as upstream's (Cui et al. 2024): {s[max_len]} tokens of each cell, a quarter, half or three quarters of the genes to be
generated; GEP and GEPC on the expressed ones, and a second pass with the detached cell embedding as prompt. Ours: zeros of
measured genes are among them and P(value > 0) is learned beside the value (upstream pretrains on expressed genes); half of
the second passes have the prompt alone; bins in the deterministic form; counts are thinned at random; gene embeddings start from
an SVD of gene presence (the *warm start*). {s[steps]:,} steps of {s[minibatch]} cells, AdamW, learning rate {s[learning_rate]}, no attention dropout. {minutes:.0f} minutes on {log[device]}, one seed.

Held-out cells of the corpus's own sets, squared error in bins: GEP {first[gep]:.1f} at step {first[step]:,}, {last[gep]:.1f} at the end; GEPC {last[gepc]:.1f};
from the prompt alone {last[prompted_alone]:.1f}. Each gene's mean: {log[gene_means][gep]:.1f}. On or off: {last[gep_zeros]:.3f} nats, frequencies {log[gene_means][gep_zeros]:.3f}.

## Evaluation

On sets kept out of the corpus; mean and 95 % interval (Student's t) over 20 draws of cells and genes. Half of the genes shown to the
network are asked for, and as many zeros.

### Squared error (bins²) of the values of expressed genes: lower is better

{errors}

*gene means*: each gene's mean bin in the corpus. *+ cell*: plus how far this cell's shown genes lie from their means. *set's means*: of
the other cells of the same set, which a network that never saw the set does not know. The random twin answers near 0 whatever it is
asked, so beating it is no feat: the guessers are the hurdle.

### On or off (nats): lower is better

{nats}

Paired draw by draw, the error of the pretrained model lies

{gaps}

### Label efficiency: balanced accuracy of a logistic probe on the cell embedding

{probes}

Paired draw by draw, at 10 labels per class and at the most that the set allows, the pretrained model is

{verdict}

## Limitations

Trained on few cells and mostly blood. A value is a bin within its own cell: it says how a gene ranks there, not how many
molecules there are. P(value > 0) is calibrated to training's questions, where half of the asked genes are off and often expressed genes are asked for
more often. Intervals describe the draws of cells and genes, not other donors or laboratories. The probe's scaling was chosen as
for geneformer-mini (see its card).
"""
