"""A new lesson, data set or model: the files and the entry that it needs, in the form that the course expects."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coursekit.course import CourseError, Lesson, lessons
from coursekit.files import atomic_write, filled, write_text

TEMPLATES = Path(__file__).parent / "templates"
TO_FILL = "to be filled in"


def lesson(root: Path, name: str) -> list[Path]:
    """Write source, checkers and expectations of a lesson such as "42_my_question"; it runs as it is.

    Raises CourseError for a name of another form and for a number that is taken.
    """
    if not re.fullmatch(r"\d\d_[a-z][a-z0-9_]*", name):
        raise CourseError(f"A lesson is named like 42_my_question (two digits, then small letters), not {name!r}.")
    taken = [other.name for other in lessons(root) if other.number == name[:2]]
    if taken:
        raise CourseError(f"The number {name[:2]} is taken by {taken[0]}.")
    own = Lesson(root, name)
    words = {"NN": own.number, "TITLE": name[3:].replace("_", " ").capitalize()}
    places = {"lesson.py.txt": own.source, "checks.py.txt": own.checks, "expected.toml": own.expected}
    for template, path in places.items():
        write_text(path, filled(TEMPLATES / template, **words))
    return list(places.values())


def dataset(root: Path, name: str, file: Path, label: str = "", batch: str = "") -> list[Path]:
    """Copy raw counts (a file, or a folder of 10x or .zarr) into the cache folder, enter them into data/datasets.toml and write
    their data card.

    The file is read first, and then its copy: what the course could not load is not entered, and no copy of it stays. Raises
    CourseError for a name that is taken or a file that is not there; scfm's own errors say what is wrong with its content.
    """
    import scfm
    from scfm.store import cache

    _free(root / "data" / "datasets.toml", name, "")
    if not file.exists():
        raise CourseError(f"There is no file or folder {file} (seen from {Path.cwd()}).")
    ending = _ending(file)
    if file.is_file() and ending in (".mtx", ".mtx.gz"):
        raise CourseError(f"{file.name} is one of the three files of 10x; name the folder that holds them.")
    scfm.load_dataset(file.resolve(), label=label or None, batch=batch or None)
    kept = cache.writable() / "data" / f"{name}{ending}"
    if kept.exists():
        raise CourseError(f"{kept} is there already. Take another name, or move that one away.")
    _copy(file, kept)
    try:
        adata = scfm.load_dataset(kept.resolve(), label=label or None, batch=batch or None)
    except BaseException:
        shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
        raise
    files = [path for path in (kept.rglob("*") if kept.is_dir() else [kept]) if path.is_file()]
    columns = [f" {role} = {json.dumps(value)}" for role, value in (("label", label), ("batch", batch)) if value]
    words = {
        "NAME": name,
        "FILE": kept.name,
        "SHA256": cache.sha256(kept),
        "BYTES": sum(path.stat().st_size for path in files),
        "CELLS": adata.n_obs,
        "GENES": adata.n_vars,
        "COLUMNS": ",".join(columns) + " " * bool(columns),
    }
    _append(root / "data" / "datasets.toml", filled(TEMPLATES / "dataset.toml", **words))
    done = subprocess.run([sys.executable, str(root / "data" / "make_cards.py")], capture_output=True, text=True)
    if done.returncode:
        raise CourseError(f"The data card could not be written:\n{done.stderr.strip()}")
    return [root / "data" / "datasets.toml", root / "data" / "cards" / f"{name}.md", kept]


def _ending(file: Path) -> str:
    """What the name of a copy must end in to be read as this one is: ".h5ad", ".csv.gz"; "" for a folder of 10x."""
    if file.is_dir():
        return ".zarr" if file.suffix == ".zarr" else ""
    return (Path(file.stem).suffix if file.suffix == ".gz" else "") + file.suffix


def _copy(file: Path, kept: Path) -> None:
    """A file or a folder at another place, whole or not at all."""
    from scfm.store import cache

    if file.is_dir():
        with cache.new_folder(kept) as whole:
            shutil.copytree(file, whole, dirs_exist_ok=True)
    else:
        with atomic_write(kept) as temporary:
            shutil.copyfile(file, temporary)


def model(root: Path, name: str, random: bool = False) -> list[Path]:
    """Enter the folder data/models/NAME (as ``Geneformer.save`` or ``ScGPT.save`` writes it) into data/models.toml, with its hashes.

    ``random``: write that folder first, as geneformer-mini with random weights: something to try the steps with. Raises
    CourseError for a name that is taken or a folder that is no model.
    """
    import scfm
    from scfm.store import cache

    _free(root / "data" / "models.toml", name, "models.")
    folder = root / "data" / "models" / name
    if random:
        scfm.load_model("geneformer-mini", weights="random", seed=1).save(folder)
    if not all((folder / file).is_file() for file in ("config.json", "model.safetensors")):
        raise CourseError(f"There is no model in {folder}. Save one there first (model.save(folder)), or add --random.")
    loaded = scfm.load_model(folder)  # a folder that cannot be read is not entered
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = {
        key: config[key]
        for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
        if key in config
    }
    shape["max_position_embeddings"] = loaded.most_tokens
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".md")
    hashes = [f'"{path.name}" = {{ sha256 = "{cache.sha256(path)}", bytes = {path.stat().st_size} }}' for path in files]
    words = {"NAME": name, "KIND": loaded.kind, "FILES": "\n".join(hashes)}
    words["SHAPE"] = "\n".join(f"{key} = {json.dumps(value)}" for key, value in shape.items())
    _append(root / "data" / "models.toml", filled(TEMPLATES / "model.toml", **words))
    card = folder / "README.md"
    if not card.exists():
        write_text(card, f"# {name}\n\n{loaded}\n\nTrained on: {TO_FILL}. What it can and cannot do: {TO_FILL}.\n")
    return [root / "data" / "models.toml", folder]


def _free(path: Path, name: str, table: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise CourseError(f"A name has small letters, digits, - and _, and begins with a letter; {name!r} has not.")
    if re.search(rf"^\[{re.escape(table + name)}\]", path.read_text(encoding="utf-8"), re.M):
        raise CourseError(f"{name} is in {path.name} already.")


def _append(path: Path, table: str) -> None:
    """Put a table at the end of a TOML file, whole or not at all."""
    import tomllib

    text = path.read_text(encoding="utf-8")
    new: str = text.rstrip("\n") + "\n\n" + table
    tomllib.loads(new)
    write_text(path, new)


def make(root: Path, what: str, name: str, **more: Any) -> list[Path]:
    """Make one of the three by its word; returns the files that were written."""
    makers: dict[str, Callable[..., list[Path]]] = {"lesson": lesson, "dataset": dataset, "model": model}
    return makers[what](root, name, **more)
