"""Reading scGPT checkpoints: upstream's folders, the hub port and our own, with every key accounted for.

Upstream loads what fits and skips the rest in silence; its users' worst bugs came from there. Here every key that the
settings ask for must be in the file and every key of the file must have a place, or the error says which do not, and what
the model could not do without them. Whole optional decoders may be absent: then the model says so when asked.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scfm.genes import PAD, SymbolVocabulary, VocabularyError
from scfm.inside.seeded import seeded
from scfm.models.base import START, WEIGHTS, ModelError, read_json
from scfm.models.scgpt import ScGPT
from scfm.models.scgpt_network import ScGPTConfig, ScGPTModel
from scfm.store import cache

PICKLES = ("best_model.pt", "model.pt", "pytorch_model.bin")
EVERYTHING = "embedding, GEP, GEPC, generation, classification"

# how the same weight is called by flash-attn 1 and 2, by torch, in the hub port, and under DistributedDataParallel
SPELLINGS = (
    (re.compile(r"^module\."), ""),
    (re.compile(r"^gene_encoder\."), "encoder."),
    (re.compile(r"^transformer\.layers\."), "transformer_encoder.layers."),
    (re.compile(r"^expr_decoder\."), "decoder."),
    (re.compile(r"\.self_attn\._impl\."), ".self_attn."),
    (re.compile(r"\.self_attn\.in_proj[_.](weight|bias)$"), r".self_attn.Wqkv.\1"),
)


def load(folder: Path | None, name: str, entry: dict[str, Any], weights: str, seed: int) -> ScGPT:
    """The model of a folder, or (``folder`` None) the random twin of a listed one, which needs no files.

    Raises
    ------
    ModelError
        Missing, damaged, unsafe or mismatching files; the message says what is wrong and what to do.
    """
    start = None if folder is None else folder / START
    if weights == "start" and not (start and start.exists()):
        raise ModelError(f"{name} keeps no warm start: it has only 'pretrained' and 'random'.")
    if folder is None:
        config, path, state = ScGPTConfig(**entry["architecture"]), None, None
        config.unavailable = {
            ability: f"its weights have no {prefix}*, {what}; {name} was published without it"
            for part, (prefix, ability, _, what) in _DECODERS.items()
            if not getattr(config, part)
        }
        vocabulary, missing = _vocabulary(Path(), entry)
    else:
        content, source = _settings(folder, entry)
        path = _weights_path(folder, entry)
        if path is None and weights == "pretrained":
            raise ModelError(f"{folder} has no weights: {WEIGHTS} or {PICKLES[0]} was expected.")
        state = None if path is None else read_state(path)
        vocabulary, missing = _vocabulary(folder, entry)
        shapes = {key: tuple(value.shape) for key, value in (state or {}).items()}
        config = _config(content, shapes, source, vocabulary)
        _compare_with_catalogue(config, entry, source)
    if vocabulary is not None:
        if len(vocabulary) != config.vocab_size or max(vocabulary.tokens.values(), default=0) >= len(vocabulary):
            raise ModelError(
                f"The weights of {name} have {config.vocab_size:,} tokens, its vocabulary has {len(vocabulary):,} "
                f"(largest id {max(vocabulary.tokens.values(), default=0):,}): they do not belong together, and each token "
                "would be read as another gene. Use the vocab.json that came with these weights."
            )
        config.pad_token_id, config.cls_token_id = vocabulary.special[PAD], vocabulary.special["<cls>"]
    if weights in ("random", "start"):
        with seeded(seed):
            network, digest = ScGPTModel(config), None
        name = f"{name} ({'random weights' if weights == 'random' else 'warm start'}, seed {seed})"
        if weights == "start" and start is not None:  # the random twin with the tensors that pretraining began with
            digest = cache.sha256(start)
            _, unplaced = network.load_state_dict(read_state(start), strict=False)
            if unplaced:
                raise ModelError(f"{start} holds tensors that the network does not have: {', '.join(unplaced)}.")
    else:
        assert path is not None  # checked above
        assert state is not None
        network, digest = fill(state, config, path), cache.sha256(path)
    return ScGPT(network, vocabulary, name, digest, missing, folder)


def recognizes(folder: Path | None, entry: dict[str, Any]) -> bool:
    """Whether the files (or the catalogue's entry) are those of an scGPT."""
    if entry or folder is None:
        return entry.get("kind") == ScGPT.kind
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") == "scgpt"
    except (OSError, ValueError, AttributeError):
        return (folder / "args.json").exists() or (folder / PICKLES[0]).exists()


# --- files ------------------------------------------------------------------------------------------


def _settings(folder: Path, entry: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    listed = entry.get("paths", {}).get("config.json")
    for path in [listed] if listed else [folder / "config.json", folder / "args.json"]:
        if not path.exists():
            continue
        content = read_json(path)
        if not isinstance(content, dict):
            raise ModelError(f"{path} should hold one object of settings, not a {type(content).__name__}.")
        return content, path
    raise ModelError(
        f"{folder} has weights but no args.json (upstream's) and no config.json (ours): nothing says how many layers and "
        "heads the network has. Get args.json from where the weights came from."
    )


def _weights_path(folder: Path, entry: dict[str, Any]) -> Path | None:
    listed = entry.get("paths", {}).get(WEIGHTS)
    found = [listed] if listed else [folder / file for file in (WEIGHTS, *PICKLES) if (folder / file).exists()]
    return found[0] if found else None


def _vocabulary(folder: Path, entry: dict[str, Any]) -> tuple[SymbolVocabulary | None, str]:
    """The vocabulary, named by its content so that cells of another are noticed; or None and why there is none."""
    from scfm.tokenize import vocabulary_sha256

    path: Path | None = folder / "vocab.json"
    if entry.get("vocabularies"):
        path = cache.find(*entry["vocabularies"])
    if path is None or not path.exists():
        names = entry.get("vocabularies", ["vocab.json"])
        return None, (
            "There is no vocab.json beside its weights, so nothing says which token is which gene. Put it into "
            f"{folder if not entry.get('vocabularies') else 'a folder of SCFM_CACHE'} as {' or '.join(names)}; it comes with "
            "upstream's release, and must have as many tokens as the weights."
        )
    try:
        vocabulary = SymbolVocabulary.load(path)
    except VocabularyError as error:
        raise ModelError(str(error)) from error
    return dataclasses.replace(vocabulary, name=f"scgpt-{vocabulary_sha256(vocabulary)[:8]}"), ""


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file under our names, whichever way its attention weights are spelled; no code runs.

    Raises
    ------
    ModelError
        A pickle that asks for more than tensors, a damaged file, one without tensors, or two spellings of one weight.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            content: Any = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is not a complete safetensors file ({error}); get it again.") from error
    else:
        content = _unpickle(path)
    for key in ("model_state_dict", "state_dict", "model"):  # a checkpoint of a training run
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(
            f"{path} holds no state dict (names and tensors). Save one with torch.save(model.state_dict(), ...)."
        )
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        ours = str(key)
        for pattern, replacement in SPELLINGS:
            ours = pattern.sub(replacement, ours)
        if ours in state:
            raise ModelError(f"{path} holds {ours} twice, under two spellings; it is not clear which one counts.")
        state[ours] = value.float() if value.is_floating_point() else value
    return state


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"(?:GLOBAL|global|class)\s+([\w.]+\.\w+)", str(error))
        what = f"asks to run {asked[1]}" if asked else "holds more than tensors"
        raise ModelError(
            f"{path} {what}. A weights file needs only tensors, so it was refused and nothing in it was run. Get the file "
            "from its official source; if it is your own, save model.state_dict() alone."
        ) from error
    except Exception as error:  # a damaged archive can raise nearly anything
        raise ModelError(
            f"{path} is not a complete PyTorch file ({error}); it may be cut off. Get it again."
        ) from error


# --- settings ---------------------------------------------------------------------------------------

# upstream's names → ours; the first that is there counts
_NAMES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("embsize", "n_embd", "d_model", "layer_size"),
    "num_attention_heads": ("nheads", "nhead", "n_head"),
    "intermediate_size": ("d_hid", "embsize"),
    "num_hidden_layers": ("nlayers", "n_layer"),
}
# optional decoders: key prefix, ability, upstream's switches, what the part is
_DECODERS: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "mvc": ("mvc_decoder.", "GEPC", ("MVC", "GEPC", "do_mvc"), "the decoder of values from the cell embedding"),
    "generative": ("flag_encoder.", "generation", ("USE_GENERATIVE_TRAINING",), "the embedding that marks genes to generate"),
    "num_classes": ("cls_decoder.", "classification", ("CLS", "USE_CLS"), "the classifier"),
    "adversarial": ("grad_reverse_discriminator.", "adversarial", ("do_dab", "DAB"), "the discriminator of batches"),
}  # fmt: skip


def _config(
    content: dict[str, Any], shapes: dict[str, tuple[int, ...]], source: Path, vocabulary: SymbolVocabulary | None
) -> ScGPTConfig:
    """Settings from our config.json as they are; from upstream's args.json (or the port's) with the file's own parts."""
    if "hidden_size" in content:
        return ScGPTConfig(**content)
    for key, good in (("input_emb_style", "continuous"), ("cell_emb_style", "cls"), ("norm_scheme", "post")):
        if content.get(key, good) != good:
            raise ModelError(
                f"{source} says {key} = {content[key]!r}; only {good!r}, that of all released models, is read."
            )
    if content.get("pre_norm"):
        raise ModelError(f"{source} says pre_norm; only post-norm layers, those of all released models, are read.")
    settings: dict[str, Any] = {}
    for ours, theirs in _NAMES.items():
        value = next((content[key] for key in theirs if content.get(key) is not None), None)
        if not isinstance(value, int) or value < 1:
            raise ModelError(f"{source} does not say {theirs[0]}, which the network's shape depends on.")
        settings[ours] = value
    for key in ("dropout", "pad_value", "mask_value", "n_bins", "max_seq_len"):
        if isinstance(content.get(key), int | float):
            settings[key] = content[key]
    rows = shapes.get("encoder.embedding.weight", (0,))[0]
    settings["vocab_size"] = rows or content.get("vocab_size") or (len(vocabulary) if vocabulary else 0)
    has = {key.split(".")[0] for key in shapes}
    norm = content.get("DSBN", content.get("domain_spec_batchnorm", False))
    affine = norm == "do_affine" or "dsbn.bns.0.weight" in shapes
    settings["domain_norm"] = "none"
    if norm == "batchnorm":
        settings["domain_norm"] = "batchnorm"
    elif norm or "dsbn" in has:
        settings["domain_norm"] = "dsbn-affine" if affine else "dsbn"
    settings["batch_tokens"] = bool(content.get("use_batch_labels")) or "batch_encoder" in has
    settings["num_batches"] = content.get("num_batch_labels") or max(
        shapes.get("batch_encoder.embedding.weight", (0,))[0],
        shapes.get("grad_reverse_discriminator.out_layer.weight", (0,))[0],
        len({key.split(".")[2] for key in shapes if key.startswith("dsbn.bns.")}),
    )
    settings["num_modalities"] = shapes.get("mod_encoder.embedding.weight", (content.get("ntokens_mod") or 0,))[0]
    settings["num_conditions"] = shapes.get("pert_encoder.weight", (0,))[0]
    settings["zero_prob"] = bool(content.get("explicit_zero_prob")) or any("zero_logit" in key for key in shapes)
    settings["num_class_layers"] = content.get("n_layers_cls") or 3
    settings["unavailable"] = {}
    for part, (prefix, ability, switches, what) in _DECODERS.items():
        wanted = any(content.get(switch) for switch in switches) or (
            part == "num_classes" and content.get("n_cls", 1) > 1
        )
        present = any(key.startswith(prefix) for key in shapes) if shapes else wanted
        outputs = content.get("n_cls") or shapes.get("cls_decoder.out_layer.weight", (1,))[0]
        settings[part] = present * outputs if part == "num_classes" else present
        if present and part == "num_classes" and outputs == 1:  # every release carries this head, untrained
            settings["unavailable"][ability] = "its classifier has a single output, so it was never trained on classes"
        if not present:
            says = f"although {source.name} says it was trained with it" if wanted else "it was made without it"
            settings["unavailable"][ability] = f"its weights have no {prefix}*, {what}; {says}"
            if wanted:
                warnings.warn(
                    f"{source.parent.name} cannot do {ability}: {settings['unavailable'][ability]}.", stacklevel=5
                )
    return ScGPTConfig(**settings)


def _compare_with_catalogue(config: ScGPTConfig, entry: dict[str, Any], source: Path) -> None:
    differing = [
        f"{key} is {getattr(config, key, None)!r}, not {value!r}"
        for key, value in entry.get("architecture", {}).items()
        if key.startswith(("num_hidden", "num_att", "hidden", "inter", "vocab")) and getattr(config, key, None) != value
    ]
    if differing:
        raise ModelError(f"{source} is not the published one: {'; '.join(differing)}.")


# --- every key in its place -------------------------------------------------------------------------

_DISABLES = {prefix: ability for prefix, ability, _, _ in _DECODERS.values()} | {"decoder.": "GEP, generation"}


def fill(state: dict[str, Tensor], config: ScGPTConfig, path: Path) -> ScGPTModel:
    """A network with these tensors in it; ModelError lists what is missing, what it disables, and what has no place."""
    with torch.device("meta"):  # shapes without memory
        network = ScGPTModel(config)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    state = dict(state)
    if (
        config.domain_norm != "batchnorm"
    ):  # an unused layer of early upstream versions; upstream's own loader skips it too
        state = {key: value for key, value in state.items() if not key.startswith("bn.")}
    for key in expected:
        if key.endswith("num_batches_tracked"):  # a counter that no output depends on
            state.setdefault(key, torch.tensor(0))
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    shapes = {k: tuple(state[k].shape) for k in expected if k in state and tuple(state[k].shape) != expected[k]}
    if missing or unexpected or shapes:
        raise ModelError(
            _explain(missing, unexpected, shapes, expected, {k: tuple(state[k].shape) for k in unexpected}, path)
        )
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(True)


def _explain(
    missing: list[str],
    unexpected: list[str],
    shapes: dict[str, tuple[int, ...]],
    expected: dict[str, tuple[int, ...]],
    found: dict[str, tuple[int, ...]],
    path: Path,
) -> str:
    lines = [f"{path} does not fit its settings, so nothing was loaded:"]
    for key in missing[:8]:
        disables = next((what for prefix, what in _DISABLES.items() if key.startswith(prefix)), EVERYTHING)
        alike = [k for k in difflib.get_close_matches(key, unexpected, n=3, cutoff=0.6) if found[k] == expected[key]]
        hint = f"; the file has {alike[0]} of the same shape: was it renamed?" if alike else ""
        lines.append(f"  missing: {key} {list(expected[key])}; without it no {disables}{hint}")
    for key in unexpected[:8]:
        lines.append(f"  without a place in the network: {key} {list(found[key])}")
    for key, shape in list(shapes.items())[:8]:
        lines.append(f"  another shape: {key} is {list(shape)} in the file, {list(expected[key])} by the settings")
    left = len(missing) + len(unexpected) + len(shapes) - (len(lines) - 1)
    if left:
        lines.append(f"  and {left} more")
    lines.append("Get the settings (args.json or config.json) and the weights from the same release.")
    return "\n".join(lines)
