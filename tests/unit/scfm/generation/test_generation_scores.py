"""The yardsticks of generated cells, and the simple generators that scGPT has to beat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny_scgpt as tiny
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import energy_distance as scipy_energy
from scipy.stats import wasserstein_distance
from small_scgpt import network, study

from scfm import stats
from scfm.generation import simple_generators as simple
from scfm.generation import yardsticks as scores
from scfm.models.scgpt import ScGPT


def model() -> ScGPT:
    return ScGPT(network(), tiny.VOCABULARY, "tiny")


@pytest.fixture(scope="module")
def cells() -> simple.RealCells:
    return simple.RealCells.of(study(), model(), genes=[f"GENE{i}" for i in range(35)], name="three")


# --- distances --------------------------------------------------------------------------------------


tables = st.integers(1, 6).flatmap(
    lambda n: arrays(np.float32, (n, 3), elements=st.integers(0, 8).map(float) | st.floats(0, 50, width=32))
)


@given(tables, tables)
def test_gene_distance_is_scipys_gene_by_gene(made, truth):
    each = [wasserstein_distance(made[:, g], truth[:, g]) for g in range(3)]
    assert scores.gene_distance(made, truth) == pytest.approx(np.mean(each), abs=1e-4)


def test_energy_distance_against_scipy_in_one_dimension():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (300, 1)), rng.normal(1, 2, (400, 1))
    # scipy keeps the pairs of a cell with itself (biased), and returns the root
    assert scores.energy_distance(x, y) == pytest.approx(scipy_energy(x[:, 0], y[:, 0]) ** 2, abs=0.02)
    same = [scores.energy_distance(rng.normal(0, 1, (40, 5)), rng.normal(0, 1, (40, 5))) for _ in range(60)]
    assert abs(np.mean(same)) < 0.01
    assert min(same) < 0, "unbiased: a single one may fall below zero"


def test_energy_distance_sees_what_genes_do_together():
    rng = np.random.default_rng(1)
    coin = rng.integers(0, 2, (400, 1)) * 20.0
    together, apart = np.repeat(coin, 6, 1), rng.integers(0, 2, (400, 6)) * 20.0
    other = np.repeat(rng.integers(0, 2, (400, 1)) * 20.0, 6, 1)
    assert scores.gene_distance(apart, together) == pytest.approx(scores.gene_distance(other, together), abs=1.5)
    assert scores.energy_distance(apart, together) > 10 * max(scores.energy_distance(other, together), 0.05)


def test_profiles():
    a, b = np.array([[1.0, 2, 3], [3, 2, 5]]), np.array([[4.0, 4, 8]])
    assert scores.profile_correlation(a, b) == pytest.approx(np.corrcoef([2, 2, 4], [4, 4, 8])[0, 1])
    center = np.array([2.0, 1, 4])
    assert scores.profile_correlation(a, b, center) == pytest.approx(np.corrcoef([0, 1, 0], [2, 3, 4])[0, 1])
    assert scores.profile_correlation(np.ones((2, 3)), b) == 0.0


# --- the simple generators --------------------------------------------------------------------------


def test_real_cells(cells):
    assert cells.bins.shape == (120, 35)
    whole = model().tokenize(study(), max_len=tiny.N_GENES + 2)
    own = dict(zip(whole[3].tolist(), whole.values[whole.offsets[3] : whole.offsets[4]].tolist(), strict=True))
    assert cells.bins[3].tolist() == [own.get(token, 0.0) for token in range(35)]
    assert (cells.column_token[-3:] == -1).all(), "outside the vocabulary, or a second column of a gene"
    with pytest.raises(stats.TooFewCells, match="No type of"):
        simple.RealCells.of(study(5), model())
    filtered = study()
    filtered.obs["filter_pass"] = np.arange(filtered.n_obs) > 0
    with pytest.raises(ValueError, match="leaves out 1 of"):
        simple.RealCells.of(filtered, model())
    by_default = simple.RealCells.of(study(), model(), n_genes=12)
    assert len(by_default.genes) == 12
    assert len(set(by_default.genes)) == 12


def test_a_gene_of_another_release_is_generated_under_the_name_that_the_model_knows():
    """FAM46C became TENT5C: the file may bear one name and the model's vocabulary the other."""
    as_now = study()
    named = ScGPT(network(), replace(tiny.VOCABULARY, tokens={**tiny.VOCABULARY.tokens, "FAM46C": 0}), "tiny")
    named.vocabulary.tokens.pop("GENE0")
    symbols = as_now.var["gene_symbol"].astype(str).tolist()
    place = symbols.index("GENE0")
    as_now.var["gene_symbol"] = [*symbols[:place], "TENT5C", *symbols[place + 1 :]]
    as_now.var["ensembl_id"] = [f"id {i}" for i in range(as_now.n_vars)]
    as_now.var.iloc[place, as_now.var.columns.get_loc("ensembl_id")] = "ENSG00000183508"
    whole = simple.RealCells.of(as_now, named, n_genes=as_now.n_vars)
    assert "FAM46C" in whole.genes
    assert "TENT5C" not in whole.genes
    assert whole.bins[:, whole.genes.index("FAM46C")].any()


def test_a_split_is_of_each_type_and_of_every_cell(cells):
    train, truth, fresh = cells.split(3)
    assert sorted([*train, *truth, *fresh]) == list(range(120))
    for part, n in ((train, 20), (truth, 10), (fresh, 10)):
        assert [(cells.labels[part] == kind).sum() for kind in "abc"] == [n] * 3
    assert not np.array_equal(train, cells.split(4)[0])
    assert np.array_equal(train, cells.split(3)[0])
    same, few, _ = cells.split(3, 4)
    assert np.array_equal(same, train)
    assert set(few) <= set(truth)
    assert [(cells.labels[few] == kind).sum() for kind in "abc"] == [4] * 3


@pytest.mark.parametrize("name", list(simple.SIMPLE))
def test_simple_generators_know_training_cells_of_the_type_only(cells, name):
    train, truth, _ = cells.split(0)
    wanted = np.array(["b", "a", "b", "c", "b"])
    made = simple.SIMPLE[name](cells, train, wanted, 0)
    assert made.shape == (5, 35)
    assert made.min() >= 0
    assert made.max() <= 50
    np.testing.assert_array_equal(made, simple.SIMPLE[name](cells, train, wanted, 0))
    bins, counts = cells.bins.copy(), cells.counts.copy().tolil()
    for others in (truth, train[cells.labels[train] == "c"]):
        bins[others], counts[others] = 7, 1
    changed = simple.RealCells(**(vars(cells) | {"bins": bins, "counts": counts.tocsr()}))
    again = simple.SIMPLE[name](changed, train, wanted, 0)
    np.testing.assert_array_equal(again[[0, 1, 2, 4]], made[[0, 1, 2, 4]])
    assert not np.array_equal(again[3], made[3])
    with pytest.raises(stats.TooFewCells, match="no training cell of 'b'"):
        simple.SIMPLE[name](cells, train[cells.labels[train] != "b"], wanted, 0)


def test_mean_and_bootstrap_by_hand(cells):
    train, _, _ = cells.split(0)
    own = cells.bins[train[cells.labels[train] == "b"]]
    np.testing.assert_allclose(simple.type_mean(cells, train, np.array(["b"]))[0], own.mean(0), rtol=1e-5)
    drawn = simple.bootstrap(cells, train, np.repeat("b", 200), 1)
    assert {tuple(row) for row in drawn} == {tuple(row) for row in own}


def test_the_negative_binomial_recovers_what_made_the_counts():
    rng = np.random.default_rng(0)
    share, phi = np.array([0.5, 0.3, 0.2]), np.array([0.0, 0.5, 2.0])
    depths = rng.uniform(20, 60, 20_000)
    mean = depths[:, None] * share
    rate = np.where(phi > 0, rng.gamma(1 / np.maximum(phi, 1e-9), phi, mean.shape), 1.0)
    found_share, found_phi, _ = simple.fit_negative_binomial(rng.poisson(mean * rate))
    np.testing.assert_allclose(found_share, share, atol=0.01)
    # depth is estimated from the counts themselves, of three genes here, and so takes part of the scatter with it
    assert found_phi[0] < 0.2 < found_phi[1] < found_phi[2]
    _, phi_of_poisson, _ = simple.fit_negative_binomial(rng.poisson(np.full((5000, 50), 2.0)))
    assert np.median(phi_of_poisson) < 0.02


def test_simulated_counts_are_binned_as_real_ones(cells):
    train, _, _ = cells.split(0)
    made = simple.negative_binomial(cells, train, np.repeat(["a", "b", "c"], 200), 0)
    assert np.array_equal(made, made.round())
    real = cells.bins[train]
    for kind, rows in zip("abc", np.split(made, 3), strict=True):
        own = real[cells.labels[train] == kind]
        assert np.abs(rows.mean(0) - own.mean(0)).mean() < 3.5
        assert abs((rows > 0).sum(1).mean() - (own > 0).sum(1).mean()) < 2


def test_scgpt_as_a_generator_knows_training_cells_only(cells):
    m = model()
    embedding = np.random.default_rng(0).normal(0, 2, (120, 16)).astype(np.float32)
    train, truth, _ = cells.split(0)
    wanted = np.array(["a", "b", "a", "c"])
    for kind, how in (("mean", {}), ("cells", {}), ("mean", {"sample": True, "steps": 2})):
        made = simple.from_cell_prompts(m, embedding, kind, **({"steps": 1} | how))(cells, train, wanted, 0)
        other = embedding.copy()
        other[truth] += 5
        again = simple.from_cell_prompts(m, other, kind, **({"steps": 1} | how))(cells, train, wanted, 0)
        np.testing.assert_array_equal(made, again)
        assert np.array_equal(made[0], made[2]) == (kind == "mean" and not how)
    with pytest.raises(ValueError, match="'mean' or 'cells'"):
        simple.from_cell_prompts(m, embedding, "median")


# --- judging ----------------------------------------------------------------------------------------


def test_real_cells_pass_and_copies_are_found(cells):
    train, truth, fresh = cells.split(0)
    wanted = cells.labels[fresh]
    real = scores.judge(cells.bins[fresh], wanted, cells, train, truth)
    assert real["classifier"] > 0.95
    assert real["specific"] > 0.8
    assert 0.8 < real["nearest"] < 1.2
    assert 0.8 < real["diversity"] < 1.2
    copies = scores.judge(simple.bootstrap(cells, train, wanted), wanted, cells, train, truth)
    assert copies["nearest"] == 0
    assert copies["copies"] == 1
    mean = scores.judge(simple.type_mean(cells, train, wanted), wanted, cells, train, truth)
    assert mean["diversity"] == 0
    assert mean["genes_per_cell"] > 1.1, "a mean expresses what any of its cells expresses"
    wrong = scores.judge(cells.bins[fresh], np.roll(wanted, 10), cells, train, truth)
    assert wrong["classifier"] < 0.05
    assert wrong["specific"] < 0


def test_the_table_of_all_generators(cells):
    seen = []

    def spy(given, train, wanted, seed):
        seen.append((train, wanted, seed))
        return given.bins[train[: len(wanted)]]

    table = scores.compare(cells, {"spy": spy}, n_draws=3, model="m", progress=False)
    assert list(table.columns) == ["model", "method", "dataset", "labels_per_class", "seed", "metric", "value"]
    assert set(table["method"]) == {"spy", *simple.SIMPLE, "real cells"}
    assert set(table["metric"]) == set(scores.METRICS)
    assert len(table) == 5 * 3 * len(scores.METRICS)
    assert np.isfinite(table["value"]).all()
    for draw, (train, wanted, seed) in enumerate(seen):
        expected = cells.split(draw)
        assert seed == draw
        np.testing.assert_array_equal(train, expected[0])
        np.testing.assert_array_equal(wanted, cells.labels[expected[1]])
    again = scores.compare(cells, {"spy": spy}, n_draws=3, model="m", progress=False)
    pd.testing.assert_frame_equal(table, again)
    gap = stats.paired_difference(table, "real cells", "type's mean", "gene_distance")
    assert gap.high < 0
