"""Shards: the same vectors as in one piece, whatever the cut; gaps, mixtures and empty cells are told."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import tiny_geneformer
import tiny_scgpt

from scfm import embed
from scfm.errors import FileFormatError, NotCountsError
from scfm.files import shards
from scfm.tokenized import TokenizedCells

N_CELLS, EMPTY = 53, 20


def cells(n_cells: int = N_CELLS) -> anndata.AnnData:
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.6, (n_cells, tiny_geneformer.N_GENES)).astype(np.float32)
    counts[:, 0] += 1
    counts[EMPTY] = 0
    ids = [f"ENSG{number:011d}" for number in range(tiny_geneformer.N_GENES)]
    obs = pd.DataFrame(
        {"n_counts": counts.sum(axis=1) + 3, "kind": pd.Categorical(rng.choice(["a", "b"], n_cells))},
        index=[f"cell{i}" for i in range(n_cells)],
    )
    symbols = [f"GENE{number}" for number in range(len(ids))]
    var = pd.DataFrame({"ensembl_id": ids, "gene_symbol": symbols}, index=ids)
    return anndata.AnnData(sp.csr_matrix(counts), obs=obs, var=var)


def make(model, path: Path, folder: Path, per_shard: int, dtype: str = "float32", **how) -> list[Path]:
    made = []
    for number, (first, last) in enumerate(shards.windows(shards.n_cells(path), per_shard)):
        tokens = folder / f"tokens{number}.parquet"
        shards.tokenize_shard(model, path, tokens, first, last)
        made.append(folder / f"shard{number}.parquet")
        shards.embed_shard(model, tokens, made[-1], dtype=dtype, **how)
    return made


@pytest.mark.parametrize("per_shard", [7, 20, 53, 100])
def test_shards_together_are_the_whole(tmp_path: Path, per_shard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "CHUNK_CELLS", 6)
    adata, model = cells(), tiny_geneformer.model()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    made = make(model, tmp_path / "cells.h5ad", tmp_path, per_shard, pooling="mean")
    report = shards.gather(made[::-1], tmp_path / "out.h5ad", tmp_path / "cells.h5ad")
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    full = np.arange(N_CELLS) != EMPTY
    expected = model.embed(model.tokenize(adata[full]), pooling="mean", dtype="float32", progress=False)
    np.testing.assert_allclose(np.asarray(found.X)[full], expected, rtol=0, atol=1e-5)
    assert np.isnan(np.asarray(found.X)[EMPTY]).all()
    pd.testing.assert_frame_equal(found.obs, adata.obs)  # labels come along
    assert report["empty_cells"] == 1
    assert report["n_shards"] == len(made) == -(-N_CELLS // per_shard)
    assert report["n_cells"] == found.n_obs == N_CELLS
    assert found.uns["scfm"]["model"] == "tiny"
    assert 0 < report["peak_memory"] < 2**33


def test_any_model_that_tokenizes_will_do(tmp_path: Path) -> None:
    adata, model = cells(), tiny_scgpt.model()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    made = make(model, tmp_path / "cells.h5ad", tmp_path, 20)
    vectors = np.concatenate([shards.load_shard(path)[0] for path in made])
    full = np.arange(N_CELLS) != EMPTY
    expected = model.embed(model.tokenize(adata[full]), dtype="float32", progress=False)
    np.testing.assert_allclose(vectors[full], expected, rtol=0, atol=1e-5)
    assert np.isnan(vectors[EMPTY]).all()


def test_ids_stand_where_no_source_is_given(tmp_path: Path) -> None:
    cells().write_zarr(tmp_path / "cells.zarr")
    made = make(tiny_geneformer.model(), tmp_path / "cells.zarr", tmp_path, 30)
    shards.gather(made, tmp_path / "out.h5ad", tmp_path / "cells.zarr")
    found = anndata.read_h5ad(tmp_path / "out.h5ad", backed="r")
    assert found.obs_names.tolist() == [f"cell{i}" for i in range(N_CELLS)]
    assert found.shape == (N_CELLS, 16)


def test_a_window_reads_only_its_cells(tmp_path: Path) -> None:
    from scfm.files.tokenize_file import open_cells

    cells().write_h5ad(tmp_path / "cells.h5ad")
    with (
        open_cells(tmp_path / "cells.h5ad", "X") as all_of_it,
        open_cells(tmp_path / "cells.h5ad", "X", window=(10, 30)) as some,
    ):
        assert len(some.cell_ids) == 20
        assert len(some.n_counts) == 20
        assert some.n_cells == N_CELLS
        counts, n_counts, ids = some.read(15, 25)
        counts_, n_counts_, ids_ = all_of_it.read(15, 25)
        assert counts.shape == (10, cells().n_vars)
        assert (counts != counts_).nnz == 0
        assert (counts != cells().X[15:25]).nnz == 0
        for one, other in [(n_counts, n_counts_), (ids, ids_)]:
            assert np.array_equal(one, other)


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    cells().write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "other").mkdir()
    made = make(tiny_geneformer.model(), tmp_path / "cells.h5ad", tmp_path, 20)
    other = make(tiny_geneformer.model(), tmp_path / "cells.h5ad", tmp_path / "other", 20, pooling="cls")
    out = tmp_path / "out.h5ad"
    with pytest.raises(ValueError, match="Cells 20 to 39 are in no shard"):
        shards.gather([made[0], made[2]], out)
    with pytest.raises(ValueError, match="in two"):
        shards.gather([made[0], made[0], made[1], made[2]], out)
    with pytest.raises(ValueError, match="different ways"):
        shards.gather([made[0], other[1], made[2]], out)
    with pytest.raises(ValueError, match="holds tokens, not an embedding"):
        shards.load_shard(tmp_path / "tokens0.parquet")
    cells(40).write_h5ad(tmp_path / "fewer.h5ad")
    with pytest.raises(FileFormatError, match="has 40 cells, the shards have 53"):
        shards.gather(made, out, tmp_path / "fewer.h5ad")
    assert not out.exists()  # nothing half-written
    with pytest.raises(ValueError, match="no cells 50 to 59"):
        shards.tokenize_shard(tiny_geneformer.model(), tmp_path / "cells.h5ad", out, 50, 60)
    with pytest.raises(ValueError, match="at least 1"):
        shards.windows(10, 0)


def test_shards_of_machines_that_chose_another_precision_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells().write_h5ad(tmp_path / "cells.h5ad")
    made = {}
    for kind in ("float32", "bfloat16"):  # what two machines make of "auto"
        monkeypatch.setattr(embed, "_has", lambda feature, kind=kind: kind == "bfloat16" and feature == "avx512_bf16")
        (tmp_path / kind).mkdir()
        made[kind] = make(tiny_geneformer.model(), tmp_path / "cells.h5ad", tmp_path / kind, 30, dtype="auto")
    with pytest.raises(ValueError, match="in bfloat16, others in float32"):
        shards.gather([made["float32"][0], made["bfloat16"][1]], tmp_path / "out.h5ad")
    assert shards.gather(made["bfloat16"], tmp_path / "out.h5ad")["dtype"] == "bfloat16"


def test_log_normalized_values_are_refused_in_the_shard_that_has_them(tmp_path: Path) -> None:
    adata = cells()
    adata.X.data[adata.X.indptr[45]] = 0.5
    adata.write_h5ad(tmp_path / "cells.h5ad")
    model = tiny_geneformer.model()
    shards.tokenize_shard(model, tmp_path / "cells.h5ad", tmp_path / "a.parquet", 0, 40)
    with pytest.raises(NotCountsError):
        shards.tokenize_shard(model, tmp_path / "cells.h5ad", tmp_path / "b.parquet", 40, 53)
    assert not (tmp_path / "b.parquet").exists()


def test_join_keeps_values_and_adds_reports() -> None:
    one = TokenizedCells.from_lists(
        [[1, 2], []], [[0.5, 1.5], []], cell_ids=["a", "b"], report={"n": 2, "empty": ["b"]}
    )
    two = TokenizedCells.from_lists([[3]], [[2.5]], cell_ids=["c"], report={"n": 1, "empty": [], "overlap": "x"})
    both = shards.join([one, two])
    assert [cell.tolist() for cell in both] == [[1, 2], [], [3]]
    assert both.values is not None
    assert both.values.tolist() == [0.5, 1.5, 2.5]
    assert both.cell_ids.tolist() == ["a", "b", "c"]
    assert both.report == {"n": 3, "empty": ["b"]}


def test_where_the_counts_are_is_said_before_any_shard_is_made(tmp_path: Path) -> None:
    logged = cells()
    logged.layers["counts"] = logged.X.copy()
    logged.layers["scaled"] = logged.X.toarray() - 1
    logged.X = logged.X.log1p()
    logged.write_h5ad(tmp_path / "logged.h5ad")
    with pytest.raises(NotCountsError, match=r"logged\.h5ad: X holds .* in layers/counts: .*--counts-in layers/counts"):
        shards.n_cells(tmp_path / "logged.h5ad")
    assert shards.n_cells(tmp_path / "logged.h5ad", "layers/counts") == N_CELLS
    del logged.layers["counts"]
    logged.write_h5ad(tmp_path / "none.h5ad")
    with pytest.raises(NotCountsError, match="No place does"):
        shards.n_cells(tmp_path / "none.h5ad")


def test_strings_as_pandas_3_writes_them(tmp_path: Path) -> None:
    plain = cells()
    plain.write_h5ad(tmp_path / "plain.h5ad")
    newer = plain.copy()
    newer.obs["kind"] = newer.obs["kind"].astype("string")
    newer.obs.index, newer.var.index = newer.obs.index.astype("string"), newer.var.index.astype("string")
    newer.var = newer.var.astype("string")
    with anndata.settings.override(allow_write_nullable_strings=True):
        newer.write_h5ad(tmp_path / "newer.h5ad", convert_strings_to_categoricals=False)
    model, made = tiny_geneformer.model(), {}
    for name in ("plain", "newer"):
        folder = tmp_path / name
        folder.mkdir()
        parts = make(model, tmp_path / f"{name}.h5ad", folder, 20)
        shards.gather(parts, folder / "embedding.h5ad", tmp_path / f"{name}.h5ad")
        made[name] = anndata.read_h5ad(folder / "embedding.h5ad")
    assert made["newer"].obs_names.tolist() == plain.obs_names.tolist()
    np.testing.assert_array_equal(made["newer"].X, made["plain"].X)
