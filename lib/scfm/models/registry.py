"""A name or a folder in, a model out: finding the files, and refusing those that are not what they should be."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm.genes import RankVocabulary, VocabularyError
from scfm.inside.seeded import seeded
from scfm.store import cache, hub

if TYPE_CHECKING:
    import pandas as pd
    from transformers import BertConfig, BertForMaskedLM

    from scfm.models.geneformer import Geneformer
    from scfm.models.scgpt import ScGPT

WEIGHTS = "model.safetensors"
START = "start.safetensors"  # what pretraining began with, where that was not random weights
PICKLED_WEIGHTS = ("pytorch_model.bin", "model.bin", "best_model.pt", "pytorch_model.pt")
# a published vocabulary is recognized by its size, which config.json states
VERSION_OF_SIZE = {25_426: "V1", 20_275: "V2"}


class ModelError(ValueError):
    """A model's name is unknown, or its files do not make a model; the message says what to do."""


def load_model(name: str | Path, device: str = "cpu", weights: str = "pretrained", seed: int = 0) -> Any:
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
    :class:`scfm.models.geneformer.Geneformer` or :class:`scfm.models.scgpt.ScGPT`.

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
    from scfm.models import scgpt_files

    model: Geneformer | ScGPT
    if scgpt_files.recognizes(folder, entry):
        model = scgpt_files.load(folder, shown, entry, weights, seed)
    elif folder is None:
        model = _random_without_files(shown, entry, seed)
    else:
        model = _from_folder(folder, shown, entry, weights, seed)
    model.source = official if official is not None else Path(name).resolve()
    if model.sha256:  # a random twin comes from its seed, not from a file
        cache.announce("model", model.name, model.sha256)
    model.network.to(_device(device)).eval()  # type: ignore[arg-type]
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


# --- are they a model? ------------------------------------------------------------------------------


def _from_folder(folder: Path, name: str, entry: dict[str, Any], weights: str, seed: int) -> Geneformer:
    from scfm.models.geneformer import SPECIAL, Geneformer

    paths: dict[str, Path] = entry.get("paths", {})
    config = read_config(paths.get("config.json", folder / "config.json"), entry.get("architecture", {}))
    vocabulary, missing = _vocabulary(folder, config, entry, needed=weights == "pretrained")
    special = SPECIAL.get(VERSION_OF_SIZE.get(config.vocab_size or 0, ""), {})
    if weights == "random":
        network, digest = random_network(config, seed), None
        name = f"{name} (random weights, seed {seed})"
    elif weights == "start":
        network, digest = warm_start_network(folder, config, seed), cache.sha256(folder / START)
        name = f"{name} (warm start, seed {seed})"
    else:
        path = paths.get(WEIGHTS, folder / WEIGHTS)
        network = read_network(path, config)
        digest = cache.sha256(path)
    return Geneformer(network, vocabulary, name, digest, special, missing)


def _random_without_files(name: str, entry: dict[str, Any], seed: int) -> Geneformer:
    """The random twin of a hub model needs no weights: its architecture is in the catalogue."""
    from transformers import BertConfig

    from scfm.models.geneformer import SPECIAL, Geneformer

    config = BertConfig(pad_token_id=0, type_vocab_size=2, **entry["architecture"])
    vocabulary, missing = _vocabulary(Path(), config, entry, needed=False)
    return Geneformer(
        random_network(config, seed),
        vocabulary,
        f"{name} (random weights, seed {seed})",
        None,
        SPECIAL[entry["vocabulary"]],
        missing,
    )


def _vocabulary(
    folder: Path, config: BertConfig, entry: dict[str, Any], needed: bool
) -> tuple[RankVocabulary | None, str]:
    """The vocabulary that belongs to these weights; or None and the reason, where the caller can do without."""
    version = entry.get("vocabulary") or VERSION_OF_SIZE.get(config.vocab_size or 0)
    try:
        if (folder / "vocabulary.tsv.gz").exists():
            vocabulary = RankVocabulary.load(folder)
        elif version:
            vocabulary = RankVocabulary.published(version)
        else:
            raise ModelError(
                f"{folder} has no vocabulary.tsv.gz, and its {config.vocab_size:,} tokens are neither those of Geneformer V1 "
                "(25,426) nor of V2 (20,275): nothing says which token is which gene. Save it with Geneformer.save."
            )
    except (hub.HubError, ModelError, VocabularyError) as error:
        if needed:
            raise
        return None, str(error)
    largest = max([*vocabulary.tokens.values(), *vocabulary.special.values()])
    if len(vocabulary) != config.vocab_size or largest >= len(vocabulary):
        raise ModelError(
            f"The weights in {folder} have {config.vocab_size:,} tokens, the vocabulary {vocabulary.name} has "
            f"{len(vocabulary):,} (largest id {largest:,}): they do not belong together."
        )
    return vocabulary, ""


def read_config(path: Path, expected: dict[str, Any]) -> BertConfig:
    """Read a ``config.json`` and compare it with the published architecture; ModelError says what differs."""
    from transformers import BertConfig

    if not path.exists():
        raise ModelError(f"{path.parent} has no config.json, so it is not a model's folder in the hub's layout.")
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not readable JSON ({error}); it may be cut off.") from error
    if content.get("model_type") != "bert":
        raise ModelError(
            f"{path} describes a model of type {content.get('model_type')!r}; Geneformer is a 'bert'. Other kinds of models "
            "are not read by this version of the course."
        )
    if content.get("position_embedding_type", "absolute") != "absolute":
        raise ModelError(
            f"{path} asks for {content['position_embedding_type']!r} positions; Geneformer's are 'absolute'."
        )
    differing = [
        f"{key} is {content.get(key)!r}, not {value!r}" for key, value in expected.items() if content.get(key) != value
    ]
    if differing:
        raise ModelError(f"{path} is not the published one: {'; '.join(differing)}.")
    return BertConfig(**content)


def random_network(config: BertConfig, seed: int) -> BertForMaskedLM:
    """The network with BERT's own random initialization (normal, sd 0.02), the same for the same seed."""
    from transformers import BertForMaskedLM

    config._attn_implementation = "sdpa"
    with seeded(seed):
        return BertForMaskedLM(config)


def warm_start_network(folder: Path, config: BertConfig, seed: int) -> BertForMaskedLM:
    """The random twin with the tensors of ``start.safetensors`` in it: the state before the first step of pretraining."""
    from safetensors.torch import load_file

    path = folder / START
    if not path.exists():
        raise ModelError(f"{folder.name} keeps no warm start (no {START}): it has only 'pretrained' and 'random'.")
    network = random_network(config, seed)
    _, unexpected = network.load_state_dict({k: v.float() for k, v in load_file(path).items()}, strict=False)
    if unexpected:
        raise ModelError(f"{path} holds tensors that the network does not have: {', '.join(unexpected)}.")
    return network


def read_network(path: Path, config: BertConfig) -> BertForMaskedLM:
    """Read safetensors into a ``BertForMaskedLM``, in float32 whatever the file's precision; nothing may be missing or left.

    Raises
    ------
    ModelError
        No safetensors, pickled weights only, a damaged file, or names and shapes that do not fit ``config``.
    """
    import torch
    from safetensors import SafetensorError, safe_open
    from transformers import BertForMaskedLM

    if not path.exists():
        pickled = [file for file in PICKLED_WEIGHTS if (path.parent / file).exists()]
        if pickled:
            raise ModelError(
                f"{path.parent} has {pickled[0]}, a pickle, which can run any code when it is read, so it is not read. "
                f"Get {WEIGHTS}; every current checkpoint has one."
            )
        raise ModelError(f"{path.parent} has no {WEIGHTS}.")
    with torch.device("meta"):  # shapes without memory
        network = BertForMaskedLM(config)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}  # the input embeddings and bias once more
    try:
        with safe_open(path, framework="pt") as file:
            found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is not a complete safetensors file ({error}); it may be cut off. Get it again."
        ) from error
    missing = sorted(expected.keys() - found.keys() - tied)
    unexpected = sorted(found.keys() - expected.keys() - {"bert.embeddings.position_ids"})
    shapes = [
        f"{k}: {found[k]} in the file, {expected[k]} by config.json"
        for k in expected
        if k in found and found[k] != expected[k]
    ]
    if missing or unexpected or shapes:
        lines = [f"{path} and its config.json do not fit:"]
        for what, names in (("missing", missing), ("not expected", unexpected), ("another shape", shapes)):
            if names:
                lines.append(f"  {what} ({len(names)}): " + "; ".join(names[:8]) + (" ..." if len(names) > 8 else ""))
        if any(key.startswith("classifier") for key in unexpected):
            lines.append("  It has a classifier: a fine-tuned network, not a pretrained one.")
        raise ModelError("\n".join(lines))
    return _fill(path, config)


def _fill(path: Path, config: BertConfig) -> BertForMaskedLM:
    import torch
    from transformers import BertForMaskedLM
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # one bar per loaded file would drown a lesson's own
    try:
        return BertForMaskedLM.from_pretrained(
            path.parent,
            config=config,
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
        )
    finally:
        if shown:
            logging.enable_progress_bar()
