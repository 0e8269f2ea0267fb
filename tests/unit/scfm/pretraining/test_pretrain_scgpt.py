"""Generative pretraining: the questions, the scale that goes into the weights, and a killed run that goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import scfm
from scfm import tokenize
from scfm.pretraining import corpus, scgpt_mini, training, value_minibatches

SMALL = scgpt_mini.Settings(
    name="small",
    hidden=16,
    layers=1,
    heads=2,
    feed_forward=16,
    max_len=40,
    min_cells=30,
    minibatch=8,
    pool=10,
    steps=60,
    warmup=5,
    cooldown=20,
)


@pytest.fixture(scope="module")
def blood() -> corpus.Corpus:
    return corpus.read_corpus(["pbmc68k"])


@pytest.fixture(scope="module")
def cells(blood: corpus.Corpus) -> value_minibatches.ValueCells:
    vocabulary, column_token = value_minibatches.symbol_vocabulary(blood, np.arange(len(blood)), SMALL)
    return value_minibatches.ValueCells(blood, vocabulary, SMALL, column_token)


def test_every_value_of_a_question_is_the_cells_own_bin(blood: corpus.Corpus, cells) -> None:
    counts = blood.counts
    offsets, tokens, values = tokenize.bin_rows(counts.indptr, counts.indices, counts.data, cells.column_token)
    truth = np.zeros((len(blood), len(cells.vocabulary)), np.float32)
    truth[np.repeat(np.arange(len(blood)), np.diff(offsets)), tokens] = values
    chosen = np.arange(100)
    for batch in cells.minibatches(chosen, blood.counts[chosen], np.random.default_rng(0)):
        assert batch.genes.shape == batch.values.shape == (8, batch.genes.shape[1])
        for genes_of_cell, shown in zip(batch.genes, batch.values, strict=True):
            assert len(set(genes_of_cell)) == len(genes_of_cell)
            assert (truth[chosen][:, genes_of_cell] == shown).all(axis=1).any()


def test_half_of_the_asked_genes_are_off_however_many_of_the_shown(blood: corpus.Corpus, cells) -> None:
    everyone = np.arange(len(blood))
    off_shown = set()
    for batch in cells.minibatches(everyone, blood.counts, np.random.default_rng(0)):
        asked = batch.values[:, batch.n_perceived :]
        assert np.mean(asked == 0) == pytest.approx(0.5, abs=0.06)
        off_shown.add(round(float(np.mean(batch.values[:, : batch.n_perceived] == 0)), 1))
    assert min(off_shown) == 0.0
    assert max(off_shown) >= 0.4


def test_zeros_are_genes_that_the_cells_own_dataset_measured(blood: corpus.Corpus) -> None:
    """A gene outside a panel is unknown, not off."""
    half = len(blood.ensembl_ids) // 2
    panel = blood.counts.copy().tolil()
    panel[350:, :half] = 0  # the second "study" measured only the later columns
    two = dataclasses.replace(blood, counts=panel.tocsr(), dataset=np.repeat(["whole", "panel"], 350))
    two.counts.eliminate_zeros()
    settings = dataclasses.replace(SMALL, min_cells=5)
    vocabulary, column_token = value_minibatches.symbol_vocabulary(two, np.arange(700), settings)
    cells = value_minibatches.ValueCells(two, vocabulary, settings, column_token)
    outside = column_token[:half][column_token[:half] >= 0]
    chosen = np.arange(350, 700)
    asked = [b.genes for b in cells.minibatches(chosen, two.counts[chosen], np.random.default_rng(0))]
    assert asked
    assert not np.isin(np.concatenate([a.ravel() for a in asked]), outside).any()


def test_no_gene_is_asked_for_as_off_that_the_cell_expresses(blood: corpus.Corpus) -> None:
    """A panel of 60 genes, each cell lacking five of them: fewer are off than half of the questions would be."""
    counts = np.zeros((40, len(blood.ensembl_ids)), np.float32)
    counts[:, :60] = np.random.default_rng(0).integers(1, 9, (40, 60))
    for cell in range(40):
        counts[cell, (cell + np.arange(0, 60, 12)) % 60] = 0
    panel = dataclasses.replace(blood, counts=sp.csr_matrix(counts), dataset=np.repeat("panel", 40))
    settings = dataclasses.replace(SMALL, min_cells=1, max_len=61)
    vocabulary, column_token = value_minibatches.symbol_vocabulary(panel, np.arange(40), settings)
    cells = value_minibatches.ValueCells(panel, vocabulary, settings, column_token)
    made = cells.minibatches(np.arange(40), panel.counts, np.random.default_rng(0), (0.25,), (0.0,))
    assert made
    for batch in made:
        assert (batch.values == 0).sum(1).max() <= 5
        assert all(
            len(set(row)) == len(row) for row in batch.genes
        )  # an expressed gene would be there twice, on and off
    with pytest.raises(ValueError, match="6 genes that are off"):
        cells._zeros(0, column_token[counts[0] > 0], 6, np.random.default_rng(0))


def test_the_scale_goes_into_the_weights(cells, blood: corpus.Corpus) -> None:
    """Trained on a part of the bins, released in bins: the same answers, larger."""
    network = scgpt_mini.new_network(SMALL, cells.vocabulary).eval()
    batch = cells.minibatches(np.arange(40), blood.counts[:40], np.random.default_rng(1))[0]
    with torch.no_grad():
        before = scgpt_mini.losses(network, batch, 25.0, prompt_alone=False)
        scgpt_mini.rescale(network, 25.0)
        after = scgpt_mini.losses(network, batch, 1.0, prompt_alone=False)
    for name in ("gep", "gepc", "prompted"):
        assert after[name].item() == pytest.approx(625 * before[name].item(), rel=1e-4)
        assert after[f"{name}_zeros"].item() == pytest.approx(before[f"{name}_zeros"].item(), rel=1e-5)


def test_a_prompt_alone_carries_the_cell(cells, blood: corpus.Corpus) -> None:
    """Without perceived genes the second pass depends on the prompt only."""
    network = scgpt_mini.new_network(SMALL, cells.vocabulary).eval()
    batch = cells.minibatches(np.arange(40), blood.counts[:40], np.random.default_rng(1))[0]
    other = batch._replace(values=np.where(np.arange(batch.values.shape[1]) < batch.n_perceived, 3.0, batch.values))
    with torch.no_grad():
        asked = torch.from_numpy(batch.genes[:, batch.n_perceived :])
        cls = torch.full((len(asked), 1), network.config.cls_token_id)
        value = torch.full((len(asked), 1), -2.0)
        prompt = torch.randn(len(asked), network.config.hidden_size)
        one = network.generate_forward(cls, value, asked, cell_prompt=prompt).generated
        two = network.generate_forward(cls, value + 7, asked, cell_prompt=prompt).generated
        assert torch.equal(one, two)  # the token under the prompt is gone
        alone = [scgpt_mini.losses(network, b, 25.0, prompt_alone=True)["prompted"] for b in (batch, other)]
    assert alone[0] != alone[1]  # by way of the embedding, which was made with the perceived genes


@pytest.mark.parametrize("share", [0.0, 0.005])
def test_too_few_held_out_cells_are_refused_before_anything_is_learned(blood, tmp_path: Path, share: float) -> None:
    settings = dataclasses.replace(SMALL, held_out_cells=share)
    with pytest.raises(ValueError, match="held-out cells give no minibatch of 8"):
        scgpt_mini.pretrain(blood, settings, tmp_path / "work", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pretraining_learns_keeps_its_means_and_loads(blood: corpus.Corpus, tmp_path: Path) -> None:
    faster = dataclasses.replace(SMALL, learning_rate=3e-3)
    report = scgpt_mini.pretrain(blood, faster, tmp_path / "work", tmp_path / "out", checkpoint_every=20)
    assert report["log"][-1]["gep"] < report["log"][0]["gep"]
    assert report["gene_means"]["gep"] > 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "config.json", "model.safetensors", "start.safetensors", "vocab.json", "gene_means.tsv.gz", "training_log.json",
    }  # fmt: skip
    model = scfm.load_model(tmp_path / "out")
    assert not any(model.abilities[a] for a in ("embedding", "GEP", "GEPC", "generation"))
    means = model.gene_means()
    assert list(means.index) == list(model.vocabulary.tokens)
    assert means["mean_bin"].between(1, 50).all()
    assert means["share_on"].between(0, 1, inclusive="neither").all()
    # frequent genes are on more often when asked for than rare ones
    often = np.bincount(blood.counts.indices, minlength=len(blood.ensembl_ids))
    tokens = value_minibatches.symbol_vocabulary(blood, training.split(blood, SMALL)[0], SMALL)[1]
    assert np.corrcoef(often[tokens >= 0], means["share_on"].to_numpy()[tokens[tokens >= 0]])[0, 1] > 0.3
    start, twin = (scfm.load_model(tmp_path / "out", weights=w).network.state_dict() for w in ("start", "random"))
    assert {k for k in start if not torch.equal(start[k], twin[k])} == {"encoder.embedding.weight", "decoder.fc.4.bias"}
    with pytest.raises(ValueError, match="other settings"):
        scgpt_mini.pretrain(blood, SMALL, tmp_path / "work", tmp_path / "out")


def test_a_killed_run_goes_on_from_its_checkpoint_to_the_same_weights(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    options = "--files pbmc68k --name k --hidden 16 --layers 1 --min-cells 30 --minibatch 4 --max-len 40 --steps 120 "
    command = [
        sys.executable,
        "-m",
        "scfm.pretraining",
        "scgpt-mini",
        *(options + "--checkpoint-every 40 --threads 1").split(),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(name: str) -> subprocess.Popen:
        return subprocess.Popen([*command, "--work", str(tmp_path / name)], env=environment, stderr=subprocess.DEVNULL)

    whole, killed = start("whole"), start("killed")
    checkpoint = tmp_path / "killed/checkpoint.pt"
    while not checkpoint.exists() and killed.poll() is None:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert start("killed").wait() == 0
    assert whole.wait() == 0
    one, other = (load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    for key in one:
        assert np.array_equal(one[key], other[key]), key
    steps = [row["step"] for row in json.loads((tmp_path / "killed/model/training_log.json").read_text())["log"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == 120
