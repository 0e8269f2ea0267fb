"""An atlas through Snakemake: whole, killed and gone on with, made anew only where its content changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import tiny_geneformer
from processes import kill_and_wait, wait_for
from tiny_course import make_course

from coursekit.course import CourseError
from coursekit.rerun import atlas

N_CELLS = 60


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.6, (N_CELLS, tiny_geneformer.N_GENES)).astype(np.float32)
    counts[:, 0] += 1
    ids = [f"ENSG{number:011d}" for number in range(tiny_geneformer.N_GENES)]
    obs = pd.DataFrame({"n_counts": counts.sum(axis=1)}, index=[f"cell{i}" for i in range(N_CELLS)])
    var = pd.DataFrame({"ensembl_id": ids, "gene_symbol": ids}, index=ids)
    anndata.AnnData(sp.csr_matrix(counts), obs=obs, var=var).write_h5ad(tmp_path / "cells.h5ad")
    tiny_geneformer.model().save(tmp_path / "model")
    return make_course(tmp_path / "course")


def command(root: Path) -> list[str]:
    cells, model = root.parent / "cells.h5ad", root.parent / "model"
    own = ["atlas", str(cells), "--model", str(model), "--cells-per-shard", "20", "--dtype", "float32"]
    return [sys.executable, "-m", "coursekit", "--root", str(root), *own]


def plan_of(root: Path) -> atlas.Atlas:
    return atlas.plan(
        root, root.parent / "cells.h5ad", str(root.parent / "model"), cells_per_shard=20, dtype="float32"
    )  # fmt: skip


def test_an_atlas_that_is_killed_goes_on_where_it_was(root: Path) -> None:
    from scfm import load_model

    own = plan_of(root)
    env = dict(os.environ, OMP_NUM_THREADS="1")
    begun = subprocess.Popen(command(root), env=env, start_new_session=True, stderr=subprocess.DEVNULL)
    wait_for(lambda: own.shards[0].is_file() or begun.poll() is not None)
    kill_and_wait(begun, whole_group=True)
    assert own.shards[0].is_file()
    assert not own.embedding.is_file()
    kept = own.shards[0].stat().st_mtime_ns

    done = subprocess.run(command(root), env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert own.shards[0].stat().st_mtime_ns == kept
    assert "60 cells in 3 shards" in done.stdout
    assert not (own.folder / "tokens").exists()  # temporary, also those of the killed call
    found = anndata.read_h5ad(own.embedding)
    model = load_model(root.parent / "model")
    expected = model.embed(anndata.read_h5ad(root.parent / "cells.h5ad"), dtype="float32", progress=False)
    np.testing.assert_allclose(found.X, expected, rtol=0, atol=1e-5)

    made = own.embedding.stat().st_mtime_ns
    again = subprocess.run(command(root), env=env, capture_output=True, text=True)
    assert again.returncode == 0
    assert own.embedding.stat().st_mtime_ns == made


def test_the_key_follows_the_cells_and_the_choices(root: Path, tmp_path: Path) -> None:
    from coursekit.run import runkey

    first = plan_of(root)
    os.utime(tmp_path / "cells.h5ad", (1, 1))
    runkey.content_hash.cache_clear()
    assert plan_of(root).key == first.key
    assert atlas.plan(root, tmp_path / "cells.h5ad", str(tmp_path / "model"), cells_per_shard=30).key != first.key
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad")
    adata.X[0, 0] = 9
    adata.write_h5ad(tmp_path / "cells.h5ad")
    runkey.content_hash.cache_clear()
    assert plan_of(root).key != first.key
    assert atlas.Atlas.read(first.write()) == first
    with pytest.raises(CourseError, match="There is no file"):
        atlas.plan(root, tmp_path / "lost.h5ad")
