"""Reading Geneformer checkpoints: the hub's folders and our own; nothing may be missing, left over or of another shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm.genes import RankVocabulary, VocabularyError
from scfm.inside.seeded import seeded
from scfm.models.base import START, WEIGHTS, ModelError, read_json
from scfm.models.geneformer import SPECIAL, Geneformer
from scfm.store import cache, hub

if TYPE_CHECKING:
    from transformers import BertConfig, BertForMaskedLM

PICKLED_WEIGHTS = ("pytorch_model.bin", "model.bin", "best_model.pt", "pytorch_model.pt")
# a published vocabulary is recognized by its size, which config.json states
VERSION_OF_SIZE = {25_426: "V1", 20_275: "V2"}


def recognizes(folder: Path | None, entry: dict[str, Any]) -> bool:
    """Whether the files (or the catalogue's entry) are those of a Geneformer."""
    if entry or folder is None:
        return entry.get("kind") == Geneformer.kind
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") == "bert"
    except (OSError, ValueError, AttributeError):
        return False


def load(folder: Path | None, name: str, entry: dict[str, Any], weights: str, seed: int) -> Geneformer:
    """The model of a folder, or (``folder`` None) the random twin of a listed one, which needs no files.

    Raises
    ------
    ModelError
        Missing, damaged, pickled or mismatching files; the message says what is wrong and what to do.
    """
    if folder is None:
        return _random_without_files(name, entry, seed)
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
    content = read_json(path)
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
