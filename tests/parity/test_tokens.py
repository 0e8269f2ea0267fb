"""Ranks and bins equal those of the reference implementations, outside the ties that the golden files mark."""

from __future__ import annotations

import numpy as np
import pytest

from scfm.tokenize import bin_encode, bin_rows, rank_encode


def in_float64(vocabulary, token, median, row, n_counts):
    """The rank encoding of one cell by hand, equal values by token id: our rule inside the golden files' ties."""
    n_tokens = max(vocabulary.tokens.values()) + 1
    counts, median_of = np.zeros(n_tokens), np.ones(n_tokens)
    known = token[row.indices] >= 0
    np.add.at(counts, token[row.indices[known]], row.data[known])
    median_of[token[token >= 0]] = median[token >= 0]
    genes = np.flatnonzero(counts)
    value = counts[genes] / np.float64(n_counts) * 1e4 / median_of[genes]
    order = genes[np.lexsort((genes, -value))]
    if not vocabulary.starts_with_cls:
        return order[:2048].tolist()
    return [vocabulary.special["<cls>"], *order[:4094].tolist(), vocabulary.special["<eos>"]]


@pytest.mark.parametrize("version", ["V1", "V2"])
@pytest.mark.parametrize("name", ["pbmc3k", "kang_ifnb_pbmc", "lung_celllines"])
def test_ranks_equal_the_reference(references, name, version):
    golden = np.load(references.file(f"geneformer_tokens_{name}.npz"))
    adata = references.cells(name, golden["cell_id"])
    assert np.array_equal(adata.obs["n_counts"], golden["n_counts"])
    vocabulary = references.ranks(version)
    token, median = vocabulary.columns(adata.var["ensembl_id"])
    cells = rank_encode(adata, version if references.name == "full" else vocabulary)
    assert np.array_equal(cells.cell_ids, golden["cell_id"])
    assert np.array_equal(cells.offsets, golden[f"{version}_offsets"])

    n_checked = 0
    for i, (first, last) in enumerate(zip(cells.offsets[:-1], cells.offsets[1:], strict=True)):
        ours = cells[i]
        theirs, group = golden[f"{version}_input_ids"][first:last], golden[f"{version}_tie_group"][first:last]
        in_tie = np.bincount(group)[group] > 1
        assert np.array_equal(ours[~in_tie], theirs[~in_tie])
        assert len(set(ours.tolist())) == len(ours)
        assert ours.tolist() == in_float64(vocabulary, token, median, adata.X[i], golden["n_counts"][i])
        n_checked += int((~in_tie).sum())
    assert n_checked > 0.99 * len(cells.tokens)


def test_bins_equal_the_reference(references):
    golden = np.load(references.file("scgpt_bins_pbmc3k.npz"))
    matrix = references.cells("pbmc3k", golden["cell_id"]).X.tocsr()
    n_bins = int(golden["n_bins"])
    every_column = np.arange(matrix.shape[1])
    assert np.array_equal(matrix.indices, golden["gene_index"])

    for seed, expected in ((None, golden["left_digit"]), (0, golden["binned_numpy_seed0"])):
        offsets, tokens, values = bin_rows(matrix.indptr, matrix.indices, matrix.data, every_column, n_bins, seed)
        assert np.array_equal(offsets, golden["offsets"])
        assert np.array_equal(tokens, golden["gene_index"])
        assert np.array_equal(values, expected)
    _, _, other_seed = bin_rows(matrix.indptr, matrix.indices, matrix.data, every_column, n_bins, 7)
    assert (other_seed >= golden["right_digit"]).all()
    assert (other_seed <= golden["left_digit"]).all()
    assert not np.array_equal(other_seed, golden["binned_numpy_seed0"])


def test_bins_with_the_published_vocabulary(references):
    """The genes that the vocabulary lacks are dropped before binning, as upstream does; numpy does the same by hand."""
    vocabulary = references.symbols()
    golden = np.load(references.file("scgpt_bins_pbmc3k.npz"))
    adata = references.cells("pbmc3k", golden["cell_id"][:20])
    adata = adata[:, ~adata.var["gene_symbol"].duplicated()].copy()  # two columns of one symbol would be summed
    cells = bin_encode(adata, vocabulary, n_bins=51)
    token = vocabulary.column_tokens(adata.var)
    for i in range(len(cells)):
        counts = adata.X[i].toarray().ravel()
        genes = np.flatnonzero((counts > 0) & (token >= 0))
        edges = np.quantile(counts[genes], np.linspace(0, 1, 50))
        assert cells[i].tolist() == [vocabulary.special["<cls>"], *token[genes].tolist()]
        assert cells[i : i + 1].values.tolist() == [0, *np.digitize(counts[genes], edges).tolist()]
