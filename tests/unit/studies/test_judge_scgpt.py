"""The judge of scgpt-mini: its guessers are right, and its card says what its table says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import scfm
from scfm import stats, tokenize
from scfm.pretraining import corpus
from scfm.pretraining.value_minibatches import ValueCells
from scfm.store import cache
from studies import judge_scgpt


@pytest.fixture(scope="module")
def mini() -> Path:
    return cache.repo_data() / "models" / "scgpt-mini"


@pytest.fixture(scope="module")
def blood() -> tuple[ValueCells, np.ndarray]:
    model = scfm.load_model("scgpt-mini")
    cells = ValueCells(corpus.read_corpus(["pbmc68k"]), model.vocabulary, judge_scgpt.read_settings(model.folder))
    return cells, model.gene_means()["mean_bin"].to_numpy()


def test_means_of_others_leave_the_asked_cells_out(blood: tuple[ValueCells, np.ndarray]) -> None:
    cells, fallback = blood
    chosen = np.arange(0, 700, 2)
    counts = cells.corpus.counts[np.arange(1, 700, 2)]
    offsets, tokens, values = tokenize.bin_rows(counts.indptr, counts.indices, counts.data, cells.column_token)
    assert len(offsets) == 351
    often = int(np.bincount(tokens).argmax())
    own = values[tokens == often]
    expected = (own.sum() + fallback[often]) / (len(own) + 1)  # the corpus' mean counts as one more cell
    assert judge_scgpt.means_of_others(cells, chosen, fallback)[often] == pytest.approx(expected)


def test_guessers_say_the_mean_and_the_mean_plus_the_cells_offset(blood: tuple[ValueCells, np.ndarray]) -> None:
    cells, mean = blood
    _, batches, _ = next(judge_scgpt.questions(cells, 1, 64))
    batch = batches[0]
    shown, asked = batch.genes[:, : batch.n_perceived], batch.genes[:, batch.n_perceived :]
    exact = batch._replace(values=np.c_[mean[shown] + 4, mean[asked] + 4].astype(np.float32))
    said = judge_scgpt.guesses(exact, mean, mean, np.full(len(mean), 0.5))
    np.testing.assert_allclose(said["gene means"][0], mean[asked])
    np.testing.assert_allclose(said["gene means + cell"][0], mean[asked] + 4, atol=1e-4)
    error, nats = judge_scgpt._scores(mean[asked], *said["gene means"])
    assert error == 0
    assert nats == pytest.approx(np.log(2))


def test_nothing_asked_is_shown(blood: tuple[ValueCells, np.ndarray]) -> None:
    for _, batches, _ in judge_scgpt.questions(blood[0], 2, 64):
        assert batches
        for batch in batches:
            assert (batch.values[:, : batch.n_perceived] > 0).all()
            for row in batch.genes:
                assert not set(row[: batch.n_perceived]) & set(row[batch.n_perceived :])


def test_the_card_is_the_one_that_its_table_and_log_give(mini: Path, tmp_path: Path) -> None:
    import pandas as pd

    table = pd.read_parquet(cache.repo_data() / "results" / "scgpt_mini.parquet")
    copy = shutil.copytree(mini, tmp_path / "scgpt-mini")
    judge_scgpt.write_card(copy, table)
    assert (copy / "README.md").read_text() == (mini / "README.md").read_text(), (
        "run: python -m studies.judge --card-only"
    )
    log = json.loads((mini / "training_log.json").read_text())
    assert f"{log['log'][-1]['gep']:.1f}" in (mini / "README.md").read_text()


@pytest.mark.parametrize("kind", ["gep", "gepc"])
def test_the_committed_results_show_that_the_mini_learned(kind: str) -> None:
    """Better than each gene's mean and than its random twin on held-out sets, with intervals that do not overlap."""
    import pandas as pd

    table = pd.read_parquet(cache.repo_data() / "results" / "scgpt_mini.parquet")
    for name in ("pbmc_zheng_facs", "kang_ifnb_pbmc"):
        part = table[(table["dataset"] == name) & (table["metric"] == f"{kind}_error")]
        found = {method: stats.interval(rows["value"].to_numpy()) for method, rows in part.groupby("method")}
        assert part.groupby("method").size().min() >= 20
        assert found["pretrained"].high < found["gene means"].low
        assert found["pretrained"].high < found["random twin"].low
