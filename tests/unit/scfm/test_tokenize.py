"""Rank and bin encoding on small matrices: what the lesson does by hand, and what must not change a cell's tokens."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scfm.errors import NotCountsError
from scfm.genes import RankVocabulary, SymbolVocabulary, VocabularyError
from scfm.store import cache
from scfm.tokenize import bin_encode, bin_rows, rank_encode, rank_rows, vocabulary_sha256

N_GENES = 12
MEDIANS = np.array([1.0, 1.0, 2.0, 0.5, 3.0, 1.0, 0.7, 4.0, 2.0, 1.5, 1.0, 9.0])  # with ties on purpose


def ranks(framed=False, n_genes=N_GENES, max_len=2048) -> RankVocabulary:
    special = {"<pad>": 0, "<mask>": 1} | ({"<cls>": 2, "<eos>": 3} if framed else {})
    ids = [f"ENSG{number:011d}" for number in range(n_genes)]
    medians = np.resize(MEDIANS, n_genes).tolist()
    return RankVocabulary(
        name="small",
        tokens={gene: len(special) + number for number, gene in enumerate(ids)},
        medians=dict(zip(ids, medians, strict=True)),
        mapping={gene: gene for gene in ids} | {"ENSG_OLD": ids[0]},
        symbols={},
        special=special,
        max_len=max_len,
    )


def symbols() -> SymbolVocabulary:
    return SymbolVocabulary("small", {f"G{i}": i for i in range(N_GENES)}, {"<pad>": 100, "<cls>": 101, "<eoc>": 102})


def as_adata(counts, n_counts=True, columns=None) -> anndata.AnnData:
    counts = sp.csr_matrix(np.asarray(counts, np.float32))
    columns = np.arange(counts.shape[1]) if columns is None else columns
    var = pd.DataFrame({"ensembl_id": [f"ENSG{i:011d}" for i in columns], "gene_symbol": [f"G{i}" for i in columns]})
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(counts.shape[0])])
    if n_counts:
        obs["n_counts"] = np.asarray(counts.sum(axis=1)).ravel()
    return anndata.AnnData(counts, obs=obs, var=var.set_index(var["ensembl_id"].to_numpy()))


def by_hand(counts, n_counts, token, median):
    """Ten readable lines: what lesson 02 does. Ties by token id."""
    out = []
    for cell, depth in zip(counts, n_counts, strict=True):
        genes = np.flatnonzero(cell)
        value = cell[genes] / depth * 10_000 / median[genes]
        out.append(token[genes[np.lexsort((token[genes], -value))]].tolist())
    return out


def lists(offsets, tokens):
    return [tokens[a:b].tolist() for a, b in itertools.pairwise(offsets)]


counts_of_cells = hnp.arrays(
    np.int64,
    st.tuples(st.integers(1, 6), st.just(N_GENES)),
    elements=st.one_of(st.just(0), st.integers(0, 6), st.integers(0, 5000)),
)
few = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


# --- ranks ------------------------------------------------------------------------------------------


@few
@given(counts_of_cells)
def test_ranks_are_those_made_by_hand(counts):
    adata = as_adata(counts)
    cells = rank_encode(adata, ranks())
    token = np.arange(2, 2 + N_GENES)
    depth = np.maximum(counts.sum(axis=1), 1)
    assert lists(cells.offsets, cells.tokens) == by_hand(counts, depth, token, MEDIANS)
    assert cells.report["empty_cells"] == [f"cell{i}" for i in np.flatnonzero(counts.sum(axis=1) == 0)]


@few
@given(counts_of_cells, st.permutations(range(N_GENES)), st.randoms(use_true_random=False))
def test_the_order_of_genes_and_cells_in_the_file_does_not_matter(counts, columns, random):
    rows = list(range(len(counts)))
    random.shuffle(rows)
    expected = rank_encode(as_adata(counts), ranks(framed=True))
    shuffled = rank_encode(as_adata(counts[rows][:, columns], columns=columns), ranks(framed=True))
    assert [shuffled[i].tolist() for i in range(len(rows))] == [expected[i].tolist() for i in rows]
    bins, shuffled_bins = (
        bin_encode(as_adata(counts), symbols()),
        bin_encode(as_adata(counts[rows][:, columns], columns=columns), symbols()),
    )
    for place, row in enumerate(rows):
        ours, theirs = shuffled_bins[place : place + 1], bins[row : row + 1]
        assert dict(zip(ours.tokens, ours.values, strict=True)) == dict(zip(theirs.tokens, theirs.values, strict=True))


@few
@given(counts_of_cells, st.integers(2, 50))
def test_scaling_a_cell_with_its_total_changes_nothing(counts, factor):
    assert np.array_equal(
        rank_encode(as_adata(counts), ranks()).tokens, rank_encode(as_adata(counts * factor), ranks()).tokens
    )
    assert np.array_equal(
        bin_encode(as_adata(counts), symbols()).values, bin_encode(as_adata(counts * factor), symbols()).values
    )


@pytest.mark.parametrize("n_genes", [1, 30, 3000, 9000])
@pytest.mark.parametrize("kind", ["all equal", "random", "two values", "wide"])
def test_full_cells_of_any_size_sort_exactly(n_genes, kind):
    rng = np.random.default_rng(0)
    counts = {
        "all equal": np.ones((3, n_genes)),
        "random": rng.poisson(2, (3, n_genes)) + 1.0,
        "two values": rng.integers(1, 3, (3, n_genes)) * 1.0,
        "wide": rng.integers(1, 2**24, (3, n_genes)) * 1.0,
    }[kind]
    median = np.ones(n_genes) if kind == "all equal" else rng.lognormal(0, 1, n_genes).round(2) + 0.01
    token = rng.permutation(n_genes).astype(np.int32) + 2
    depth = counts.sum(axis=1)
    matrix = sp.csr_matrix(counts)
    for max_len in (n_genes, n_genes // 2 + 1):
        offsets, tokens = rank_rows(matrix.indptr, matrix.indices, matrix.data, depth, token, median, max_len)
        assert lists(offsets, tokens) == [cell[:max_len] for cell in by_hand(counts, depth, token, median)]


def test_nearly_equal_values_are_ordered_by_their_last_bit():
    """float32 cannot tell these medians apart; float64 can, and the reference does."""
    median = 1 + np.arange(40) * 2.0**-50
    _, tokens = rank_rows(
        np.array([0, 40]), np.arange(40), np.ones(40, np.float32), np.array([40.0]), np.arange(40)[::-1], median, 100
    )
    value = 1 / 40 * 1e4 / median
    assert tokens.tolist() == np.arange(40)[::-1][np.lexsort((np.arange(40)[::-1], -value))].tolist()


def test_special_tokens_and_the_cut():
    cells = rank_encode(as_adata([[1] * N_GENES, [0] * N_GENES]), ranks(framed=True), max_len=6)
    assert cells[0][0] == 2
    assert cells[0][-1] == 3
    assert len(cells[0]) == 6
    assert cells[1].tolist() == [2, 3]  # the empty cell stays, as special tokens only
    assert cells.report["empty_cells"] == ["cell1"]
    assert cells.report["truncated_cells"] == 1
    assert len(rank_encode(as_adata([[1] * N_GENES]), ranks(), max_len=5)[0]) == 5
    with pytest.raises(ValueError, match="no room for a gene"):
        rank_encode(as_adata([[1] * N_GENES]), ranks(framed=True), max_len=2)


def test_columns_of_one_gene_are_summed():
    adata = as_adata([[3, 1, 0, 2], [0, 5, 0, 0], [1, 0, 4, 0]])
    adata.var["ensembl_id"] = ["ENSG00000000000", "ENSG00000000004", "ENSG_OLD", "ensg_old"]  # three names of gene 0
    cells = rank_encode(adata, ranks())
    summed = np.array([[5, 1], [0, 5], [5, 0]])
    assert lists(cells.offsets, cells.tokens) == by_hand(summed, summed.sum(axis=1), np.array([2, 6]), MEDIANS[[0, 4]])
    twice = as_adata([[3, 1, 2, 2], [0, 5, 0, 0]])
    twice.var["gene_symbol"] = ["G1", "G2", "G1", "G0"]
    bins = bin_encode(twice, symbols(), n_bins=None)
    assert [bins[0].tolist(), bins[1].tolist()] == [[101, 1, 2, 0], [101, 2]]
    assert bins.values.tolist() == [0, 5, 1, 2, 0, 5]


def test_sums_of_counts_of_one_byte_do_not_wrap():
    adata = as_adata([[200, 7, 100]])
    adata.X = sp.csr_matrix(np.array([[200, 7, 100]], np.uint8))
    adata.var["gene_symbol"] = ["G1", "G2", "G1"]
    assert bin_encode(adata, symbols(), n_bins=None).values.tolist() == [0, 300, 7]
    adata.X = sp.csr_matrix((np.array([200, 100, 7], np.uint8), [0, 0, 1], [0, 3]), shape=(1, 3))  # one entry twice
    assert bin_encode(adata, symbols(), n_bins=None).values.tolist() == [0, 300, 7]


def test_other_names_of_genes_survive_the_disk_and_count_in_the_hash(tmp_path):
    vocabulary, adata = replace(ranks(), symbols=dict.fromkeys(ranks().tokens, "")), as_adata(np.ones((1, N_GENES)))
    vocabulary.medians["ENSG00000000003"] = 0.9620899225997185  # pandas' fast way to read numbers is one bit off here
    adata.var["ensembl_id"] = ["ENSG_OLD", *adata.var["ensembl_id"][1:]]
    vocabulary.save(tmp_path)
    read = RankVocabulary.load(tmp_path)
    assert read == vocabulary
    assert vocabulary_sha256(read) == vocabulary_sha256(vocabulary)
    assert np.array_equal(rank_encode(adata, read).tokens, rank_encode(adata, vocabulary).tokens)

    without = replace(vocabulary, mapping={gene: gene for gene in vocabulary.tokens})
    assert vocabulary_sha256(without) != vocabulary_sha256(vocabulary)  # it encodes this cell in another way
    without.save(tmp_path)
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["rank_tokenizer.json", "vocabulary.tsv.gz"]
    assert RankVocabulary.load(tmp_path) == without


def test_the_hash_of_a_vocabulary_without_other_names_is_that_of_its_genes():
    """What was written beside tokens before other names counted is still right."""
    mini = RankVocabulary.load(cache.repo_data() / "models" / "geneformer-mini")
    assert vocabulary_sha256(mini).startswith("e667402cade321ee")


def test_only_cells_that_passed_the_filter():
    adata = as_adata(np.eye(4, N_GENES) + 1)
    adata.obs["filter_pass"] = [1, 0, 1, 0]
    for cells in (rank_encode(adata, ranks()), bin_encode(adata, symbols())):
        assert cells.cell_ids.tolist() == ["cell0", "cell2"]
        assert cells.report["filtered_out"] == 2


def test_n_counts_falls_back_to_the_sum_with_a_warning():
    counts = np.random.default_rng(0).poisson(1, (5, N_GENES))
    counts[0] = 0
    with pytest.warns(UserWarning, match="no n_counts"):
        cells = rank_encode(as_adata(counts, n_counts=False), ranks())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(cells.tokens, rank_encode(as_adata(counts), ranks()).tokens)


@pytest.mark.parametrize("make", [np.asarray, sp.csc_matrix, sp.coo_matrix, sp.csr_array])
def test_any_kind_of_matrix_and_number(make):
    counts = np.random.default_rng(0).poisson(1, (5, N_GENES))
    expected = rank_encode(as_adata(counts), ranks()).tokens
    for dtype in (np.int32, np.int64, np.uint16, np.float64):
        adata = as_adata(counts)
        adata.X = (
            make(counts.astype(dtype)) if make is not sp.coo_matrix else sp.coo_matrix(counts.astype(dtype)).tocsr()
        )
        assert np.array_equal(rank_encode(adata, ranks()).tokens, expected)


def test_threads_and_unsorted_rows_change_nothing():
    counts = sp.csr_matrix(np.random.default_rng(0).poisson(1, (700, N_GENES)).astype(np.float32))
    adata = as_adata(counts.toarray())
    expected = rank_encode(adata, ranks(), n_threads=1)
    assert np.array_equal(rank_encode(adata, ranks(), n_threads=3).tokens, expected.tokens)
    backwards = counts[:, ::-1].tocsr()[:, ::-1]  # same matrix, columns of a row in falling order
    split = sp.csr_matrix((backwards.data, backwards.indices, backwards.indptr), shape=backwards.shape)
    split.has_sorted_indices = False
    adata.X = split
    assert np.array_equal(rank_encode(adata, ranks()).tokens, expected.tokens)


@pytest.mark.parametrize("wrong", ["log-normalized", "negative", "nan", "infinite"])
@pytest.mark.parametrize("encode", [lambda a: rank_encode(a, ranks()), lambda a: bin_encode(a, symbols())])
def test_what_is_not_counts_is_refused(wrong, encode):
    counts = np.ones((3, N_GENES))
    words = {"log-normalized": "log-transformed", "negative": "negative", "nan": "NaN", "infinite": "infinite"}[wrong]
    counts[1, 2] = {"log-normalized": 0.69, "negative": -1, "nan": np.nan, "infinite": np.inf}[wrong]
    with pytest.raises(NotCountsError, match=words):
        encode(as_adata(counts))


def test_other_mistakes_have_their_own_words():
    adata = as_adata(np.ones((3, N_GENES)))
    adata.obs["n_counts"] = [12, 0, 12]
    with pytest.raises(ValueError, match=r"n_counts must be positive.*cell 1"):
        rank_encode(adata, ranks())
    adata.obs["n_counts"] = [12, np.nan, 12]
    with pytest.raises(ValueError, match="n_counts must be positive"):
        rank_encode(adata, ranks())
    with pytest.raises(VocabularyError, match="20%"):
        rank_encode(as_adata(np.ones((2, 100))), ranks())
    with pytest.raises(ValueError, match="n_threads"):
        rank_encode(as_adata(np.ones((2, N_GENES))), ranks(), n_threads=0)


# --- bins -------------------------------------------------------------------------------------------


@few
@given(counts_of_cells, st.sampled_from([2, 5, 51]), st.booleans(), st.one_of(st.none(), st.integers(0, 2**32 - 1)))
def test_bins_are_those_of_numpy(counts, n_bins, whole, seed):
    values = counts if whole else np.sqrt(counts)
    matrix = sp.csr_matrix(values.astype(np.float64))
    column_token = np.arange(N_GENES)
    offsets, tokens, bins = bin_rows(matrix.indptr, matrix.indices, matrix.data, column_token, n_bins, seed)
    assert np.array_equal(tokens, matrix.indices)
    for i in range(matrix.shape[0]):
        row = values[i][values[i] > 0]
        if len(row) == 0:
            continue
        edges = np.quantile(row, np.linspace(0, 1, n_bins - 1))
        left, right = np.digitize(row, edges), np.digitize(row, edges, right=True)
        expected = left
        if seed is not None:
            expected = np.ceil(np.random.RandomState(seed).rand(len(row)) * (right - left) + left)
        got = bins[offsets[i] : offsets[i + 1]]
        assert np.array_equal(got, expected)
        assert ((got >= 0) & (got <= n_bins - 1)).all()
        assert seed is not None or (got >= 1).all()


def test_a_long_cell_is_sampled_with_its_seed_and_keeps_cls():
    adata = as_adata(np.arange(1, 1 + 40 * N_GENES).reshape(40, N_GENES))
    full = bin_encode(adata, symbols(), n_bins=None)
    short = bin_encode(adata, symbols(), n_bins=None, max_len=6)
    assert (short.lengths == 6).all()
    assert short.report["truncated_cells"] == 40
    for i in range(40):
        assert short[i][0] == 101
        assert (np.diff(short[i][1:]) > 0).all()  # the order of the columns is kept
        pairs = set(zip(short[i].tolist(), short[i : i + 1].values.tolist(), strict=True))
        assert pairs <= set(zip(full[i].tolist(), full[i : i + 1].values.tolist(), strict=True))
    assert len({tuple(short[i].tolist()) for i in range(40)}) > 20  # each cell draws its own sample
    kept = np.bincount(short.tokens, minlength=N_GENES)[:N_GENES]
    assert (kept > 0).all()  # every gene has its chance
    assert np.array_equal(short.tokens, bin_encode(adata, symbols(), n_bins=None, max_len=6, n_threads=1).tokens)
    assert not np.array_equal(short.tokens, bin_encode(adata, symbols(), max_len=6, sample_seed=1).tokens)


@pytest.mark.parametrize("zeros", [False, True])
def test_the_sample_of_a_long_cell_does_not_depend_on_its_row(zeros):
    adata = as_adata(np.arange(1, 1 + 40 * N_GENES).reshape(40, N_GENES))
    how = {"n_bins": None, "max_len": 6, "include_zeros": zeros, "sample_seed": 2**32 - 1}
    whole = bin_encode(adata, symbols(), **how)
    order = np.random.default_rng(0).permutation(40)[:25]
    part = bin_encode(adata[order].copy(), symbols(), **how)
    for new, old in enumerate(order):
        assert part[new].tolist() == whole[old].tolist()
    assert len({tuple(whole[i].tolist()) for i in range(40)}) > 20


@pytest.mark.parametrize("zeros", [False, True])
def test_the_sample_of_a_long_cell_does_not_depend_on_the_order_of_the_columns(zeros):
    adata = as_adata(np.random.default_rng(1).poisson(3.0, (30, N_GENES)))
    how = {"max_len": 6, "include_zeros": zeros}
    whole = bin_encode(adata, symbols(), **how)
    turned = bin_encode(adata[:, np.random.default_rng(2).permutation(N_GENES)].copy(), symbols(), **how)
    for i in range(30):
        one, other = (dict(zip(c[i].tolist(), c[i : i + 1].values.tolist(), strict=True)) for c in (whole, turned))
        assert one == other


def test_a_symbol_of_another_release_takes_no_gene_away():
    """FAM46C became TENT5C: the Ensembl id says that they are one gene, and the vocabulary knows one of the names."""
    adata = as_adata(np.random.default_rng(0).poisson(2.0, (5, 3)))
    adata.var["ensembl_id"] = ["ENSG00000183508", "ENSG00000000003", "ENSG00000000005"]
    known = SymbolVocabulary("small", {"FAM46C": 7, "TSPAN6": 8, "TNMD": 9}, {"<pad>": 100, "<cls>": 101, "<eoc>": 102})
    for name, expected in (("FAM46C", 7), ("TENT5C", 7), ("nonsense", 7)):
        adata.var["gene_symbol"] = [name, "TSPAN6", "TNMD"]
        assert known.column_tokens(adata.var).tolist() == [expected, 8, 9]
    # a token whose own symbol another column bears stays with that column
    adata.var["gene_symbol"] = ["TENT5C", "FAM46C", "TNMD"]
    assert known.column_tokens(adata.var).tolist() == [-1, 7, 9]
    adata.var["gene_symbol"] = ["TENT5C", "TSPAN6", "TNMD"]
    del adata.var["ensembl_id"]
    assert known.column_tokens(adata.var).tolist() == [-1, 8, 9]


def test_zeros_can_be_kept():
    counts = np.array([[0, 3, 0, 1], [2, 0, 0, 0]])
    cells = bin_encode(as_adata(counts), symbols(), n_bins=None, include_zeros=True)
    assert [cells[0].tolist(), cells[1].tolist()] == [[101, 0, 1, 2, 3]] * 2
    assert cells.values.tolist() == [0, 0, 3, 0, 1, 0, 2, 0, 0, 0]


def test_unbinned_values_can_be_normalized():
    counts = np.array([[0, 3, 0, 1], [2, 0, 0, 0]])
    cells = bin_encode(as_adata(counts), symbols(), n_bins=None, normalize=1e4, log1p=True)
    assert np.allclose(cells.values, [0, np.log1p(7500), np.log1p(2500), 0, np.log1p(10_000)])
    binned, scaled = (bin_encode(as_adata(counts), symbols(), normalize=total) for total in (None, 1e4))
    assert np.array_equal(binned.values, scaled.values)  # a bin depends on the order alone


def test_wrong_settings_of_bins():
    adata = as_adata(np.ones((2, N_GENES)))
    with pytest.raises(ValueError, match="n_bins"):
        bin_encode(adata, symbols(), n_bins=1)
    with pytest.raises(ValueError, match="seed"):
        bin_encode(adata, symbols(), seed=-3)
    with pytest.raises(ValueError, match="no room"):
        bin_encode(adata, symbols(), max_len=1)
