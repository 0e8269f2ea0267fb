"""A head in numpy, its calibration, and its sense of strangers."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import scfm
from scfm import calibration, stats
from scfm.adaptation import openset
from scfm.adaptation.heads import Head
from scfm.baselines import gene_features
from scfm.generation import completion
from scfm.linear import linear_head, softmax
from studies import headstudy


def clouds(n: int = 40, apart: float = 6.0, d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centers = rng.normal(0, apart, (4, d))
    return (centers[np.repeat(range(4), n)] + rng.normal(size=(4 * n, d))).astype(np.float32), np.repeat(
        list("abcd"), n
    )


def test_the_head_in_numpy_is_the_head_of_adapt() -> None:
    x, names = clouds(apart=0.5)
    ours = linear_head(x, names)
    theirs = Head(8, {"label": list("abcd")})
    theirs.solve(x, np.searchsorted(ours.classes, names)[:, None], [np.ones(4)])
    with torch.no_grad():
        np.testing.assert_allclose(ours.logits(x), theirs(torch.from_numpy(x))[0].numpy(), atol=2e-2)
    assert ours.n_parameters == 9 * 4


def test_tested_cells_do_not_choose_genes_or_components() -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(1.0, (60, 50)).astype(np.float32)
    adata = ad.AnnData(counts, obs=pd.DataFrame({"n_counts": counts.sum(1)}, index=[str(i) for i in range(60)]))
    learned = np.arange(40)
    before = gene_features(adata, learned, n_components=5)
    other = adata.copy()
    other.X[40:] = rng.poisson(9.0, (20, 50))
    after = gene_features(other, learned, n_components=5)
    for kind in ("HVG", "PCA"):
        np.testing.assert_allclose(before[kind][:40], after[kind][:40], atol=1e-4)


@pytest.mark.parametrize("name", ["geneformer-mini", "scgpt-mini"])
def test_a_model_in_a_folder_has_its_random_twin_whatever_the_folder_is_called(name: str, tmp_path) -> None:
    adata = scfm.load_dataset("pbmc68k")[:20].copy()
    listed = scfm.load_model(name)
    expected = headstudy.frozen(listed, adata, seed=1)
    for called in ("mine", "geneformer-v1-10m"):
        found = headstudy.frozen(scfm.load_model(listed.save(tmp_path / called)), adata, seed=1)
        assert set(found) == {"pretrained", "random twin"}  # a saved model keeps no warm start; the listed one has it
        assert set(expected) == set(headstudy.HEADS)
        for method in found:
            np.testing.assert_allclose(found[method], expected[method], atol=1e-5)


def test_temperature_undoes_a_factor_and_lowers_the_calibration_error() -> None:
    rng = np.random.default_rng(2)
    honest = rng.normal(0, 2, (6000, 4))
    truth = np.array([rng.choice(4, p=p) for p in softmax(honest)])
    loud = honest * 3
    found = calibration.temperature(loud, truth)
    assert found == pytest.approx(3, rel=0.1)
    right = loud.argmax(1) == truth
    error = [calibration.expected_error(softmax(loud, t).max(1), right) for t in (1.0, found)]
    assert error[0] > 0.1
    assert error[1] < 0.03


def test_reliability_by_hand_and_logits_refused() -> None:
    table = calibration.reliability(np.array([0.95, 0.95, 0.15, 0.15]), np.array([1, 0, 0, 0], bool))
    assert table["accuracy"].tolist() == [0.0, 0.5]
    assert table["cells"].tolist() == [2, 2]
    assert calibration.expected_error(np.array([0.95, 0.95]), np.array([True, False])) == pytest.approx(0.45)
    with pytest.raises(ValueError, match="not logits"):
        calibration.reliability(np.array([3.0]), np.array([True]))
    with pytest.raises(ValueError, match="not logits"):
        calibration.expected_error(np.array([3.0]), np.array([True]))


def test_the_calibration_error_is_the_gap_of_the_reliability_table_wherever_it_is_told() -> None:
    rng = np.random.default_rng(3)
    said = rng.random((40, 50)).astype(np.float32)
    happened = rng.random((40, 50)) < said**2
    table = calibration.reliability(said.ravel(), happened.ravel())
    expected = np.average((table["confidence"] - table["accuracy"]).abs(), weights=table["cells"])
    assert calibration.expected_error(said.ravel(), happened.ravel()) == pytest.approx(expected)
    assert completion.reliability(said, happened).to_numpy().tolist() == table.to_numpy().tolist()


def test_auroc_counts_pairs() -> None:
    assert openset.auroc(np.array([0, 1.0]), np.array([2, 3.0])) == 1
    assert openset.auroc(np.array([1.0, 1]), np.array([1.0, 1])) == 0.5
    assert openset.auroc(np.array([0, 2.0]), np.array([1.0])) == 0.5


def test_a_far_type_is_strange_and_a_split_of_one_type_is_not() -> None:
    x, names = clouds(apart=4)
    table = openset.hold_out(lambda learned: {"x": x}, names, 15, 3)
    assert table.loc[table["metric"] == "auroc Mahalanobis", "value"].min() > 0.95
    noise = np.random.default_rng(5).normal(size=x.shape)
    chance = openset.hold_out(lambda learned: {"x": noise}, names, 15, 8)
    assert abs(chance["value"].mean() - 0.5) < 0.06


def test_intervals_over_groups_are_wider_than_over_their_draws() -> None:
    rng = np.random.default_rng(6)
    rows = [(m, str(g), "balanced_accuracy", s, g / 10 + rng.normal(0, 0.001) + (0.1 if m == "a" else 0)) for m in "ab" for g in range(5) for s in range(6)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["method", "group", "metric", "seed", "value"])
    own = stats.over_groups(table, "a", "balanced_accuracy")
    gap = stats.over_groups(table, "a", "balanced_accuracy", "b")
    assert own.high - own.low > 0.1
    assert gap.low == pytest.approx(0.1, abs=0.005)
