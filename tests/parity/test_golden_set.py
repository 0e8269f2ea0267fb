"""The small golden set: small, made by its script, and row by row what the full files say."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import anndata
import numpy as np
import pytest
from safetensors.numpy import load_file

from scfm.genes import RankVocabulary, SymbolVocabulary

SMALL = Path(__file__).parents[1] / "golden"
FILES = sorted(path for path in SMALL.rglob("*") if path.is_file() and path.suffix != ".pyc")
MADE = [path.relative_to(SMALL) for path in FILES if path.name not in ("README.md", "shorten.py")]
SETS = {"pbmc3k": "pbmc3k", "kang_ifnb_pbmc": "kang_ifnb_pbmc", "lung_celllines": "lung_celllines_5batch"}


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def content(path: Path) -> dict[str, np.ndarray] | bytes:
    """What a file says, whatever the version that compressed it."""
    if path.suffix == ".npz":
        return read(path)
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() <= expected.keys()
    for name, array in got.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def rows(cells: np.ndarray, cell_ids: np.ndarray) -> list[int]:
    return [cells.tolist().index(cell) for cell in cell_ids]


def pieces(array: np.ndarray, offsets: np.ndarray, kept: list[int] | None = None) -> np.ndarray:
    """The values of the cells ``kept`` (all, unless given) of a ragged array, one after the other."""
    kept = list(range(len(offsets) - 1)) if kept is None else kept
    return np.concatenate([array[offsets[i] : offsets[i + 1]] for i in kept])


def test_it_stays_small() -> None:
    assert sum(path.stat().st_size for path in FILES) <= 3_000_000
    assert max(path.stat().st_size for path in FILES) < 1_000_000


def test_the_readme_names_every_file() -> None:
    text = (SMALL / "README.md").read_text()
    # of a folder whose files are all alike, its name is enough
    assert not [str(path) for path in MADE if f"`{path}`" not in text and f"`{path.parts[0]}/`" not in text]


def test_its_script_makes_these_files(shared, tmp_path) -> None:
    for name in ("golden", "dictionaries", *(f"data/{file}.h5ad" for file in SETS.values())):
        shared(name)
    spec = importlib.util.spec_from_file_location("shorten", SMALL / "shorten.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()) == MADE
    for name in MADE:
        made, kept = content(tmp_path / name), content(SMALL / name)
        if isinstance(made, bytes):
            assert made == kept, name
        else:
            assert made.keys() == kept.keys()
            assert_same(made, kept)


@pytest.mark.parametrize("name", SETS)
def test_cells_and_tokens_are_rows_of_the_full_files(name: str, shared) -> None:
    small, full = (read(folder / f"geneformer_tokens_{name}.npz") for folder in (SMALL, shared("golden")))
    kept = rows(full["cell_id"], small["cell_id"])
    np.testing.assert_array_equal(small["n_counts"], full["n_counts"][kept])
    for version in ("V1", "V2"):
        for key in ("input_ids", "tie_group"):
            expected = pieces(full[f"{version}_{key}"], full[f"{version}_offsets"], kept)
            np.testing.assert_array_equal(pieces(small[f"{version}_{key}"], small[f"{version}_offsets"]), expected)

    cells = read(SMALL / "cells" / f"{name}.npz")
    adata = anndata.read_h5ad(shared(f"data/{SETS[name]}.h5ad"))[cells["cell_id"]]
    counts = np.zeros(adata.shape)
    for i, (first, last) in enumerate(zip(cells["indptr"][:-1], cells["indptr"][1:], strict=True)):
        counts[i, cells["column"][cells["indices"][first:last]]] = cells["counts"][first:last]
    np.testing.assert_array_equal(counts, adata.X.toarray())
    for key in ("ensembl_id", "gene_symbol"):
        assert cells[key].tolist() == adata.var[key].iloc[cells["column"]].tolist()


def test_bins_are_rows_of_the_full_file(shared) -> None:
    small, full = (read(folder / "scgpt_bins_pbmc3k.npz") for folder in (SMALL, shared("golden")))
    kept = rows(full["cell_id"], small["cell_id"])
    small["gene_index"] = read(SMALL / "cells" / "pbmc3k.npz")["column"][small["gene_index"]]
    for key in ("gene_index", "left_digit", "right_digit", "binned_numpy_seed0"):
        expected = pieces(full[key], full["offsets"], kept)
        np.testing.assert_array_equal(pieces(small[key], small["offsets"]), expected)
    assert small["n_bins"] == full["n_bins"]


def test_vocabularies_are_rows_of_the_published_ones(shared) -> None:
    shared("dictionaries/geneformer")
    for version in ("V1", "V2"):
        small = RankVocabulary.load(SMALL / "vocabularies" / f"geneformer_{version.lower()}")
        full = RankVocabulary.published(version)
        assert small.tokens.items() <= full.tokens.items()
        assert small.medians.items() <= full.medians.items()
        assert (small.special, small.max_len, small.name) == (full.special, full.max_len, full.name)
        for name in SETS:  # nothing that the cells need was left out
            ids = read(SMALL / "cells" / f"{name}.npz")["ensembl_id"]
            for ours, theirs in zip(small.columns(ids), full.columns(ids), strict=True):
                np.testing.assert_array_equal(ours, theirs)
    symbols = SymbolVocabulary.load(SMALL / "vocabularies" / "scgpt_vocab.json")
    published = SymbolVocabulary.load(shared("dictionaries/scgpt/default_census_vocab.json"))
    assert symbols.tokens.items() <= published.tokens.items()
    assert symbols.special == published.special
    ids = read(SMALL / "cells" / "pbmc3k.npz")["gene_symbol"]
    np.testing.assert_array_equal(symbols.tokens_of(ids), published.tokens_of(ids))
    lines = (SMALL / "vocabularies" / "gremln_gene_vocab.csv").read_text().splitlines()
    assert set(lines) <= set(shared("dictionaries/gremln/gene_vocab.csv").read_text().splitlines())


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_tiny_geneformers_are_the_full_ones_without_unused_tokens(version: str, shared) -> None:
    folder = shared("golden") / f"geneformer_tiny_{version}"
    small, full = read(SMALL / folder.name / "reference_io.npz"), read(folder / "reference_io.npz")
    old = small.pop("full_token_id")
    kept = [full["cell_layer0"].tolist().index(row) for row in small["cell_layer0"].tolist()]
    tokens = pieces(old[small.pop("input_ids")], small.pop("offsets"))
    np.testing.assert_array_equal(tokens, pieces(full["input_ids"], full["offsets"], kept))
    assert_same(small, {name: full[name][kept] for name in small})

    weights, expected = (load_file(path / "model.safetensors") for path in (SMALL / folder.name, folder))
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
        expected[name] = expected[name][old]
    assert weights.keys() == expected.keys()
    assert_same(weights, expected)

    vocabulary, published = RankVocabulary.load(SMALL / folder.name), RankVocabulary.published(version.upper())
    assert [vocabulary.gene(token) for token in range(len(old))] == [published.gene(token) for token in old]
    perturbed, every = (read(path / f"geneformer_perturb_{version}.npz") for path in (SMALL, folder.parent))
    assert perturbed.keys() == every.keys()
    assert all(set(perturbed[name].tolist()) <= set(every[name].tolist()) for name in every.keys() - {"absent"})


def test_all_else_is_the_full_files_content(shared) -> None:
    full = shared("golden")
    renumbered = ("geneformer_", "scgpt_bins", "cells", "vocabularies")  # the tests above
    others = [name for name in MADE if not str(name).startswith(renumbered) and name.name != "02_binning_pbmc3k.npz"]
    assert len(others) > 30
    for name in others:
        if name.suffix == ".npz":
            assert_same(read(SMALL / name), read(full / name))
        else:
            assert (SMALL / name).read_bytes() == (full / name).read_bytes(), name

    small, whole = (read(folder / "gremln" / "02_binning_pbmc3k.npz") for folder in (SMALL, full))
    kept = rows(whole["obs_names"], small["obs_names"])
    column = rows(whole["vocab_gene_ids"], small["vocab_gene_ids"])
    for key in ("counts", "bins", "bins_from_float32", "bins_if_not_vocab_filtered"):
        np.testing.assert_array_equal(small[key], whole[key][np.ix_(kept, column)])
    assert not np.delete(whole["counts"][kept], column, axis=1).any()
