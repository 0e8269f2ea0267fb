"""An atlas: a file of millions of cells, tokenized and embedded in shards through Snakemake. ``make atlas`` calls it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from coursekit.course import CourseError
from coursekit.files import alone, atomic_write, file_hash, write_json
from coursekit.lesson.params import files_from
from coursekit.machine.facts import LOCK
from coursekit.rerun import snakemake
from coursekit.run import runkey
from coursekit.run.courserun import bar

CELLS_PER_SHARD = 10_000


@dataclass(frozen=True)
class Atlas:
    """What is to be embedded, how, and where it goes. ``how`` is handed to model.embed, ``device`` to load_model."""

    root: str
    file: str
    model: str
    cells: int
    cells_per_shard: int
    key: str
    counts_in: str = "X"
    device: str = "auto"
    dtype: str = "auto"
    how: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    resources: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Plan, shards, embedding.h5ad and Snakemake's log."""
        return Path(self.root) / "runs" / "atlas" / f"{Path(self.file).stem}-{self.key}"

    @property
    def embedding(self) -> Path:
        """The result."""
        return self.folder / "embedding.h5ad"

    @property
    def report(self) -> Path:
        """What the result cost, and what is in it."""
        return self.folder / "report.json"

    @property
    def done(self) -> bool:
        """Whether the result is there, with its report."""
        return self.embedding.is_file() and self.report.is_file()

    @property
    def shards(self) -> list[Path]:
        """The files of the embedded shards, in order."""
        count = -(-self.cells // self.cells_per_shard)
        return [self.folder / "shards" / f"{number:05d}.parquet" for number in range(count)]

    def write(self) -> Path:
        """Write plan.json, which every job reads."""
        own = {"kind": "atlas", "store": str(self.folder), "python": sys.executable, "shards": len(self.shards)}
        path = self.folder / "plan.json"
        write_json(path, {**own, "atlas": asdict(self), **asdict(self)})
        return path

    @classmethod
    def read(cls, path: Path) -> Atlas:
        """Read a plan.json."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))["atlas"])


def plan(root: Path, file: Path, model: str = "geneformer-mini", **choices: Any) -> Atlas:
    """Work out the shards of a file; its key is made of the file's bytes, the model, the library, the lock and the ``choices``.

    ``choices``: cells_per_shard, counts_in, device, dtype, how, threads, resources, as Atlas has them. Raises CourseError for a
    file that is not there and for shards without cells; scfm's own errors for one that is no AnnData.
    """
    from scfm.files import shards

    choices = {"cells_per_shard": CELLS_PER_SHARD, "key": "", **choices}
    if choices["cells_per_shard"] < 1:
        raise CourseError(f"A shard holds at least one cell, not {choices['cells_per_shard']} (--cells-per-shard).")
    if not file.exists():
        raise CourseError(f"There is no file {file} (seen from {Path.cwd()}).")
    model = files_from({"model": model}, Path.cwd())["model"]
    own = Atlas(str(root), str(file.resolve()), model, cells=0, **choices)
    total = shards.n_cells(own.file, own.counts_in)
    if total == 0:
        raise CourseError(f"{file.name} has no cells.")
    known = Path(model)
    parts = {
        "cells": runkey.content_hash(Path(own.file)),
        "model": runkey.content_hash(known) if known.is_absolute() else runkey.listed(root, "model", "", (model,)),
        "name": known.name if known.is_absolute() else model,
        "library": runkey.library_hash(),
        "lock": file_hash(root / LOCK),
        "choices": [own.cells_per_shard, own.counts_in, own.dtype, own.how],
    }
    return replace(own, cells=total, key=runkey.digest(parts)[:12])


def step(plan_file: Path, what: str, number: int) -> None:
    """One job of an atlas: "tokens" or "embedding" of a shard, or "gather"."""
    import torch

    from coursekit.rerun.watchdog import end_with
    from scfm import load_model
    from scfm.files import shards

    end_with(os.environ.get("COURSEKIT_GRID_DRIVER"))
    own = Atlas.read(plan_file)
    tokens = own.folder / "tokens" / f"{number:05d}.parquet"
    if what == "gather":
        with atomic_write(own.embedding) as temporary:  # under its name after the report: where it is, all is
            report = shards.gather(own.shards, temporary, own.file)
            write_json(own.report, report)
        return
    torch.set_num_threads(own.threads)
    if what == "tokens":
        first, last = shards.windows(own.cells, own.cells_per_shard)[number]
        shards.tokenize_shard(load_model(own.model), own.file, tokens, first, last, own.counts_in)
    else:
        model = load_model(own.model, device=own.device)
        shards.embed_shard(model, tokens, own.shards[number], own.dtype, **own.how)


def make(own: Atlas, jobs: int = 1, on: str | None = None, more: Sequence[str] = ()) -> bool:
    """Embed what is missing; True when embedding.h5ad is there, with its report. Raises CourseError where another process is at it."""
    if own.done:
        return True
    with (
        alone(own.folder / "lock", f"{own.folder.name} is being made by another process; wait for it, or stop it."),
        bar(own.cells, " cells") as shown,
    ):
        if not own.done:  # Snakemake knows the embedding only
            own.embedding.unlink(missing_ok=True)

        def watch() -> None:
            done = sum(path.is_file() for path in own.shards)
            shown.update(min(done * own.cells_per_shard, own.cells) - shown.n)

        snakemake.snakemake(own.write(), jobs, own.threads, on, more, watch)
    if own.done:  # Snakemake forgets the tokens of a shard that was done when it was killed
        shutil.rmtree(own.folder / "tokens", ignore_errors=True)
    return own.done


def words(own: Atlas, made: bool) -> str:
    """The outcome for people."""
    if not made:
        done = sum(path.is_file() for path in own.shards)
        log = own.folder / "snakemake.log"
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]
        said = f"{done} of {len(own.shards)} shards are there; the rest failed, see {log}. The same command goes on."
        return "\n".join([*tail, said])
    report = json.loads(own.report.read_text(encoding="utf-8"))
    n = report["empty_cells"]
    empty = f", {n:,} of them without a gene of the vocabulary (NaN)" if n else ""
    return (
        f"{report['n_cells']:,} cells in {report['n_shards']} shards{empty}; largest process {report['peak_memory'] / 2**30:.2f} GiB.\n"
        f"{own.embedding}   (anndata.read_h5ad: X is the embedding, row i = cell i of {Path(own.file).name})"
    )
