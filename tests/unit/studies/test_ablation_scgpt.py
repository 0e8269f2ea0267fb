"""The ablation's machinery: who has a label, what the scores see, and that a stopped run goes on where it was."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny_scgpt as tiny
import two_batches as small

from studies import ablation
from studies.ablation import ALL, BALANCED, RIVALS, TWIN, VARIANTS, Settings, load_study, measure, scores, some_labels

METHODS = [*RIVALS, *VARIANTS, BALANCED, TWIN]
SMALL = Settings(n_genes=40, epochs=1, minibatch=24, learning_rate=1e-3)


def test_each_objective_is_left_out_once():
    assert set(VARIANTS[ALL]) == {"GEP", "GEPC", "ECS", "DAR", "CLS"}
    for name in VARIANTS[ALL]:
        assert set(VARIANTS[f"without {name}"]) == set(VARIANTS[ALL]) - {name}


def test_a_share_of_each_type_has_a_label():
    types = np.repeat(["a", "b", "c"], [50, 20, 5])
    labelled = some_labels(types, 0.2, seed=0)
    assert [labelled[types == kind].sum() for kind in "abc"] == [10, 4, 2]
    assert (labelled == some_labels(types, 0.2, 0)).all()
    assert (labelled != some_labels(types, 0.2, 1)).any()


def test_scores_are_of_the_cells_without_a_label():
    rng = np.random.default_rng(0)
    types = np.repeat(["a", "b", "c"], 60)
    batches = np.tile(["x", "y"], 90)
    labelled = some_labels(types, 0.2, 0)
    place = np.eye(3)[np.unique(types, return_inverse=True)[1]]
    apart = np.hstack([10 * place, np.zeros((180, 2))]) + rng.normal(0, 1, (180, 5))
    found = scores(apart, types, batches, labelled)
    assert found["probe"] > 0.95
    assert found["avg_bio"] > 0.8
    assert found["ilisi"] > 0.7
    assert 0.35 < found["batch_probe"] < 0.65
    spoiled = apart.copy()
    spoiled[labelled] = rng.normal(
        0, 1, (labelled.sum(), 5)
    )  # the probe learns nothing from these, clusters do not see them
    other = scores(spoiled, types, batches, labelled)
    assert other["probe"] < 0.7
    assert other["avg_bio"] == pytest.approx(found["avg_bio"])
    assert other["ilisi"] == pytest.approx(found["ilisi"])
    by_batch = apart + 20 * (batches == "x")[:, None]
    seen = scores(by_batch, types, batches, labelled)
    assert seen["batch_probe"] > 0.95
    assert seen["ilisi"] < 0.1


def test_studies_have_two_batches_with_all_types():
    adata = load_study("pbmc68k-2batch")
    crossed = pd.crosstab(adata.obs["cell_type"].astype(str), adata.obs["batch"])
    assert crossed.shape[1] == 2
    assert (crossed > 0).all(axis=None)
    assert crossed.sum(axis=1).min() >= 20


def test_a_stopped_run_goes_on_and_other_weights_start_again(tmp_path, monkeypatch):
    made = []

    def counted(embedding, types, batches, labelled, seed=0):
        made.append(len(embedding))
        assert np.isfinite(embedding).all()
        if len(made) == 5:
            raise KeyboardInterrupt
        return {"probe": float(np.abs(embedding).sum())}

    monkeypatch.setattr(ablation, "scores", counted)
    folder = tiny.model(seed=1).save(tmp_path / "one")
    studies = {"small": small.study_of()}
    path = tmp_path / "results" / "table.parquet"
    with pytest.raises(KeyboardInterrupt):
        measure(folder, path, studies, range(2), SMALL)
    assert pd.read_parquet(path)["method"].tolist() == METHODS[:4]
    first = pd.read_parquet(path)
    table = measure(folder, path, studies, range(2), SMALL)
    assert len(made) == 5 + 2 * len(METHODS) - 4
    assert table["method"].tolist() == METHODS * 2
    assert table["seed"].tolist() == [0] * len(METHODS) + [1] * len(METHODS)
    assert table.head(4).equals(first)
    assert table["value"].nunique() > len(METHODS)  # each is an embedding of its own
    assert (table["model"] == "one").all()

    before = len(made)
    measure(folder, path, studies, range(2), SMALL)
    assert len(made) == before  # nothing is missing
    measure(folder, path, studies, range(1), Settings(n_genes=40, epochs=1, minibatch=24, learning_rate=2e-3))
    again = pd.read_parquet(path)
    assert len(made) == before + len(METHODS)  # other settings: made again, the old rows of this study are gone
    assert again["settings"].nunique() == 1
    other = tiny.model(seed=2).save(tmp_path / "two")
    measure(other, path, studies, range(1), SMALL)
    assert pd.read_parquet(path)["model"].value_counts().to_dict() == {"one": len(METHODS), "two": len(METHODS)}


def test_it_stops_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "scores", lambda *_: {"probe": 1.0})
    folder = tiny.model(seed=1).save(tmp_path / "one")
    table = measure(folder, tmp_path / "t.parquet", {"small": small.study_of()}, range(1), SMALL, minutes=0)
    assert table.empty
