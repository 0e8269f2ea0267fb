"""A name or a folder in, a model out: finding the files, and refusing those that are not what they should be."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm.models.base import START, WEIGHTS, Model, ModelError, read_json
from scfm.store import cache, hub

if TYPE_CHECKING:
    import pandas as pd


def load_model(name: str | Path, device: str = "cpu", weights: str = "pretrained", seed: int = 0) -> Model:
    """Load a checkpoint, by name or from a folder.

    Parameters
    ----------
    name
        ``"geneformer-mini"``, ``"scgpt-mini"`` (come with the course), ``"geneformer-v1-10m"``, ``"geneformer-v2-104m"``,
        ``"geneformer-v2-104m-clcancer"``, ``"geneformer-v2-316m"`` (downloaded once, then verified at each load), or a folder
        with config.json and model.safetensors: in the hub's layout, or written by ``Geneformer.save`` or ``ScGPT.save``. For
        scGPT: ``"tdc/scgpt"``, or a folder as upstream releases it (args.json, best_model.pt, vocab.json).
    device
        ``"cpu"``, ``"cuda"``, or ``"auto"`` for the GPU if there is one.
    weights
        ``"pretrained"``; ``"random"`` for the same network untrained (the twin that every result is compared with); or
        ``"start"``, for our own models that keep it: the random twin with the gene embeddings and the output bias that
        pretraining began with.
    seed
        Of the random weights.

    Returns
    -------
    A :class:`scfm.models.base.Model`: :class:`scfm.models.geneformer.Geneformer` or :class:`scfm.models.scgpt.ScGPT`.

    Raises
    ------
    ModelError
        Unknown name; missing, damaged, pickled or mismatching files.
    scfm.store.hub.HubError
        A published file could not be had or verified.
    """
    if weights not in ("pretrained", "random", "start"):
        raise ModelError(f"weights is {weights!r}; it can be 'pretrained', 'random' or 'start'.")
    folder, entry, official = _locate(name, weights)
    shown = official if official is not None else Path(name).resolve().name
    model: Model = reader(folder, entry).load(folder, shown, entry, weights, seed)
    model.source = official if official is not None else Path(name).resolve()
    if model.sha256:  # a random twin comes from its seed, not from a file
        cache.announce("model", model.name, model.sha256)
    model.network.to(_device(device)).eval()
    return model


def list_models() -> pd.DataFrame:
    """The checkpoints that ``load_model`` knows by name: size, training data, licence, and whether they are on this machine."""
    import pandas as pd

    rows = []
    for name, entry in hub.catalogue()["models"].items():
        bundled = entry.get("bundled")
        here = bundled or all(cache.find(f"{entry['folder']}/{file}") for file in entry["files"])
        rows.append(
            {
                "model": name,
                "layers": entry["architecture"]["num_hidden_layers"],
                "d": entry["architecture"]["hidden_size"],
                "positions": entry["architecture"]["max_position_embeddings"],
                "tokens": entry["architecture"]["vocab_size"],
                "megabytes": round(entry["files"][WEIGHTS].get("bytes", 0) / 1e6, 1),
                "pretrained_on": entry["cells"],
                "licence": entry["licence"],
                "citation": entry["citation"],
                "on_this_machine": bool(here),
            }
        )
    return pd.DataFrame(rows).set_index("model")


def has_warm_start(name: str | Path) -> bool:
    """Can ``load_model(name, weights="start")`` give the state before the first step of pretraining? Nothing is downloaded."""
    entry = hub.catalogue()["models"].get(hub.plain_name(str(name)))
    if entry is None:
        return (Path(name) / START).exists()
    return "bundled" in entry and (cache.repo_data() / entry["bundled"] / START).exists()


# --- which kind? ------------------------------------------------------------------------------------


def readers() -> list[Any]:
    """The modules that read a kind of model: every ``*_files.py`` beside this one has ``recognizes`` and ``load``."""
    names = sorted(
        m.name for m in pkgutil.iter_modules(sys.modules[str(__package__)].__path__) if m.name.endswith("_files")
    )
    return [importlib.import_module(f"scfm.models.{name}") for name in names]


def reader(folder: Path | None, entry: dict[str, Any]) -> Any:
    """The reader of these files (or of this entry of the catalogue); ModelError where there is none."""
    for module in readers():
        if module.recognizes(folder, entry):
            return module
    if folder is None or entry:
        raise ModelError(f"data/models.toml lists a model of kind {entry.get('kind')!r}, which nothing here reads.")
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder} has no config.json, so it is not a model's folder in the hub's layout.")
    content = read_json(folder / "config.json")
    kind = content.get("model_type") if isinstance(content, dict) else None
    raise ModelError(
        f"{folder / 'config.json'} describes a model of type {kind!r}; Geneformer is a 'bert', scGPT a 'scgpt'. Other kinds of "
        "models are not read by this version of the course."
    )


def kind_of(folder: str | Path) -> str:
    """The kind of the model in a folder, without loading it: "geneformer", "scgpt"; ModelError where it is none."""
    return reader(Path(folder), {}).__name__.rpartition(".")[2].removesuffix("_files")


# --- which files? -----------------------------------------------------------------------------------


def _locate(name: str | Path, weights: str) -> tuple[Path | None, dict[str, Any], str | None]:
    """Folder with the files (None for a random twin of a hub model), catalogue entry ({} for a folder), official name."""
    known = hub.catalogue()["models"]
    plain = hub.plain_name(str(name))
    if isinstance(name, str) and plain in known:
        entry = known[plain]
        if "bundled" in entry:
            folder = cache.repo_data() / entry["bundled"]
            for file, pin in entry["files"].items():
                if not (folder / file).exists():
                    raise ModelError(
                        f"{folder} lacks {file}; it is part of the course: `git checkout {folder / file}`."
                    )
                hub.verify(folder / file, pin, advice=f"It is part of the course: `git checkout {folder / file}`.")
            return folder, entry, plain
        if weights == "random":
            return None, entry, plain
        if weights == "start":
            raise ModelError(f"{plain} was published without its warm start: it has only 'pretrained' and 'random'.")
        at_root = entry.get("at_root")  # the repository holds one model, without a folder
        paths = [
            hub.fetch(
                entry["repo"], entry["revision"], f"{entry['folder']}/{f}", pin, **({"in_repo": f} if at_root else {})
            )
            for f, pin in entry["files"].items()
        ]
        entry = entry | {"paths": {path.name: path for path in paths}}
        return paths[0].parent, entry, plain
    if Path(name).is_dir():
        return Path(name), {}, None
    old = hub.catalogue()["old_names"].get(plain)
    if old:
        raise ModelError(f"{name!r} is an old name. Load {old['now']!r} instead: {old['note']}.")
    if Path(name).exists():
        raise ModelError(f"{name} is a file; give the folder that holds config.json and {WEIGHTS}.")
    close = difflib.get_close_matches(plain, [*known, *hub.catalogue()["old_names"]], n=3, cutoff=0.5)
    close = list(dict.fromkeys(hub.catalogue()["old_names"].get(match, {"now": match})["now"] for match in close))
    hint = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    raise ModelError(
        f"There is no model and no folder {str(name)!r}. {hint}Known names: {', '.join(known)}; or give a folder with "
        f"config.json and {WEIGHTS}."
    )


def _device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device is {device!r}, but PyTorch sees no GPU here. Use device='cpu', or 'auto'.")
    return device
