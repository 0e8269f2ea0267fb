"""A fit from disk: the base it belongs to is found, or the one given is compared."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from scfm.adaptation.adapters import PROMPTED, Adapted, digest, quiet_peft, sharing_copy, with_adapter
from scfm.adaptation.choices import Choices
from scfm.adaptation.fit import Fit
from scfm.adaptation.heads import Head
from scfm.adaptation.report import Report
from scfm.adaptation.saving import FORMAT, WHOLE
from scfm.models import Model, ModelError, load_model
from scfm.store import cache


def load_fit(folder: str | Path, model: Model | None = None, device: str = "cpu") -> Fit:
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
        content = json.loads(path.read_text(encoding="utf-8"))
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


def _adapted(
    folder: Path, choices: Choices, model: Model | None, base: dict[str, Any], device: str
) -> tuple[Adapted, Model]:
    if choices.method in WHOLE:
        found = load_model(folder, device if model is None else str(model.network.device))
        found.name = f"{base['name']} + {choices.method}"
        return Adapted(found), model if model is not None else found
    assert model is not None  # loaded by its name
    copied = model.with_network(sharing_copy(model.network))
    if choices.method == "head":
        return Adapted(copied), model
    import peft

    if choices.quantize:
        from scfm.adaptation import quantize

        quantize.quantized(copied, choices.quantize)
    network = copied.prompted_network() if choices.method in PROMPTED else copied.network
    with quiet_peft():
        whole = peft.PeftModel.from_pretrained(network, str(folder))
    whole.to(model.network.device).eval()
    return with_adapter(copied, whole, choices), model
