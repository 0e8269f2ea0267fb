"""Pretraining: medians, vocabulary, augmentation, masks; a killed run goes on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from scfm import datasets
from scfm.pretraining import corpus, geneformer_mini, minibatches
from scfm.store import cache

SMALL = geneformer_mini.Settings(
    name="small",
    hidden=32,
    layers=1,
    feed_forward=32,
    max_len=40,
    min_cells=30,
    minibatch=8,
    pool=10,
    steps=60,
    warmup=5,
)


@pytest.fixture(scope="module")
def blood() -> corpus.Corpus:
    return corpus.read_corpus(["pbmc68k"])


def test_corpus_lays_datasets_on_one_set_of_genes(blood: corpus.Corpus) -> None:
    twice = corpus.read_corpus(["pbmc68k", "pbmc68k"])
    assert len(twice) == 2 * len(blood) == 1400
    assert twice.ensembl_ids == blood.ensembl_ids
    assert all(gene.startswith("ENSG") for gene in blood.ensembl_ids)
    assert (twice.counts[700:] != blood.counts).nnz == 0


def test_an_id_that_a_release_replaced_counts_as_the_present_one(monkeypatch) -> None:
    """CCL5 has two ids in the course's table; a corpus gives it one token, which both ids find."""
    import scfm

    old, new = "ENSG00000161570", "ENSG00000271503"
    adata = scfm.load_dataset("pbmc68k")
    ids = adata.var["ensembl_id"].astype(str).to_numpy()
    ids[ids == new] = old
    adata.var["ensembl_id"] = ids
    assert old in ids
    monkeypatch.setattr("scfm.datasets.load_dataset", lambda name: adata)
    found = corpus.read_corpus(["pbmc68k"])
    assert new in found.ensembl_ids
    assert old not in found.ensembl_ids
    vocabulary = corpus.make_vocabulary(found, np.arange(len(found)), "small", 1, 40)
    assert vocabulary.token(old) == vocabulary.token(new) == vocabulary.token("CCL5")
    assert len(set(vocabulary.symbols.values())) == len(vocabulary.symbols)


def test_cells_are_left_out_by_a_column_and_unknown_ones_are_refused() -> None:
    kinds = corpus.read_corpus(["pbmc68k"], {"pbmc68k": {"bulk_labels": ["Dendritic"]}})
    assert len(kinds) < 700
    assert kinds.identity["left_out"] == {"pbmc68k": {"bulk_labels": ["Dendritic"]}}
    with pytest.raises(ValueError, match="no column 'plate'"):
        corpus.read_corpus(["pbmc68k"], {"pbmc68k": {"plate": ["1"]}})
    with pytest.raises(ValueError, match="no cell whose bulk_labels is Neuron"):
        corpus.read_corpus(["pbmc68k"], {"pbmc68k": {"bulk_labels": ["Neuron"]}})


def test_a_smaller_share_of_cells_lies_in_the_larger(blood: corpus.Corpus) -> None:
    train, _ = geneformer_mini.split(blood, SMALL)
    parts = [
        geneformer_mini.learned_from(train, dataclasses.replace(SMALL, share_of_cells=share))
        for share in (0.0625, 0.25, 1.0)
    ]
    assert [len(part) for part in parts] == [round(share * len(train)) for share in (0.0625, 0.25, 1.0)]
    assert set(parts[0]) < set(parts[1]) < set(parts[2]) == set(train)


def test_medians_are_of_the_nonzero_values_only() -> None:
    counts = sp.csr_matrix(np.array([[2, 0, 0], [4, 1, 0], [0, 3, 0]], dtype=np.float32))
    medians = corpus.nonzero_medians(counts, np.array([1e4, 1e4, 2e4]))
    assert medians[:2].tolist() == [3.0, 1.25]  # (2, 4) and (1, 1.5) counts per 10,000
    assert np.isnan(medians[2])


def test_vocabulary_has_the_genes_seen_often_and_survives_saving(blood: corpus.Corpus, tmp_path: Path) -> None:
    everything = np.arange(len(blood))
    vocabulary = corpus.make_vocabulary(blood, everything, "small", min_cells=30, max_len=40)
    n_cells = np.bincount(blood.counts.indices, minlength=blood.counts.shape[1])
    assert len(vocabulary.tokens) == (n_cells >= 30).sum()
    assert sorted(vocabulary.tokens.values()) == list(range(4, len(vocabulary)))
    vocabulary.save(tmp_path)
    again = corpus.genes.RankVocabulary.load(tmp_path)
    assert dict(again.tokens) == dict(vocabulary.tokens)
    assert again.medians == pytest.approx(vocabulary.medians)
    assert (again.max_len, again.name, again.starts_with_cls) == (40, "small", True)


def test_augmentation_never_adds_a_count_and_changes_with_the_draw(blood: corpus.Corpus) -> None:
    some = blood.counts[:50]
    thinned = minibatches.augment(some, SMALL, np.random.default_rng(0))
    assert (thinned > some).nnz == 0
    assert thinned.sum() < some.sum()
    assert (thinned != minibatches.augment(some, SMALL, np.random.default_rng(0))).nnz == 0
    assert (thinned != minibatches.augment(some, SMALL, np.random.default_rng(1))).nnz > 0


def test_minibatches_are_framed_unpadded_and_lose_only_last_ranks() -> None:
    cells = [np.arange(100, 100 + n) for n in (9, 30, 12, 10, 31, 29)]
    for tokens in minibatches.length_grouped(cells, 2, np.random.default_rng(0)):
        assert (tokens[:, 0] == 2).all()
        assert (tokens[:, -1] == 3).all()
        assert (tokens[:, 1:-1] == np.arange(100, 100 + tokens.shape[1] - 2)).all()


def test_mask_hides_15_percent_of_the_genes_and_never_the_frame() -> None:
    tokens = np.tile(np.r_[2, np.arange(10, 110), 3], (400, 1))
    masked, positions = minibatches.mask_tokens(tokens, 200, 0.15, np.random.default_rng(0))
    assert positions.shape == (400, 15)
    assert all(len(set(row)) == 15 for row in positions)
    assert positions.min() >= 1
    assert positions.max() <= 100
    shown = np.take_along_axis(masked, positions, 1)
    truth = np.take_along_axis(tokens, positions, 1)
    assert np.mean(shown == 1) == pytest.approx(0.8, abs=0.02)
    assert np.mean(shown == truth) == pytest.approx(0.1, abs=0.02)
    untouched = np.ones_like(tokens, dtype=bool)
    np.put_along_axis(untouched, positions, False, 1)
    assert (masked[untouched] == tokens[untouched]).all()


def test_training_and_held_out_cells_are_disjoint_and_every_cell_is_one(blood: corpus.Corpus) -> None:
    train, held_out = geneformer_mini.split(blood, SMALL)
    assert np.array_equal(np.sort(np.r_[train, held_out]), np.arange(len(blood)))


def test_no_evaluation_set_is_in_the_corpus() -> None:
    table = tomllib.loads((cache.repo_data() / "corpora.toml").read_text())["mini"]
    assert not set(table["train"]) & set(table["held_out"])
    splits = {name: entry["split"] for name, entry in datasets.entries().items()}
    assert {splits[name] for name in table["train"]} == {"corpus"}
    assert {splits[name] for name in table["held_out"]} == {"evaluation"}
    for name in ("geneformer-mini", "scgpt-mini"):
        log = json.loads((cache.repo_data() / "models" / name / "training_log.json").read_text())
        assert set(log["corpus"]) == set(table["train"])


def test_no_cell_of_an_evaluation_set_is_in_the_corpus(shared) -> None:
    """By content: no held-out cell has the same counts of its 30 strongest genes as a corpus cell."""
    import anndata as ad

    table = tomllib.loads((cache.repo_data() / "corpora.toml").read_text())["mini"]

    def signatures(name: str) -> set[tuple]:
        adata = ad.read_h5ad(shared(f"data/{name}.h5ad"))
        ids = adata.var["ensembl_id"].astype(str).to_numpy()
        found = set()
        for start, end in zip(adata.X.indptr[:-1], adata.X.indptr[1:], strict=True):
            top = start + np.argsort(-adata.X.data[start:end], kind="stable")[:30]
            found.add(tuple(sorted(zip(ids[adata.X.indices[top]], adata.X.data[top], strict=True))))
        return found

    held_out = set().union(
        *(signatures(n) for n in table["held_out"] if not n.startswith(("pbmc68k", "perturb", "kang_ifnb_muscat")))
    )
    for name in table["train"]:
        assert not signatures(name) & held_out, name


def likeness(one: tuple, other: tuple) -> np.ndarray:
    """Each cell's cosine to the most alike cell of the other set, over genes that few cells have: float (cell,).

    Counts mapped to another annotation differ, and the same cell is found all the same: two different cells share few rare genes.
    """
    genes = sorted(set(one[1]) & set(other[1]))
    haemoglobin = {"ENSG00000206172", "ENSG00000188536", "ENSG00000244734"}  # a few genes fill such cells
    matrices = []
    for counts, ids in (one, other):
        place = {gene: column for column, gene in enumerate(ids)}
        matrices.append(counts[:, [place[gene] for gene in genes]].tocsr())
    n_cells = sum(matrix.shape[0] for matrix in matrices)
    share = sum(np.asarray((matrix > 0).sum(axis=0)).ravel() for matrix in matrices) / n_cells
    rare = (share > 0) & (share < 0.3) & ~np.isin(genes, list(haemoglobin))
    weight = sp.diags(np.where(rare, -np.log(np.clip(share, 1e-6, 1)), 0))
    unit = []
    for matrix in matrices:
        weighed = matrix.log1p() @ weight
        length = np.sqrt(np.asarray(weighed.multiply(weighed).sum(axis=1)).ravel()) + 1e-9
        unit.append((sp.diags(1 / length) @ weighed).tocsr())
    found = [
        (unit[0][start : start + 400] @ unit[1].T).max(axis=1).toarray() for start in range(0, unit[0].shape[0], 400)
    ]
    return np.concatenate(found).ravel()


def as_ids(adata) -> tuple:
    ids = adata.var["ensembl_id"].astype(str).to_numpy()
    named = np.flatnonzero([gene.startswith("ENSG") for gene in ids])
    return sp.csr_matrix(adata.X)[:, named].astype(np.float32), ids[named]


@pytest.mark.slow
def test_no_cell_of_an_evaluation_set_is_in_the_corpus_mapped_again(shared) -> None:
    """By rare genes: the same cell lies above 0.9 when its reads were mapped to another annotation, different cells below 0.8."""
    import anndata as ad

    table = tomllib.loads((cache.repo_data() / "corpora.toml").read_text())["mini"]
    pbmc3k, again = (ad.read_h5ad(shared(f"data/{name}.h5ad")) for name in ("pbmc3k", "pbmc_7batch"))
    (left_out,) = table["left_out"]["pbmc_7batch"]["batch"]
    of_batch = (again.obs["batch"].astype(str) == left_out).to_numpy()
    assert (likeness(as_ids(again[of_batch]), as_ids(pbmc3k)) > 0.8).mean() > 0.95  # why it was left out ...
    assert (likeness(as_ids(again[~of_batch]), as_ids(pbmc3k)) > 0.8).sum() == 0  # ... and that nothing else has to be
    panels = ("pbmc68k", "perturb", "kang_ifnb_muscat")  # too few genes to tell a cell by
    for name in table["held_out"]:
        if name.startswith(panels):
            continue
        evaluated = as_ids(ad.read_h5ad(shared(f"data/{name}.h5ad")))
        for trained in table["train"]:
            corpus_set = ad.read_h5ad(shared(f"data/{trained}.h5ad"))
            if trained == "pbmc_7batch":
                corpus_set = corpus_set[~of_batch]
            near = likeness(evaluated, as_ids(corpus_set))
            assert (near > 0.8).sum() == 0, (name, trained, near.max())


def test_cells_left_over_after_the_last_whole_minibatch_are_the_longest() -> None:
    cells = [np.arange(100, 100 + n) for n in (40, 9, 30, 12, 41)]
    made = minibatches.length_grouped(cells, 2, np.random.default_rng(0))
    assert sorted(tokens.shape for tokens in made) == [(2, 11), (2, 32)]
    assert minibatches.length_grouped(cells, 6, np.random.default_rng(0)) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"held_out_cells": 0.0}, "The 0 held-out cells give no minibatch of 16"),
        ({"held_out_cells": 0.01}, "held-out cells give no minibatch of 16"),
        ({"minibatch": 690}, "20 pools of cells in a row gave no minibatch"),
    ],
)
def test_too_few_cells_are_refused_before_anything_is_learned(blood, tmp_path: Path, given: dict, said: str) -> None:
    settings = dataclasses.replace(SMALL, warm_start=False, **given)
    with pytest.raises(ValueError, match=said):
        geneformer_mini.pretrain(blood, settings, tmp_path / "work", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pretraining_learns_and_says_so_in_its_log(blood: corpus.Corpus, tmp_path: Path) -> None:
    cold = dataclasses.replace(SMALL, warm_start=False, learning_rate=3e-3)
    report = geneformer_mini.pretrain(blood, cold, tmp_path / "work", tmp_path / "out", checkpoint_every=20)
    assert report["log"][-1]["loss"] < report["log"][0]["loss"] - 0.02
    assert report["log"][0]["loss"] < np.log(report["n_genes"])  # a guess among all genes alike
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "config.json", "model.safetensors", "vocabulary.tsv.gz", "rank_tokenizer.json", "training_log.json",
        "alternative_names.tsv.gz",
    }  # fmt: skip
    import scfm

    model = scfm.load_model(tmp_path / "out")
    assert model.embed(model.tokenize(scfm.load_dataset("pbmc68k")[:3]), progress=False).shape == (3, 32)
    with pytest.raises(ValueError, match="other settings"):
        geneformer_mini.pretrain(blood, SMALL, tmp_path / "work", tmp_path / "out")


def test_a_warm_start_is_kept_beside_the_model_and_begins_at_the_gene_frequencies(blood, tmp_path: Path) -> None:
    import scfm

    report = geneformer_mini.pretrain(blood, dataclasses.replace(SMALL, steps=10), tmp_path / "work", tmp_path / "out")
    start = scfm.load_model(tmp_path / "out", weights="start").network.state_dict()
    twin = scfm.load_model(tmp_path / "out", weights="random").network.state_dict()
    differing = {key for key in start if not np.array_equal(start[key].numpy(), twin[key].numpy())}
    assert differing == {
        "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", "cls.predictions.bias", "cls.predictions.decoder.bias",
    }  # fmt: skip
    vocabulary = scfm.load_model(tmp_path / "out").vocabulary
    frequency = vocabulary.frequency_of_tokens()
    assert frequency.sum() == pytest.approx(1)
    correlation = np.corrcoef(np.log(frequency[4:]), start["cls.predictions.bias"].numpy()[4:])[0, 1]
    assert correlation > 0.5  # the bias counts cells, the frequencies the tokens that are left after truncation
    assert (
        report["frequency_baseline"]["loss_unseen"] < report["frequency_baseline"]["loss"] < np.log(report["n_genes"])
    )


def test_a_killed_run_goes_on_from_its_checkpoint_to_the_same_weights(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    options = "--files pbmc68k --name k --hidden 32 --layers 1 --min-cells 30 --minibatch 4 --max-len 40 --steps 120 "
    command = [sys.executable, "-m", "scfm.pretraining", *(options + "--checkpoint-every 40 --threads 1").split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(name: str) -> subprocess.Popen:
        return subprocess.Popen([*command, "--work", str(tmp_path / name)], env=environment, stderr=subprocess.DEVNULL)

    whole, killed = start("whole"), start("killed")
    checkpoint = tmp_path / "killed/checkpoint.pt"
    while not checkpoint.exists() and killed.poll() is None:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert not (tmp_path / "killed/model").exists()
    assert start("killed").wait() == 0
    assert whole.wait() == 0
    one, other = (load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    for key in one:
        assert np.array_equal(one[key], other[key]), key
    steps = [row["step"] for row in json.loads((tmp_path / "killed/model/training_log.json").read_text())["log"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == 120
