"""A fit on disk: a folder that says which base it belongs to, and that peft and transformers read too.

fit.json             settings, classes, report, the base's name and hash, the hash of every other file
head.safetensors     standardization and head
adapter_*            peft methods: what ``peft.PeftModel.from_pretrained(base.network, folder)`` reads
config.json, model.safetensors, vocabulary    partial and full: what ``AutoModel`` (or ``ScGPTModel``) and ``load_model`` read
README.md            the model card
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import __version__
from scfm.adaptation.adapters import Adapted, digest, sharing_copy
from scfm.adaptation.choices import Choices
from scfm.adaptation.features import kind_of
from scfm.adaptation.heads import Head
from scfm.store import cache

if TYPE_CHECKING:
    from scfm.adaptation.fit import Fit

FORMAT = 1
WHOLE = ("partial", "full")  # methods whose folder holds the network itself


# --- write ----------------------------------------------------------------------------------------------


def save(fit: Fit, folder: Path) -> Path:
    """Write a new folder, all of it or nothing.

    Raises
    ------
    FileExistsError
        If ``folder`` exists and is not empty.
    """
    from safetensors.torch import save_file

    with cache.new_folder(folder) as whole:
        if fit.choices.method in WHOLE:
            with _no_bars():
                fit.adapted.save(whole)
        elif fit.peft_model is not None:
            _save_adapter(fit, whole)
        state = {name: value.detach().cpu().contiguous() for name, value in fit.head.state_dict().items()}
        save_file(state, whole / "head.safetensors", metadata={"format": "pt"})
        (whole / "README.md").write_text(fit.card())
        content = {
            "format": FORMAT,
            "scfm": __version__,
            "base": fit.base,
            "choices": dataclasses.asdict(fit.choices),
            "classes": fit.head.classes,
            "report": dataclasses.asdict(fit.report),
            "evaluations": fit.evaluations,
            "files": {file.name: cache.sha256(file) for file in sorted(whole.iterdir()) if file.name != "README.md"},
        }
        (whole / "fit.json").write_text(json.dumps(content, indent=1, default=_plain) + "\n")
    return folder


def _plain(value: Any) -> Any:
    """The Python number in a NumPy scalar, which JSON does not know."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be written to fit.json.")


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """transformers shows a bar for every file it writes."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _save_adapter(fit: Fit, folder: Path) -> None:
    for config in fit.peft_model.peft_config.values():
        config.base_model_name_or_path = fit.base["name"]  # not where it happened to lie on this machine
        config.inference_mode = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # the embeddings are not trained; asked about them, peft would look for the base on the hub
        fit.peft_model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty card


# --- read -----------------------------------------------------------------------------------------------


def load_fit(folder: str | Path, model: Any = None, device: str = "cpu") -> Fit:
    """Read what ``fit.save`` wrote.

    Parameters
    ----------
    model
        The base, as ``scfm.load_model`` gives it. None: the base is loaded by the name that the folder holds; the folder of a
        partial or full fit holds the network itself, and needs no base. ``fit.model`` is then the trained network, not the base,
        and is named so.
    device
        Where the network is put, unless ``model`` is given: then it goes where that is.

    Raises
    ------
    FileNotFoundError, ValueError
        No fit is there; a file is damaged; the base is another one.
    """
    from safetensors.torch import load_file

    from scfm.adaptation.fit import Fit, Report

    folder = Path(folder)
    content = _read(folder)
    choices = Choices(**content["choices"])
    base = content["base"]
    if model is not None:
        found = digest(model.network)
        if found != base["weights"]:
            raise ValueError(
                f"{folder} belongs to {base['name']!r} (weights {base['weights'][:12]}...), but the model given is {model.name!r} "
                f"(weights {found[:12]}...). An adapter on another base answers nonsense, so it is refused. Load the right base "
                "with scfm.load_model, unchanged, in float32."
            )
    elif choices.method not in WHOLE:
        model = _base(folder, base, device)
    adapted, model = _adapted(folder, choices, model, base, device)
    head = Head(adapted.network.config.hidden_size, content["classes"], choices.head, choices.head_dropout)
    head.load_state_dict(load_file(folder / "head.safetensors"))
    head.to(adapted.network.device).eval()
    fit = Fit(model, adapted, head, choices, Report(**content["report"]), base)
    fit.evaluations = content["evaluations"]
    return fit


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "fit.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no fit.json, so it was not written by fit.save.")
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON ({error}); it may be cut off.") from error
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{path} is of format {content.get('format')!r}; this version of scfm reads {FORMAT}. It was written by scfm "
            f"{content.get('scfm')}."
        )
    for name, expected in content["files"].items():
        if not (folder / name).exists():
            raise ValueError(f"{folder} lacks {name}; the folder is incomplete. Copy it again.")
        if cache.sha256(folder / name) != expected:
            raise ValueError(f"{folder / name} is not the file that fit.save wrote (its hash differs). Copy it again.")
    return content


def _base(folder: Path, base: dict[str, Any], device: str) -> Any:
    """The base by its name; a twin's name says how to make it again."""
    from scfm.models import ModelError, load_model

    name, weights, seed = base["name"], "pretrained", 0
    if found := re.fullmatch(r"(.+) \((random weights|warm start), seed (\d+)\)", name):
        name, weights, seed = found[1], "random" if found[2] == "random weights" else "start", int(found[3])
    try:
        model = load_model(name, device, weights, seed)
    except ModelError as error:
        raise ValueError(
            f"{folder} belongs to {base['name']!r}, which could not be loaded by that name ({error}) Give it: "
            "scfm.load_fit(folder, model=...)."
        ) from error
    if digest(model.network) != base["weights"]:
        raise ValueError(
            f"{folder} belongs to a {base['name']!r} with other weights than the one that this name loads now. Give the right "
            "one: scfm.load_fit(folder, model=...)."
        )
    return model


def _adapted(folder: Path, choices: Choices, model: Any, base: dict[str, Any], device: str) -> tuple[Adapted, Any]:
    if choices.method in WHOLE:
        from scfm.models import load_model

        whole = load_model(folder, device if model is None else str(model.network.device))
        whole.name = f"{base['name']} + {choices.method}"
        return Adapted(whole.network), model if model is not None else whole
    copied = sharing_copy(model.network)
    if choices.method == "head":
        return Adapted(copied), model
    import peft

    if choices.quantize:
        from scfm.adaptation import quantize

        copied = quantize.quantized(copied, choices.quantize)
    prompted = choices.method in ("prefix", "prompt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = peft.PeftModel.from_pretrained(copied.bert if prompted else copied, str(folder))
    whole.to(model.network.device).eval()
    if prompted:
        return Adapted(copied, whole, choices.n_virtual, whole), model
    return Adapted(whole.get_base_model(), whole), model


# --- for plain transformers -----------------------------------------------------------------------------


def to_transformers(fit: Fit) -> Any:
    """The whole classifier, head and all, as a network that plain transformers knows; logits as the fit's own.

    Geneformer: ``BertForSequenceClassification`` (``pooling="cls"``, ``head="mlp"``: its pooler and classifier), or
    ``BertForTokenClassification`` for genes with a linear head. scGPT: an ``ScGPTModel`` whose ``cls_decoder`` is the linear head.
    LoRA is merged first.

    Raises
    ------
    ValueError
        transformers has no network with such a head: a mean over genes, several columns, another layer than the last.
    """
    import copy

    import torch

    choices, kind = fit.choices, kind_of(fit.network)
    if len(fit.columns) > 1 or choices.layer:
        raise ValueError("transformers' classifiers have one head on the last layer; this fit has another form.")
    if fit.peft_model is not None:
        network = fit.merged().network
    else:
        network = copy.deepcopy(fit.network)
    names = dict(enumerate(fit.classes))
    config = copy.deepcopy(network.config)
    weight, bias = fit.head.folded()
    reader: Any = fit.head.readers[0]
    made: Any
    if kind == "scgpt":
        from scfm.models.scgpt_network import ScGPTModel

        if choices.head != "linear" or choices.pooling != "cls" or choices.level == "gene":
            raise ValueError("An ScGPTModel holds a linear head on <cls>: adapt with pooling='cls', head='linear'.")
        config.num_classes, config.num_class_layers = len(names), 1
        config.id2label = names
        made = ScGPTModel(config)
        made.load_state_dict(network.state_dict(), strict=False)
        first, last = None, made.cls_decoder.out_layer
    else:
        import transformers

        config.id2label, config.label2id = names, {name: number for number, name in names.items()}
        if choices.level == "gene" and choices.head == "linear":
            made = transformers.BertForTokenClassification(config)
            first, last = None, made.classifier
        elif choices.level == "cell" and choices.pooling == "cls" and choices.head == "mlp":
            made = transformers.BertForSequenceClassification(config)
            first, last = made.bert.pooler.dense, made.classifier
        else:
            raise ValueError(
                "BERT's classifiers read <cls> through a small network (pooling='cls', head='mlp'), or each gene with a linear "
                f"head. This fit has pooling={choices.pooling!r}, head={choices.head!r}: save it, AutoModel reads the encoder "
                "and head.safetensors holds the rest."
            )
        made.bert.load_state_dict(network.bert.state_dict(), strict=False)
    with torch.no_grad():
        if first is not None:
            first.weight.copy_(weight)
            first.bias.copy_(bias)
            weight, bias = reader[-1].weight, reader[-1].bias
        last.weight.copy_(weight)
        last.bias.copy_(bias)
    return made.to(fit.network.device).eval()
