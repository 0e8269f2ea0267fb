"""scfm.generate as a reader calls it: prompts, results, what they do not depend on, and refusals in words."""

from __future__ import annotations

import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import tiny_scgpt as tiny
import torch
from small_scgpt import network

import scfm
from scfm.generation.generating import Generated, bin_matrix, generate, keep_genes, mean_prompts
from scfm.models.scgpt import NotAvailableError, ScGPT

ASKED = [f"GENE{i}" for i in range(25, 40)]
QUIET = {"progress": False}


def model(**options) -> ScGPT:
    return ScGPT(network(**options), tiny.VOCABULARY, "tiny")


def prompts(n_cells: int = 7, seed: int = 0):
    """Cells of different lengths with genes 0 to 24 only."""
    return keep_genes(tiny.cells(n_cells, seed), np.arange(25))


def embeddings(n: int = 4) -> np.ndarray:
    return np.random.default_rng(5).normal(0, 1, (n, 16)).astype(np.float32) * 2


def counts(n_cells: int = 5) -> ad.AnnData:
    table = np.random.default_rng(0).poisson(1.5, (n_cells, tiny.N_GENES)).astype(np.float32)
    names = list(tiny.VOCABULARY.tokens)
    adata = ad.AnnData(sp.csr_matrix(table), var=pd.DataFrame({"gene_symbol": names}, index=names))
    adata.obs_names = [f"cell{i}" for i in range(n_cells)]
    return adata


# --- what comes out ---------------------------------------------------------------------------------


def test_one_step_is_the_networks_answer_to_the_prompt():
    m, cells = model(), prompts()
    made = scfm.generate(m, cells, ASKED, steps=1, **QUIET)
    assert made.values.shape == (7, 15)
    assert made.values.dtype == np.float32
    assert (made.known_at == 1).all()
    assert made.genes == ASKED
    assert list(made.cell_ids) == list(cells.cell_ids)
    asked = torch.tensor([tiny.VOCABULARY.tokens[gene] for gene in ASKED])[None]
    for i in range(len(cells)):
        values = torch.from_numpy(cells.values[cells.offsets[i] : cells.offsets[i + 1]].copy())[None]
        values[0, 0] = -2  # <cls> carries the padding value, as in generative pretraining
        with torch.no_grad():
            out = m.network.generate_forward(torch.from_numpy(cells[i].astype(np.int64))[None], values, asked)
        np.testing.assert_allclose(made.values[i], out.generated[0].clamp(0, 50), atol=1e-3)
        np.testing.assert_allclose(made.nonzero[i], out.generated_zero_prob[0], atol=1e-5)


def test_a_cell_prompt_stands_at_position_zero():
    m, prompt = model(), embeddings()
    made = scfm.generate(m, prompt, ASKED, steps=1, **QUIET)
    asked = torch.tensor([tiny.VOCABULARY.tokens[gene] for gene in ASKED]).expand(4, -1)
    cls = torch.full((4, 1), tiny.CLS)
    with torch.no_grad():
        out = m.network.generate_forward(cls, torch.zeros(4, 1), asked, cell_prompt=torch.from_numpy(prompt))
    np.testing.assert_allclose(made.values, out.generated.clamp(0, 50), atol=1e-3)
    alone = scfm.generate(m, prompt[1], ASKED, steps=1, **QUIET)
    np.testing.assert_allclose(alone.values[0], made.values[1], atol=1e-3)


def test_both_prompts_together():
    m, cells = model(), prompts()
    both = scfm.generate(m, cells, ASKED, steps=2, cell_prompt=embeddings(1), **QUIET)
    each = scfm.generate(m, cells, ASKED, steps=2, cell_prompt=np.repeat(embeddings(1), 7, 0), **QUIET)
    genes_only = scfm.generate(m, cells, ASKED, steps=2, **QUIET)
    cell_only = scfm.generate(m, embeddings(1), ASKED, steps=2, **QUIET)
    np.testing.assert_array_equal(both.values, each.values)
    assert np.abs(both.values - genes_only.values).max() > 0.1
    assert np.abs(both.values - cell_only.values).max() > 0.1


def test_counts_as_a_prompt_show_zeros_too():
    m, adata = model(), counts()
    observed = adata[:, :25].copy()
    made = scfm.generate(m, observed, ASKED, steps=1, **QUIET)
    cells = m.tokenize(observed, include_zeros=True)
    assert (cells.lengths == 26).all()
    np.testing.assert_array_equal(made.values, scfm.generate(m, cells, ASKED, steps=1, **QUIET).values)
    assert list(made.cell_ids) == list(adata.obs_names)
    observed.obs["filter_pass"] = 0
    with pytest.raises(ValueError, match=r"filter_pass.*leaves out"):
        scfm.generate(m, observed, ASKED, steps=1, **QUIET)


@pytest.mark.parametrize("measure", ["zero_prob", "variance", "dropout", "agreement", "largest", "random"])
@pytest.mark.parametrize("sample", [False, True])
def test_nothing_depends_on_minibatches_or_the_order_of_cells(measure, sample):
    m, cells = model(), prompts()
    how = {"steps": 3, "confidence": measure, "sample": sample, "n_samples": 2 if sample else 1, "seed": 4} | QUIET
    whole = scfm.generate(m, cells, ASKED, **how)
    for max_tokens in (1, 90):
        parts = scfm.generate(m, cells, ASKED, max_tokens=max_tokens, **how)
        np.testing.assert_allclose(parts.values, whole.values, atol=1e-2)
        assert np.array_equal(parts.known_at, whole.known_at)
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    shuffled = scfm.generate(m, cells[order], ASKED, **how)
    back = np.concatenate([np.flatnonzero(shuffled.prompt == place) for place in np.argsort(order)])
    np.testing.assert_allclose(shuffled.values[back], whole.values, atol=1e-2)
    assert list(shuffled.cell_ids[back]) == list(whole.cell_ids)


def test_seeds_decide():
    m, cells = model(), prompts()
    for how in ({"confidence": "random"}, {"sample": True}, {"confidence": "dropout"}):
        a, b, c = (scfm.generate(m, cells, ASKED, steps=3, seed=seed, **how, **QUIET).values for seed in (0, 0, 1))
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - c).max() > 1e-3, how
    a, b = (scfm.generate(m, cells, ASKED, steps=3, seed=seed, **QUIET).values for seed in (0, 1))
    np.testing.assert_array_equal(a, b)  # a point estimate has nothing to draw


def test_samples_of_a_prompt_differ_and_belong_to_it():
    m = model()
    frame = pd.DataFrame(embeddings(2), index=["T cell", "B cell"])
    made = scfm.generate(m, frame, ASKED, steps=2, sample=True, n_samples=30, **QUIET)
    assert made.prompt.tolist() == [0] * 30 + [1] * 30
    assert made.cell_ids[[0, 29, 30]].tolist() == ["T cell-0", "T cell-29", "B cell-0"]
    assert len(np.unique(made.values[:30], axis=0)) > 20
    again = scfm.generate(m, frame.iloc[[1]], ASKED, steps=2, sample=True, n_samples=30, **QUIET)
    np.testing.assert_allclose(again.values, made.values[30:], atol=1e-2)
    twice = scfm.generate(m, np.repeat(embeddings(1), 2, 0), ASKED, steps=2, sample=True, **QUIET)
    assert not np.array_equal(*twice.values), "the same prompt twice is two cells, not one"


def test_the_samples_of_a_named_prompt_do_not_hang_on_the_last_bits_of_its_embedding():
    m, frame = model(), pd.DataFrame(embeddings(3), index=["B cell", "T cell", "NK cell"])
    near = frame * (1 + 1e-6)  # what another number of threads makes of the same cells
    how = {"steps": 1, "sample": True, "n_samples": 5} | QUIET
    made, again = (scfm.generate(m, each, ASKED, **how).values for each in (frame, near))
    assert 0 < (made > 0).mean() < 1
    np.testing.assert_allclose(made, again, atol=1e-3)


def test_sampled_cells_are_on_as_often_as_the_network_says():
    made = scfm.generate(model(), embeddings(1), ASKED, steps=1, sample=True, n_samples=3000, **QUIET)
    np.testing.assert_allclose((made.values > 0).mean(0), made.nonzero[0], atol=0.04)
    assert (made.nonzero == made.nonzero[0]).all()
    assert set(np.unique(made.values[:, 0])) <= {0.0, made.values[:, 0].max()}
    point = scfm.generate(model(), embeddings(1), ASKED, steps=1, **QUIET).values[0]
    reachable = (point > made.nonzero[0]) & (point < 50 * made.nonzero[0])  # no clamp in the way
    assert reachable.sum() > 3
    np.testing.assert_allclose(made.values.mean(0)[reachable], point[reachable], atol=2.5)


def test_the_share_of_expressed_genes_can_be_given():
    m = model(if_expressed=True)
    frame = pd.DataFrame(embeddings(2), index=["T cell", "B cell"])
    made = scfm.generate(m, frame, ASKED, steps=1, share_on=np.array([0.2, 0.4]), sample=True, n_samples=400, **QUIET)
    np.testing.assert_allclose(made.nonzero[[0, 400]].mean(1), [0.2, 0.4], atol=1e-3)
    np.testing.assert_allclose([(made.values[:400] > 0).mean(), (made.values[400:] > 0).mean()], [0.2, 0.4], atol=0.03)
    one = scfm.generate(m, frame, ASKED, steps=1, share_on=0.3, **QUIET)
    np.testing.assert_allclose(one.nonzero.mean(1), 0.3, atol=1e-3)
    for wrong in (0.0, 1.2, np.array([0.5, 0.5, 0.5]), np.array([0.5, -1])):
        with pytest.raises(ValueError, match="between 0 and 1"):
            scfm.generate(m, frame, ASKED, share_on=wrong, **QUIET)


def test_every_gene_becomes_known_once_and_values_are_bins():
    made = scfm.generate(model(), prompts(), ASKED, steps=4, **QUIET)
    assert [int((made.known_at[0] == step).sum()) for step in range(5)] == [0, 4, 4, 3, 4]
    assert made.values.min() >= 0
    assert made.values.max() <= 50
    at_once = scfm.generate(model(), prompts(), ASKED, steps=1, **QUIET)
    for row in range(7):  # what is sure comes first, by what the network says at first sight
        assert set(np.argsort(-at_once.confidence[row])[:4]) == set(np.flatnonzero(made.known_at[row] == 1))
    few = scfm.generate(model(), prompts(), ASKED[:3], **QUIET)
    assert few.about["steps"] == 3
    assert sorted(few.known_at[0]) == [1, 2, 3]


def test_a_confidence_of_ones_own():
    def alphabetic(answer):
        return -torch.arange(answer.value.shape[1], dtype=torch.float32).expand_as(answer.value)

    made = scfm.generate(model(), prompts(), ASKED, steps=5, confidence=alphabetic, **QUIET)
    assert (made.known_at == np.repeat(np.arange(1, 6), 3)).all()
    assert made.about["confidence"] == "alphabetic"


def test_a_network_of_batches():
    m = model(num_batches=3, batch_tokens=True)
    labels = np.arange(7) % 3
    made = scfm.generate(m, prompts(), ASKED, steps=2, batch_labels=labels, **QUIET)
    other = scfm.generate(m, prompts(), ASKED, steps=2, batch_labels=(labels + 1) % 3, **QUIET)
    assert np.abs(made.values - other.values).max() > 0.01
    with pytest.raises(ValueError, match="give batch_labels"):
        scfm.generate(m, prompts(), ASKED, **QUIET)


def test_without_p_nonzero_there_is_none():
    made = scfm.generate(model(zero_prob=False), prompts(), ASKED, steps=2, **QUIET)
    assert made.about["confidence"] == "agreement"
    assert scfm.generate(model(), prompts(), ASKED, steps=2, **QUIET).about["confidence"] == "zero_prob"
    assert made.nonzero is None
    assert "nonzero" not in made.to_anndata().layers


def test_anndata_says_what_it_is():
    made = scfm.generate(model(), prompts(), ASKED, steps=3, **QUIET)
    adata = made.to_anndata()
    assert adata.shape == (7, 15)
    assert list(adata.var_names) == ASKED
    assert list(adata.obs_names) == list(made.cell_ids)
    np.testing.assert_array_equal(adata.X, made.values)
    np.testing.assert_array_equal(adata.layers["known_at"], made.known_at)
    assert "neither counts nor measured" in adata.uns["generated"]["X"]
    assert adata.uns["generated"]["steps"] == 3
    assert "7 cells, 15 genes; steps 3" in repr(made)


def test_the_network_stays_as_it_was():
    m = model()
    m.network.train()
    before = {name: tensor.clone() for name, tensor in m.network.state_dict().items()}
    scfm.generate(m, prompts(), ASKED, confidence="dropout", **QUIET)
    assert m.network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in m.network.state_dict().items())


def test_prompts_stay_as_they_were():
    cells = prompts()
    values = cells.values.copy()
    scfm.generate(model(), cells, ASKED, **QUIET)
    np.testing.assert_array_equal(cells.values, values)


def test_the_function_is_there_whichever_way_it_is_imported():
    for line in (
        "import scfm; scfm.generate(None, None, [])",
        "from scfm.generation.generating import Generated; import scfm; scfm.generate(None, None, [])",
        "import scfm.generation; scfm.generate(None, None, [])",
        "from scfm import generate; generate(None, None, [])",
        "from scfm.generation.generating import generate; generate(None, None, [])",
    ):
        ran = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=False)
        assert "An scGPT was expected, not NoneType" in ran.stderr, line


# --- prompts ----------------------------------------------------------------------------------------


def test_mean_prompts():
    m, cells = model(), tiny.cells(6)
    labels = ["b", "a", "b", "a", "a", "b"]
    frame = mean_prompts(m, cells, labels, progress=False)
    each = m.embed(cells, normalize=False, progress=False)
    assert list(frame.index) == ["a", "b"]
    np.testing.assert_allclose(frame.loc["a"], each[[1, 3, 4]].mean(0), atol=1e-5)
    with pytest.raises(ValueError, match="one label per cell"):
        mean_prompts(m, cells, labels[:5], progress=False)


def test_keep_genes_and_bin_matrix():
    cells = tiny.cells(9)
    kept = keep_genes(cells, [3, 7, 30])
    assert len(kept) == 9
    table = bin_matrix(cells, [30, 3, 7, 11])
    for i in range(9):
        own = dict(zip(cells[i].tolist(), cells.values[cells.offsets[i] : cells.offsets[i + 1]].tolist(), strict=True))
        assert kept[i].tolist() == [tiny.CLS] + [token for token in cells[i].tolist() if token in (3, 7, 30)]
        assert table[i].tolist() == [own.get(token, 0.0) for token in (30, 3, 7, 11)]
    np.testing.assert_array_equal(bin_matrix(kept, [30, 3, 7]), table[:, :3])
    with pytest.raises(ValueError, match="rank-encoded"):
        bin_matrix(tiny.TokenizedCells(cells.tokens, cells.offsets), [1])


# --- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genes": []}, "genes is empty"),
        ({"genes": ["GENE30", "GENE31x"]}, "not in the vocabulary tiny.*GENE31x. Did you mean GENE31"),
        ({"genes": ["ENSG00000010610"]}, "goes by gene symbols"),
        ({"genes": ["GENE30", "GENE30"]}, "more than once, for example GENE30"),
        ({"genes": ["GENE30", "GENE3"]}, "are in the prompt .for example GENE3.*cannot be generated"),
        ({"steps": 0}, "steps is 0"),
        ({"feed": "mean"}, "'likely' or 'expected'"),
        ({"n_samples": 3}, "give sample=True"),
        ({"n_samples": 0, "sample": True}, "n_samples is 0"),
        ({"confidence": "vibes"}, "it can be dropout, zero_prob, variance, agreement, largest, random, or a function"),
        ({"confidence": "dropout", "dropout_passes": 1}, "at least 2"),
        ({"prompt": None}, "prompt is missing"),
        ({"prompt": np.ones((3, 15))}, r"shape \(cell, 16\)"),
        ({"prompt": np.ones((0, 16))}, r"shape \(cell, 16\)"),
        ({"prompt": np.ones((2, 3, 16))}, r"shape \(cell, 16\)"),
        ({"prompt": np.full((3, 16), np.nan)}, "NaN"),
        ({"prompt": np.full((3, 16), 0.25)}, "normalize=False"),
        ({"prompt": np.ones((3, 16)), "cell_prompt": np.ones((3, 16))}, "Two cell prompts"),
        ({"cell_prompt": np.ones((3, 16))}, "7 gene prompts but 3 cell prompts"),
    ],
)
def test_refusals(change, message):
    given = {"prompt": prompts(), "genes": ASKED} | change
    with pytest.raises(ValueError, match=message):
        scfm.generate(model(), **given, **QUIET)


def test_prompts_without_cells_values_or_with_masked_ones():
    m = model()
    with pytest.raises(ValueError, match="no cells"):
        generate(m, prompts()[:0], ASKED, **QUIET)
    ranks = tiny.TokenizedCells(prompts().tokens, prompts().offsets)
    with pytest.raises(ValueError, match="no values"):
        generate(m, ranks, ASKED, **QUIET)
    masked = prompts()
    masked.values[1] = -1
    with pytest.raises(ValueError, match="bins from 0 to 50; from -1"):
        generate(m, masked, ASKED, **QUIET)


@pytest.mark.parametrize(
    ("options", "how", "message"),
    [
        ({"generative": False}, {}, "cannot do generation"),
        ({"zero_prob": False}, {"confidence": "zero_prob"}, "P.nonzero"),
        ({"zero_prob": False, "mvc": False}, {}, "cannot do GEPC"),
        ({"zero_prob": False}, {"confidence": "variance"}, "P.nonzero"),
        ({"zero_prob": False}, {"confidence": "random", "sample": True}, "does not give P.nonzero"),
        ({"zero_prob": False}, {"confidence": "random", "share_on": 0.3}, "does not give"),
        ({"mvc": False}, {"confidence": "agreement"}, "cannot do GEPC"),
        ({"dropout": 0.0}, {"confidence": "dropout"}, "would not differ"),
        ({"num_conditions": 3}, {}, "condition or modality"),
    ],
)
def test_what_a_network_cannot_do(options, how, message):
    with pytest.raises(NotAvailableError, match=message):
        scfm.generate(model(**options), prompts(), ASKED, **how, **QUIET)


def test_a_dropout_rate_of_ones_own():
    made = scfm.generate(model(dropout=0.0), prompts(), ASKED, confidence="dropout", dropout_rate=0.2, **QUIET)
    assert isinstance(made, Generated)
    assert made.confidence.min() < 0


def test_models_of_another_kind():
    with pytest.raises(TypeError, match="An scGPT was expected"):
        scfm.generate("scgpt", prompts(), ASKED)
