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
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.adaptation import modelcard
from scfm.adaptation.adapters import quiet_peft
from scfm.inside.version import version
from scfm.store import cache

if TYPE_CHECKING:
    from scfm.adaptation.fitted import Fitted

FORMAT = 1
WHOLE = ("partial", "full")  # methods whose folder holds the network itself


# --- write ----------------------------------------------------------------------------------------------


def save(fit: Fitted, folder: Path) -> Path:
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
        (whole / "README.md").write_text(modelcard.card(fit), encoding="utf-8")
        content = {
            "format": FORMAT,
            "scfm": version(),
            "base": fit.base,
            "choices": dataclasses.asdict(fit.choices),
            "classes": fit.head.classes,
            "report": dataclasses.asdict(fit.report),
            "evaluations": fit.evaluations,
            "files": {file.name: cache.sha256(file) for file in sorted(whole.iterdir()) if file.name != "README.md"},
        }
        (whole / "fit.json").write_text(json.dumps(content, indent=1, default=_plain) + "\n", encoding="utf-8")
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


def _save_adapter(fit: Fitted, folder: Path) -> None:
    for config in fit.peft_model.peft_config.values():
        config.base_model_name_or_path = fit.base["name"]  # not where it happened to lie on this machine
        config.inference_mode = True
    with quiet_peft():
        # the embeddings are not trained; asked about them, peft would look for the base on the hub
        fit.peft_model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty card


# --- for plain transformers -----------------------------------------------------------------------------


def to_transformers(fit: Fitted) -> Any:
    """The whole classifier, head and all, as a network that plain transformers knows; logits as the fit's own.

    Which networks there are says the model: :meth:`scfm.models.base.Model.classifier`. LoRA is merged first.

    Raises
    ------
    ValueError
        transformers has no network with such a head: a mean over genes, several columns, another layer than the last.
    """
    import torch

    choices = fit.choices
    if len(fit.columns) > 1 or choices.layer:
        raise ValueError("transformers' classifiers have one head on the last layer; this fit has another form.")
    model = fit.merged() if fit.peft_model is not None else fit.adapted
    made, first, last = model.classifier(fit.classes, choices.level, choices.pooling or "mean", choices.head)
    weight, bias = fit.head.folded()
    with torch.no_grad():
        if first is not None:  # the small network of two layers
            first.weight.copy_(weight)
            first.bias.copy_(bias)
            own: Any = fit.head.readers[0]
            weight, bias = own[-1].weight, own[-1].bias
        last.weight.copy_(weight)
        last.bias.copy_(bias)
    return made.to(fit.network.device).eval()
