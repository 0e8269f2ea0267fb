"""Completing cells: the question, the simple guessers, calibration, and the table of all settings."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny_scgpt as tiny
from scipy.stats import spearmanr
from small_scgpt import network, study

import scfm
from scfm.generation import completion
from scfm.generation.generating import gene_prompt
from scfm.generation.simple_generators import RealCells
from scfm.models.scgpt import ScGPT


@pytest.fixture(scope="module")
def model() -> ScGPT:
    return ScGPT(network(), tiny.VOCABULARY, "tiny")


@pytest.fixture(scope="module")
def cells(model) -> RealCells:
    return RealCells.of(study(), model, genes=[f"GENE{i}" for i in range(35)], name="three")


def question(n_cells: int = 4, n_genes: int = 6, n_train: int = 50, seed: int = 0) -> completion.Question:
    """Hidden genes are sums of observed ones, plus a little noise."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, 1, (5, n_genes))
    seen = rng.uniform(0, 10, (n_cells + n_train, 5)).astype(np.float32)
    hidden = (60 + seen @ weights + rng.normal(0, 0.1, (len(seen), n_genes))).astype(np.float32)
    prompt = tiny.TokenizedCells.from_lists([[tiny.CLS]] * n_cells)
    n = n_cells
    return completion.Question(
        prompt, list("abcde"), [str(g) for g in range(n_genes)], hidden[:n], seen[:n], seen[n:], hidden[n:]
    )


def test_hidden_genes_are_hidden_and_training_cells_are_others(cells, model):
    q = completion.hide(cells, model, n_observed=20, n_cells=9, seed=2)
    assert q.truth.shape == (9, 15)
    assert (q.prompt.lengths == 21).all(), "<cls> and the panel, zeros included"
    seen = {f"GENE{token}" for token in q.prompt[0].tolist() if token != tiny.CLS}
    assert seen | set(q.genes) == set(cells.genes)
    assert not seen & set(q.genes)
    rows = [int(i) for i in q.prompt.cell_ids]
    train, _, _ = cells.split(2)
    assert not set(rows) & set(train)
    columns = [cells.genes.index(gene) for gene in q.genes]
    np.testing.assert_array_equal(q.truth, cells.bins[np.ix_(rows, columns)])
    np.testing.assert_array_equal(q.train_hidden, cells.bins[np.ix_(train, columns)])
    own = dict(zip(q.prompt[4].tolist(), q.prompt.values[q.prompt.offsets[4] : q.prompt.offsets[5]], strict=True))
    assert all(own[int(gene[4:])] == cells.bins[rows[4], cells.genes.index(gene)] for gene in seen)
    with pytest.raises(ValueError, match="choose 1 to 34"):
        completion.hide(cells, model, n_observed=35)


def test_gene_prompts(model):
    made = gene_prompt(model, ["GENE3", "GENE9"], [[5, 0], [1, 2]], ["x", "y"])
    assert made[1].tolist() == [tiny.CLS, 3, 9]
    assert made.values.tolist() == [0, 5, 0, 0, 1, 2]
    assert list(made.cell_ids) == ["x", "y"]
    scfm.generate(model, made, ["GENE1"], progress=False)
    with pytest.raises(ValueError, match="2 genes but 3 columns"):
        gene_prompt(model, ["GENE3", "GENE9"], [[5, 0, 1]])


def test_simple_guessers_by_hand():
    q = question()
    means = q.train_hidden.mean(0)
    np.testing.assert_allclose(completion.gene_mean(q).value, np.tile(means, (4, 1)), rtol=1e-5)
    offset = (q.observed - q.train_observed.mean(0)).mean(1)
    np.testing.assert_allclose(completion.mean_and_offset(q).value, means + offset[:, None], rtol=1e-5)
    near = np.argsort(((q.observed[0] - q.train_observed) ** 2).sum(1))[:15]
    np.testing.assert_allclose(completion.nearest_cells(q).value[0], q.train_hidden[near].mean(0), rtol=1e-5)
    errors = {name: completion.score(guess(q), q)["squared_error"] for name, guess in completion.SIMPLE.items()}
    assert errors["ridge regression"] < 0.2 * errors["gene mean"], "what is linear, a linear guesser finds"
    assert errors["nearest cells"] < errors["gene mean"]


def test_guessers_of_a_panel_that_says_nothing_fall_back_to_the_mean():
    q = question(n_train=400)
    rng = np.random.default_rng(1)
    blind = completion.Question(
        q.prompt,
        q.seen,
        q.genes,
        q.truth,
        *(rng.permuted(x, axis=0) for x in (q.observed, q.train_observed)),
        q.train_hidden,
    )
    mean = completion.score(completion.gene_mean(blind), blind)["squared_error"]
    assert completion.score(completion.ridge(blind), blind)["squared_error"] < 1.15 * mean


def test_surer_is_better():
    rng = np.random.default_rng(0)
    confidence, error = rng.normal(size=(5, 30)), rng.normal(size=(5, 30)) ** 2
    each = [spearmanr(c, -e)[0] for c, e in zip(confidence, error, strict=True)]
    assert completion.surer_is_better(confidence, error) == pytest.approx(np.mean(each))
    assert completion.surer_is_better(-error, error) == pytest.approx(1)
    assert completion.surer_is_better(np.ones((2, 9)), error[:2, :9]) == 0


def test_reliability_and_its_error():
    said = np.array([[0.05, 0.05, 0.95, 1.0]])
    curve = completion.reliability(said, np.array([[0, 1, 1, 1]]))
    np.testing.assert_allclose(curve["said"], [0.05, 0.975])
    np.testing.assert_allclose(curve["happened"], [0.5, 1])
    assert curve["n"].tolist() == [2, 2]
    q = question()
    p = np.full(q.truth.shape, 0.7)
    found = completion.score(completion.Guess(q.truth, p), q)  # every truth is nonzero
    assert found["squared_error"] == 0
    assert found["brier"] == pytest.approx(0.09)
    assert found["calibration_error"] == pytest.approx(0.3)
    rng = np.random.default_rng(0)
    honest = rng.random(100_000)
    curve = completion.reliability(honest, rng.random(100_000) < honest)
    np.testing.assert_allclose(curve["said"], curve["happened"], atol=0.02)


def test_scgpt_answers_the_question_it_was_asked(cells, model):
    q = completion.hide(cells, model, n_observed=20, n_cells=5)
    how = {"steps": 2, "confidence": "random", "seed": 3}
    guess = completion.by_scgpt(model, q, own_share=False, **how)
    made = scfm.generate(model, q.prompt, q.genes, progress=False, **how)
    np.testing.assert_array_equal(guess.value, made.values)
    assert guess.tokens == made.about["tokens"] / 5
    shares = ((q.observed > 0).sum(1) + 0.5) / 21
    made = scfm.generate(model, q.prompt, q.genes, progress=False, share_on=shares, **how)
    np.testing.assert_array_equal(completion.by_scgpt(model, q, **how).value, made.values)


def test_settings():
    settings = list(completion.ways((1, 4), ("zero_prob", "random"), (True, False)))
    assert [completion.name(how) for how in settings] == [
        "K = 1, zero_prob",
        "K = 1, random",
        "K = 4, zero_prob",
        "K = 4, zero_prob, block-causal",
        "K = 4, random",
        "K = 4, random, block-causal",
    ]
    fed = list(completion.ways((1, 2), ("random",), feed=("expected", "likely")))
    assert [completion.name(how) for how in fed] == [
        "K = 1, random",
        "K = 2, random",
        "K = 2, random, off or on fed back",
    ]


def test_the_table_of_all_settings(cells, model):
    settings = list(completion.ways((1, 2), ("zero_prob", "random"), (True, False)))
    table = completion.compare(cells, model, settings, n_draws=2, n_observed=25, n_cells=3, progress=False)
    assert list(table.columns) == completion.COLUMNS
    assert set(table["method"]) == {*completion.SIMPLE, *(completion.name(how) for how in settings)}
    assert set(table["metric"]) == set(completion.METRICS)
    assert np.isfinite(table["value"]).all()

    def value(method, metric):
        return table[(table["method"] == method) & (table["metric"] == metric)]["value"].to_numpy()

    np.testing.assert_allclose(value("K = 1, zero_prob", "squared_error"), value("K = 1, random", "squared_error"))
    assert (value("K = 2, zero_prob", "tokens") > value("K = 2, zero_prob, block-causal", "tokens")).all()
    assert (table[table["method"] == "gene mean"]["steps"] == 0).all()


# --- what comes with the model ----------------------------------------------------------------------


def test_fewer_observed_genes(cells, model):
    q = completion.hide(cells, model, n_observed=20, n_cells=4)
    few = q.first(6)
    assert few.seen == q.seen[:6]
    assert few.prompt[2].tolist() == q.prompt[2][:7].tolist()
    np.testing.assert_array_equal(few.observed, q.observed[:, :6])
    np.testing.assert_array_equal(few.train_observed, q.train_observed[:, :6])
    np.testing.assert_array_equal(few.truth, q.truth)
    np.testing.assert_allclose(few.share_on(), ((few.observed > 0).sum(1) + 0.5) / 7)
    assert [tiny.VOCABULARY.tokens[gene] for gene in q.seen] == q.prompt[0][1:].tolist()


def test_corpus_means_by_hand(cells, model, monkeypatch):
    means = pd.DataFrame({"mean_bin": 30.0, "share_on": 0.5}, index=list(tiny.VOCABULARY.tokens))
    means.loc["GENE3"] = [40.0, 0.9]
    monkeypatch.setattr(model, "gene_means", lambda: means, raising=False)
    q = completion.hide(cells, model, n_observed=20, n_cells=4)
    guess = completion.corpus_means(model, q)
    np.testing.assert_allclose(guess.nonzero.mean(1), q.share_on(), atol=1e-4)
    np.testing.assert_allclose(guess.value, guess.nonzero * means.loc[q.genes, "mean_bin"].to_numpy())
    table = completion.compare(cells, model, [], n_draws=1, n_observed=20, n_cells=3, progress=False)
    assert "corpus means" in set(table["method"])


def test_models_without_means_are_compared_without_them(cells, model, monkeypatch):
    def none():
        raise FileNotFoundError

    monkeypatch.setattr(model, "gene_means", none, raising=False)
    table = completion.compare(cells, model, [], n_draws=1, n_observed=20, n_cells=3, progress=False)
    assert set(table["method"]) == set(completion.SIMPLE)


def test_study_means_take_the_place_of_the_models_own(cells, model):
    q = completion.hide(cells, model, n_observed=20, n_cells=4)
    guess = completion.by_scgpt(model, q, steps=1)
    moved = completion.with_study_means(model, q, guess, n_train=30)
    kept = (moved.value > 0).all(0)  # genes where no cell was cut at zero
    assert kept.any()
    by = (moved.value - guess.value)[:, kept]
    np.testing.assert_allclose(by, np.broadcast_to(by[:1], by.shape), atol=1e-3)  # one number per gene
    gaps = [completion.score(g, q)["squared_error"] for g in (guess, moved, completion.gene_mean(q))]
    assert gaps[1] < gaps[0], "a random network's means are no means at all"
    other = completion.with_study_means(model, q, completion.Guess(guess.value + 5), n_train=30)
    np.testing.assert_allclose(other.value[:, kept], (moved.value + 5)[:, kept], atol=1e-3)
