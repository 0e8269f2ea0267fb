"""What is trained: which weights of the network move, and what peft puts between them.

The base stays what it was. A frozen base is not even copied: the adapted network is a new arrangement of modules around the
same numbers (:func:`sharing_copy`). Only what is trained gets memory of its own.
LoRA: Hu et al. 2021 (arXiv:2106.09685); IA3: Liu et al. 2022 (arXiv:2205.05638); VeRA: Kopiczko et al. 2023
(arXiv:2310.11454); DoRA: Liu et al. 2024 (arXiv:2402.09353); prefix: Li and Liang 2021 (10.18653/v1/2021.acl-long.353);
prompt: Lester et al. 2021 (10.18653/v1/2021.emnlp-main.243); gradual unfreezing: Howard and Ruder 2018 (10.18653/v1/P18-1031).

What there is not: the bottleneck adapters and the token adapter of scPEFT (peft has neither), and prefix or prompt tuning of scGPT
(peft puts learned positions before token ids; scGPT reads genes with values).
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from scfm.adaptation.choices import Choices
from scfm.inside.seeded import seeded
from scfm.models.base import Model

PROMPTED = ("prefix", "prompt")  # methods whose own forward pass must run


@dataclass
class Adapted:
    """A model of whose network some weights are to be trained (``requires_grad``), and what peft made of it, if it did."""

    model: Model  # its network has adapters in its modules if there are any
    peft_model: Any = None
    n_virtual: int = 0
    prompted: Any = None  # the peft model whose own forward pass must run (prefix, prompt)

    @property
    def network(self) -> Any:
        """The adapted network."""
        return self.model.network

    def trained(self) -> dict[str, nn.Parameter]:
        """Name → parameter of all that is trained in the network; the head comes on top."""
        whole = self.peft_model if self.peft_model is not None else self.network
        return {name: p for name, p in whole.named_parameters() if p.requires_grad}


def sharing_copy(network: Any) -> Any:
    """The same modules anew, around the same numbers: frozen, and no second copy of them in memory."""
    memo: dict[int, Any] = {}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.data, requires_grad=False)
    for buffer in network.buffers():
        memo[id(buffer)] = buffer
    return copy.deepcopy(network, memo)


def prepare(model: Model, choices: Choices, n_layers: int) -> Adapted:
    """Arrange a copy of a model for training by ``choices.method``; ``n_layers``: how many of its layers are read.

    Raises
    ------
    ValueError
        The architecture does not allow the method, in words.
    """
    copied = model.with_network(sharing_copy(model.network))
    if choices.method == "head":
        return Adapted(copied)
    if choices.method in ("partial", "full"):
        return Adapted(_unfrozen(copied, choices, n_layers))
    return _with_peft(copied, choices, n_layers)


def _unfrozen(copied: Model, choices: Choices, n_layers: int) -> Model:
    layers = list(range(n_layers))
    if choices.method == "partial":
        if choices.n_layers > n_layers:
            raise ValueError(
                f"n_layers is {choices.n_layers}, but only {n_layers} layers are read. Train fewer, or use method='full'."
            )
        layers = layers[-choices.n_layers :]
    trained = [copied.layers()[i] for i in layers]
    if choices.method == "full":
        trained += copied.input_modules()
    for parameter in (p for module in trained for p in module.parameters()):
        parameter.data = parameter.data.clone()
        parameter.requires_grad = True
    return copied


# --- peft -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Without peft's advice, which is about language models; and it asks transformers for a property by its old name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def _with_peft(copied: Model, choices: Choices, n_layers: int) -> Adapted:
    import peft

    config = peft_config(copied, choices, n_layers)
    device = copied.network.device
    if choices.quantize:
        from scfm.adaptation import quantize

        quantize.quantized(copied, choices.quantize)
    with seeded(choices.seed), quiet_peft():
        prompted = choices.method in PROMPTED
        whole: Any = peft.get_peft_model(copied.prompted_network() if prompted else copied.network, config)
    whole.to(device)
    return with_adapter(copied, whole, choices)


def with_adapter(copied: Model, whole: Any, choices: Choices) -> Adapted:
    """What peft made of a copied model, as this library keeps it."""
    if choices.method in PROMPTED:
        return Adapted(copied, whole, choices.n_virtual, whole)
    return Adapted(copied.with_network(whole.get_base_model()), whole)


def peft_config(model: Model, choices: Choices, n_layers: int) -> Any:
    """peft's own configuration for ``choices``: what its documentation calls target modules, rank, alpha."""
    import peft

    method = choices.method
    numbers = "|".join(map(str, range(n_layers)))
    alpha = choices.alpha if choices.alpha is not None else 2 * choices.rank
    extra = choices.extra
    if method in ("lora", "dora"):
        return peft.LoraConfig(
            r=choices.rank,
            lora_alpha=alpha,  # type: ignore[arg-type]
            lora_dropout=choices.adapter_dropout,
            target_modules=_targets(model, choices.targets, numbers),
            use_dora=method == "dora",
            **extra,
        )
    if method == "vera":
        return peft.VeraConfig(
            r=choices.rank,
            vera_dropout=choices.adapter_dropout,
            target_modules=_targets(model, choices.targets, numbers),
            **extra,
        )
    if method == "ia3":
        scaled, inputs = model.ia3
        if choices.targets == "all":
            return peft.IA3Config(target_modules=scaled.replace("{n}", numbers), feedforward_modules=inputs, **extra)
        targets = _targets(model, choices.targets, numbers)
        return peft.IA3Config(target_modules=targets, **({"feedforward_modules": []} | extra))
    if method == "ln":
        return peft.LNTuningConfig(target_modules=model.norms.replace("{n}", numbers), **extra)
    if reason := model.why_not.get("prompts"):
        raise ValueError(reason)
    if n_layers != len(model.layers()):
        raise ValueError(
            f"{method} tuning runs the whole network, so it reads the last layer: leave layer out, or set it to 0."
        )
    made = peft.PrefixTuningConfig if method == "prefix" else peft.PromptTuningConfig
    return made(task_type="FEATURE_EXTRACTION", num_virtual_tokens=choices.n_virtual, **extra)


def _targets(model: Model, targets: Any, numbers: str) -> Any:
    if not isinstance(targets, str):
        return list(targets)
    places = model.places
    if targets in places:
        return places[targets].replace("{n}", numbers)
    if reason := model.why_not.get(targets):
        raise ValueError(reason)
    if targets.isidentifier() and "_" not in targets:
        raise ValueError(
            f"targets is {targets!r}; it can be {', '.join(map(repr, places))}, a list of modules or a pattern."
        )
    return targets


# --- counting -------------------------------------------------------------------------------------------


def count(parameters: Any) -> int:
    """How many numbers."""
    return sum(p.numel() for p in parameters)


def lora_parameters(model: Model, rank: int, targets: Any = "all") -> int:
    """Trained weights of LoRA by the formula: rank · (inputs + outputs) for each matrix it is put on."""
    import re

    numbers = "|".join(map(str, range(len(model.layers()))))
    pattern = _targets(model, targets, numbers)
    linear = {name: m for name, m in model.network.named_modules() if isinstance(m, nn.Linear)}
    chosen = [
        m
        for name, m in linear.items()
        if (
            re.fullmatch(pattern, name)
            if isinstance(pattern, str)
            else any(name == t or name.endswith(f".{t}") for t in pattern)
        )
    ]
    return sum(rank * (m.in_features + m.out_features) for m in chosen)


# --- groups of parameters -------------------------------------------------------------------------------


def stages(adapted: Adapted, n_layers: int) -> list[list[nn.Parameter]]:
    """The trained parameters from the top of the network to its bottom: one list per layer, then the input modules'."""
    parts = [*reversed(adapted.model.layers()[:n_layers])]
    found = [[p for p in part.parameters() if p.requires_grad] for part in parts]
    found.append([p for module in adapted.model.input_modules() for p in module.parameters() if p.requires_grad])
    placed = {id(p) for stage in found for p in stage}
    found[0] += [p for p in adapted.trained().values() if id(p) not in placed]  # VeRA's shared parts, learned prompts
    return [stage for stage in found if stage]


def optimizer_groups(
    adapted: Adapted, stages: list[list[nn.Parameter]], head: nn.Module, choices: Choices
) -> list[dict[str, Any]]:
    """AdamW's groups: the rate falls by ``layer_decay`` from layer to layer; norms, biases and embeddings do not decay.

    The embedding of a gene that no cell here has must not shrink.
    """
    embeddings = {id(m.weight) for m in adapted.network.modules() if isinstance(m, nn.Embedding)}
    rate = choices.rate(adapted.network.config.hidden_size)
    parts = [(stage, rate * choices.layer_decay**depth) for depth, stage in enumerate(stages)]
    parts.append((list(head.parameters()), choices.rate_of_head()))
    groups: list[dict[str, Any]] = []
    for parameters, own_rate in parts:
        for decays in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1 and id(p) not in embeddings) == decays]
            decay = choices.weight_decay if decays else 0.0
            groups.append({"params": chosen, "weight_decay": decay, "rate": own_rate})
    return [group for group in groups if group["params"]]


def unfreeze(stages: list[list[nn.Parameter]], step: int, steps: int) -> None:
    """Gradual unfreezing: the top layer trains from the start, the others join one by one over the first half."""
    per_stage = max(1, steps // 2 // max(1, len(stages)))
    for depth, stage in enumerate(stages):
        for parameter in stage:
            parameter.requires_grad = step >= depth * per_stage


# --- which base? ----------------------------------------------------------------------------------------


def digest(network: Any) -> str:
    """SHA-256 of all weights and buffers, names and bytes: two networks with the same digest are the same."""
    found = hashlib.sha256()
    for name, tensor in itertools.chain(network.named_parameters(), network.named_buffers()):
        found.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        found.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()
