"""What is remembered of the pretraining: measured on fixed questions, kept alive by replay."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_corpus import N_GENES, adata, model

import scfm
from scfm.adaptation import replay as memory
from scfm.adaptation.adapters import digest
from scfm.adaptation.replay import Memory

KINDS = ("geneformer", "scgpt")
HOW = {"epochs": 4, "minibatch": 10, "dtype": "float32", "progress": False, "validation": 0}


@pytest.fixture(autouse=True)
def symbols(monkeypatch) -> None:
    """The tiny models' genes have names of their own."""
    monkeypatch.setattr("scfm.genes.ensembl_to_symbol", lambda: {f"ENSG{i:011d}": f"GENE{i}" for i in range(N_GENES)})


def held(kind: str) -> tuple:
    """A model, what it remembers, and a task: tokens and types of other cells."""
    made, cells = model(kind), adata(60, 1)
    return made, Memory(made, adata(120)), made.tokenize(cells), cells.obs["cell_type"].to_numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_that_of_the_pretrainings_own_question(kind: str) -> None:
    made, remembered, _, _ = held(kind)
    if kind == "geneformer":
        assert remembered.error(seed=3) == made.masked_loss(remembered.questions.tokens, seed=3).loss
    else:
        by_hand = []
        for batch in remembered.questions._fixed(3):
            n = batch.n_perceived
            cls = torch.full((len(batch.genes), 1), N_GENES + 1)
            shown = torch.cat([cls, torch.from_numpy(batch.genes[:, :n])], 1)
            values = torch.cat([torch.full(cls.shape, -2.0), torch.from_numpy(batch.values[:, :n])], 1)
            with torch.no_grad():
                out = made.network.generate_forward(shown, values, torch.from_numpy(batch.genes[:, n:]))
            target = batch.values[:, n:]
            by_hand.append(((out.generated.numpy() - target)[target > 0]) ** 2)
        assert remembered.error(seed=3) == pytest.approx(np.concatenate(by_hand).mean(), rel=1e-5)
    assert remembered.error(seed=3) == remembered.error(seed=3)
    assert remembered.error(seed=3) != remembered.error(seed=4)
    assert remembered.guess() is None  # the tiny models come without what a guesser knows
    assert len(remembered) == 120


@pytest.mark.parametrize("kind", KINDS)
def test_what_leaves_the_network_alone_forgets_nothing(kind: str) -> None:
    made, remembered, cells, types = held(kind)
    before = remembered.error()
    head = scfm.adapt(made, cells, types, "head", **HOW)
    assert remembered.error(head.adapted) == before
    lora = scfm.adapt(made, cells, types, "lora", learning_rate=0.02, **HOW)
    assert remembered.error(lora.adapted) != before
    with lora.peft_model.disable_adapter():
        assert remembered.error(lora.adapted) == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_replay_keeps_what_full_fine_tuning_forgets(kind: str) -> None:
    made, remembered, cells, types = held(kind)
    mark = digest(made.network)
    how = HOW | {"epochs": 12, "learning_rate": 5e-3}
    alone = scfm.adapt(made, cells, types, "full", **how)
    both = scfm.adapt(made, cells, types, "full", replay=remembered, **how)
    assert digest(made.network) == mark
    assert remembered.error(both.adapted) < remembered.error(alone.adapted)
    assert any("replay of 120 cells with weight 1" in note for note in both.report.notes)
    assert np.mean(both.predict(cells, progress=False) == types) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_the_pieces_of_the_replayed_loss_add_up(kind: str) -> None:
    made, remembered, _, _ = held(kind)

    def gradient(budget: int) -> tuple[int, torch.Tensor]:
        made.network.zero_grad()
        pieces = 0
        for loss in remembered.losses(made, np.random.default_rng(0), 24, budget):
            loss.backward()
            pieces += 1
        return pieces, torch.cat([p.grad.ravel() for p in made.network.parameters() if p.grad is not None])

    (few, whole), (many, cut) = gradient(100_000), gradient(60)
    if kind == "geneformer":
        assert few == 1
        assert many > 5
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=1e-4)
    assert whole.abs().max() > 1e-3


def test_a_run_with_replay_resumes_and_its_checkpoint_belongs_to_its_cells(tmp_path: Path) -> None:
    made, _, cells, types = held("geneformer")
    how = HOW | {"checkpoint_every": 5}
    remembered, other = Memory(made, adata(30)), Memory(made, adata(30, 1))
    whole = scfm.adapt(made, cells, types, "full", replay=remembered, **how)
    scfm.adapt(made, cells, types, "full", replay=remembered, work=tmp_path, **how)
    again = scfm.adapt(made, cells, types, "full", replay=remembered, work=tmp_path, **how)
    assert again.report.resumed_from == whole.report.steps
    np.testing.assert_array_equal(
        again.predict_proba(cells, progress=False), whole.predict_proba(cells, progress=False)
    )
    for wrong in (other, None):
        with pytest.raises(ValueError, match="belongs to a run with another"):
            scfm.adapt(made, cells, types, "full", replay=wrong, work=tmp_path, **how)


def test_an_adata_may_be_replayed_as_it_is() -> None:
    made, _, cells, types = held("geneformer")
    first = scfm.adapt(made, cells, types, "full", replay=adata(30), **HOW)
    second = scfm.adapt(made, cells, types, "full", replay=Memory(made, adata(30)), **HOW)
    np.testing.assert_array_equal(
        first.predict_proba(cells, progress=False), second.predict_proba(cells, progress=False)
    )


def test_replay_where_it_means_nothing_is_refused() -> None:
    made, _, cells, types = held("geneformer")
    with pytest.raises(ValueError, match="nothing is forgotten"):
        scfm.adapt(made, cells, types, "head", replay=adata(30), progress=False)
    with pytest.raises(ValueError, match="no effect without replay"):
        scfm.adapt(made, cells, types, "full", replay_weight=2.0, progress=False)
    with pytest.raises(ValueError, match="replay_weight is -1"):
        scfm.adapt(made, cells, types, "full", replay=adata(30), replay_weight=-1, progress=False)
    strange = adata(30)
    strange.var["ensembl_id"] = "ENSG99999999999"
    with pytest.raises(ValueError, match=r"vocabulary|knows"):
        Memory(made, strange)
    with pytest.raises(ValueError, match="does not say which cells"):
        memory.of_corpus(made)


def test_held_out_cells_are_those_of_the_corpus_as_it_was(tmp_path: Path, monkeypatch) -> None:
    made, cells = model(), {"a": adata(200, 2), "b": adata(100, 3)}
    for name, own in cells.items():
        own.uns["scfm"] = {"sha256": f"hash of {name}"}
    monkeypatch.setattr("scfm.store.cache.repo_data", lambda: tmp_path)
    monkeypatch.setattr("scfm.datasets.load_dataset", cells.__getitem__)
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    log = {
        "settings": {"seed": 0, "held_out_cells": 0.2},
        "corpus": {"a": "hash of a", "b": "hash of b"},
    }
    (folder / "training_log.json").write_text(json.dumps(log))
    held_out, replay = memory.of_corpus(made, 20, 50)
    assert (held_out.n_obs, replay.n_obs) == (20, 50)
    assert set(held_out.obs_names).isdisjoint(replay.obs_names)

    cells["b"].uns["scfm"]["sha256"] = "hash of another file"  # a replacement, say, with other cells in it
    with pytest.raises(ValueError, match="another state of b than what is loaded"):
        memory.of_corpus(made, 20, 50)
