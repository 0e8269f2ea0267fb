"""Files in chunks: the same tokens as in memory, nothing lost by a kill, nothing mixed up by a changed input."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from small_file import N_GENES, vocabulary

from scfm.errors import FileFormatError, NotCountsError
from scfm.files.tokenize_file import tokenize_file
from scfm.genes import VocabularyError
from scfm.tokenize import TokenizedCells, rank_encode

N_CELLS = 230


def cells(n_cells=N_CELLS, seed=0) -> anndata.AnnData:
    counts = np.random.default_rng(seed).poisson(0.5, (n_cells, N_GENES)).astype(np.float32)
    counts[[3, 150]] = 0
    ids = [f"ENSG{number:011d}" for number in range(N_GENES)]
    obs = pd.DataFrame({"n_counts": counts.sum(axis=1) + 5}, index=[f"cell{i}" for i in range(n_cells)])
    return anndata.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame({"ensembl_id": ids}, index=ids))


def write(adata, path):
    adata.write_zarr(path) if path.suffix == ".zarr" else adata.write_h5ad(path)
    return path


def assert_same(ours: TokenizedCells, expected: TokenizedCells) -> None:
    assert np.array_equal(ours.tokens, expected.tokens)
    assert np.array_equal(ours.offsets, expected.offsets)
    assert np.array_equal(ours.cell_ids, expected.cell_ids)
    assert (ours.vocabulary_name, ours.vocabulary_sha256) == (expected.vocabulary_name, expected.vocabulary_sha256)
    for name in ("n_cells", "empty_cells", "truncated_cells", "filtered_out", "overlap"):
        assert ours.report[name] == expected.report[name], name


def plain(adata):
    return adata


def dense(adata):
    adata.X = adata.X.toarray()
    return adata


def filtered(adata):
    adata.obs["filter_pass"] = (np.arange(adata.n_obs) % 4 > 0).astype(int)
    return adata


def whole_numbers(adata):
    adata.X = adata.X.astype(np.int64)
    return adata


def categories(adata):
    adata.var["ensembl_id"] = adata.var["ensembl_id"].astype("category")
    adata.obs["n_counts"] = adata.obs["n_counts"].astype("Int64")
    return adata


def out_of_order(adata):
    """As some files hold them: the columns of a row backwards, and each count as two entries that are to be added."""
    x = adata.X
    order = np.concatenate([np.arange(*ends)[::-1] for ends in itertools.pairwise(x.indptr)])
    parts = np.stack([x.data[order] - 1, np.ones(x.nnz)], 1).astype(np.uint8)
    adata.X = sp.csr_matrix((parts.ravel(), np.repeat(x.indices[order], 2), x.indptr * 2), shape=x.shape)
    return adata


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("change", [plain, dense, filtered, whole_numbers, categories, out_of_order])
def test_chunks_give_the_same_tokens_as_memory(tmp_path, suffix, change):
    adata = change(cells())
    path = write(adata, tmp_path / f"cells{suffix}")
    manifest = tokenize_file(path, tmp_path / "out", vocabulary(), chunk_cells=64, progress=False)
    assert manifest["complete"]
    assert len(manifest["shards"]) == 4
    in_memory = rank_encode(adata, vocabulary())
    assert len(in_memory.report["empty_cells"]) > 0
    assert_same(TokenizedCells.load(tmp_path / "out"), in_memory)


def test_hugging_face_datasets_reads_the_shards(tmp_path):
    from datasets import Dataset

    path = write(cells(), tmp_path / "cells.h5ad")
    tokenize_file(path, tmp_path / "out", vocabulary(), chunk_cells=100, progress=False)
    shards = sorted(str(shard) for shard in (tmp_path / "out").glob("part-*.parquet"))
    data = Dataset.from_parquet(shards, cache_dir=str(tmp_path / "cache"))
    expected = rank_encode(cells(), vocabulary())
    assert data["input_ids"][:] == [expected[i].tolist() for i in range(len(expected))]
    assert data["length"][:] == expected.lengths.tolist()


def test_counts_in_layers_and_raw_and_without_n_counts(tmp_path):
    adata = cells()
    expected = rank_encode(adata, vocabulary())
    adata.raw = adata.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    path = write(adata, tmp_path / "cells.h5ad")
    for number, place in enumerate(["layers/counts", "raw/X"]):
        tokenize_file(path, tmp_path / str(number), vocabulary(), counts_in=place, progress=False)
        assert_same(TokenizedCells.load(tmp_path / str(number)), expected)
    with pytest.raises(NotCountsError, match=r"cells\.h5ad, cells 0 to 229: .*log-transformed"):
        tokenize_file(path, tmp_path / "x", vocabulary(), progress=False)
    with pytest.raises(ValueError, match="unfinished"):
        TokenizedCells.load(tmp_path / "x")  # nothing pretends to be a result
    with pytest.raises(FileFormatError, match=r"no layers/umi.*layers/counts, raw/X"):
        tokenize_file(path, tmp_path / "y", vocabulary(), counts_in="layers/umi", progress=False)
    bare = cells()
    del bare.obs["n_counts"]
    write(bare, tmp_path / "bare.h5ad")
    with pytest.warns(UserWarning, match="no n_counts"):
        tokenize_file(tmp_path / "bare.h5ad", tmp_path / "z", vocabulary(), progress=False)
    with pytest.warns(UserWarning, match="no n_counts"):
        expected = rank_encode(bare, vocabulary())
    assert_same(TokenizedCells.load(tmp_path / "z"), expected)


def test_genes_named_by_the_index(tmp_path):
    adata = cells()
    adata.var = pd.DataFrame(index=[f"{gene}.7" for gene in adata.var_names])  # with version suffixes
    tokenize_file(write(adata, tmp_path / "cells.h5ad"), tmp_path / "out", vocabulary(), progress=False)
    assert_same(TokenizedCells.load(tmp_path / "out"), rank_encode(cells(), vocabulary()))


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from scfm.files.tokenize_file import tokenize_file
from scfm.tokenize import TokenizedCells
from small_file import vocabulary
save = TokenizedCells.save
def slowly(self, path):
    out = save(self, path)
    print(out.name, flush=True)
    time.sleep(0.2)
    return out
TokenizedCells.save = slowly
tokenize_file({path!r}, {out!r}, vocabulary(), chunk_cells=10, progress=False, n_threads=1)
"""


def test_a_killed_run_is_taken_up_again(tmp_path):
    path, out = write(cells(), tmp_path / "cells.h5ad"), tmp_path / "out"
    script = KILLED.format(
        tests=str(Path(__file__).resolve().parents[4] / "tests" / "helpers"), path=str(path), out=str(out)
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    for _ in range(3):
        assert process.stdout.readline().startswith("part-")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    done = {shard.name: shard.stat().st_mtime_ns for shard in out.glob("part-*.parquet")}
    assert 3 <= len(done) < 23
    with pytest.raises(ValueError, match="unfinished"):
        TokenizedCells.load(out)
    (out / ".part-00022.parquet.abc.part").write_bytes(b"half")  # what a kill during a write leaves

    tokenize_file(path, out, vocabulary(), chunk_cells=10, progress=False)
    assert_same(TokenizedCells.load(out), rank_encode(cells(), vocabulary()))
    assert all((out / name).stat().st_mtime_ns == when for name, when in done.items())  # not made twice
    assert not list(out.glob(".part-*"))
    finished = {shard.name: shard.stat().st_mtime_ns for shard in out.glob("part-*.parquet")}
    tokenize_file(path, out, vocabulary(), chunk_cells=10, progress=False)  # nothing is left to do
    assert finished == {shard.name: shard.stat().st_mtime_ns for shard in out.glob("part-*.parquet")}


def test_another_input_or_setting_is_refused_and_can_start_anew(tmp_path):
    path, out = write(cells(), tmp_path / "cells.h5ad"), tmp_path / "out"
    tokenize_file(path, out, vocabulary(), chunk_cells=50, progress=False)
    before = json.loads((out / "manifest.json").read_text())
    with pytest.raises(ValueError, match=r"chunk_cells=50, now it is 60"):
        tokenize_file(path, out, vocabulary(), chunk_cells=60, progress=False)
    with pytest.raises(ValueError, match=r"max_len=20, now it is 9"):
        tokenize_file(path, out, vocabulary(), max_len=9, chunk_cells=50, progress=False)
    with pytest.raises(ValueError, match="vocabulary_sha256"):
        tokenize_file(path, out, vocabulary(framed=False), chunk_cells=50, progress=False)
    time.sleep(0.01)
    write(cells(seed=1), path)
    with pytest.raises(ValueError, match="the input has changed since"):
        tokenize_file(path, out, vocabulary(), chunk_cells=50, progress=False)
    assert json.loads((out / "manifest.json").read_text()) == before
    tokenize_file(path, out, vocabulary(), chunk_cells=100, resume=False, progress=False)
    assert_same(TokenizedCells.load(out), rank_encode(cells(seed=1), vocabulary()))
    assert len(list(out.glob("part-*"))) == 3  # the old shards are gone


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    path = write(cells(), tmp_path / "cells.h5ad")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds other files"):
        tokenize_file(path, tmp_path / "mine", vocabulary(), resume=False, progress=False)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_unreadable_inputs_are_named(tmp_path):
    path = write(cells(), tmp_path / "cells.h5ad")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        tokenize_file(tmp_path / "none.h5ad", tmp_path / "out", vocabulary())
    (tmp_path / "cut.h5ad").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(FileFormatError, match="cut off"):
        tokenize_file(tmp_path / "cut.h5ad", tmp_path / "out", vocabulary())
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileFormatError, match="zarr"):
        tokenize_file(tmp_path / "folder", tmp_path / "out", vocabulary())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["matrix"] = np.ones(3)
    with pytest.raises(FileFormatError, match="no AnnData file"):
        tokenize_file(tmp_path / "other.h5", tmp_path / "out", vocabulary())
    by_columns = cells()
    by_columns.X = by_columns.X.tocsc()
    write(by_columns, tmp_path / "csc.h5ad")
    with pytest.raises(FileFormatError, match="stored by columns"):
        tokenize_file(tmp_path / "csc.h5ad", tmp_path / "out", vocabulary())
    strangers = cells()
    strangers.var["ensembl_id"] = [f"ENSG9{number:010d}" for number in range(N_GENES)]
    write(strangers, tmp_path / "strangers.h5ad")
    with pytest.raises(VocabularyError, match="0 of 60 genes"):
        tokenize_file(tmp_path / "strangers.h5ad", tmp_path / "out", vocabulary())
    assert not (tmp_path / "out").exists()


def test_an_error_in_one_chunk_keeps_the_others(tmp_path):
    adata = cells()
    adata.obs.iloc[200, adata.obs.columns.get_loc("n_counts")] = 0
    path, out = write(adata, tmp_path / "cells.h5ad"), tmp_path / "out"
    with pytest.raises(ValueError, match=r"cells 200 to 219: n_counts must be positive"):
        tokenize_file(path, out, vocabulary(), chunk_cells=20, progress=False, n_threads=1)
    assert not (out / "part-00010.parquet").exists()
    assert (out / "part-00009.parquet").exists()
