"""The judge of small models: its baselines are right, and its card says what its table says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import scfm
from scfm.store import cache
from studies import judge_geneformer


@pytest.fixture(scope="module")
def mini() -> Path:
    return cache.repo_data() / "models" / "geneformer-mini"


def test_guessing_by_frequency_scores_the_entropy_of_the_frequencies(mini: Path) -> None:
    model = scfm.load_model("geneformer-mini")
    rows = judge_geneformer.masked_genes({"pretrained": model}, scfm.load_dataset("pbmc68k"), n_draws=2, n_cells=30)
    score = {(m, s, k): v for m, s, k, v in rows}
    share = model.vocabulary.frequency_of_tokens()
    uniform = np.log(len(model.vocabulary.tokens))
    assert 0 < score["frequencies, unseen", 0, "masked_loss"] < score["frequencies", 0, "masked_loss"] < uniform + 1
    assert share.argmax() not in model.special.values()
    # what it learned: better than knowing the frequencies, on cells it never saw
    for draw in (0, 1):
        assert score["pretrained", draw, "masked_loss"] < score["frequencies, unseen", draw, "masked_loss"]


def test_the_card_is_the_one_that_its_table_and_log_give(mini: Path, tmp_path: Path) -> None:
    import pandas as pd

    table = pd.read_parquet(cache.repo_data() / "results" / "geneformer_mini.parquet")
    copy = shutil.copytree(mini, tmp_path / "geneformer-mini")
    judge_geneformer.write_card(copy, table)
    assert (copy / "README.md").read_text() == (mini / "README.md").read_text(), (
        "run: python -m studies.judge --card-only"
    )
    log = json.loads((mini / "training_log.json").read_text())
    assert f"{log['log'][-1]['loss']:.3f}" in (mini / "README.md").read_text()


def test_the_committed_results_show_that_the_mini_learned() -> None:
    """On each held-out set of its own tissue: better than the frequencies on masked genes, and than its random twin at ten
    labels per class, with intervals that do not overlap."""
    import pandas as pd

    from scfm import stats

    table = pd.read_parquet(cache.repo_data() / "results" / "geneformer_mini.parquet")
    for name in ("pbmc_zheng_facs", "kang_ifnb_pbmc"):
        part = table[table["dataset"] == name]

        def of(method: str, metric: str, labels: int, part=part) -> stats.Interval:
            rows = part[(part["method"] == method) & (part["metric"] == metric) & (part["labels_per_class"] == labels)]
            assert len(rows) >= 20
            return stats.interval(rows["value"].to_numpy())

        assert of("pretrained", "masked_loss", 0).high < of("frequencies, unseen", "masked_loss", 0).low
        assert of("pretrained", "balanced_accuracy", 10).low > of("random twin", "balanced_accuracy", 10).high
