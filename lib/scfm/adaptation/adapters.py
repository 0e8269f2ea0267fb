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

import copy
import hashlib
import itertools
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from scfm.adaptation.choices import Choices
from scfm.adaptation.features import input_modules, kind_of, layers_of
from scfm.inside.seeded import seeded

# places for LoRA and its relatives; {n} stands for the numbers of the layers
PLACES = {
    "geneformer": {
        "qv": r"bert\.encoder\.layer\.({n})\.attention\.self\.(query|value)",
        "attention": r"bert\.encoder\.layer\.({n})\.attention\.(self\.(query|key|value)|output\.dense)",
        "feedforward": r"bert\.encoder\.layer\.({n})\.(intermediate|output)\.dense",
        "all": r"bert\.encoder\.layer\.({n})\.(attention\.(self\.(query|key|value)|output\.dense)|(intermediate|output)\.dense)",
    },
    "scgpt": {
        "attention": r"transformer_encoder\.layers\.({n})\.self_attn\.(Wqkv|out_proj)",
        "feedforward": r"transformer_encoder\.layers\.({n})\.linear[12]",
        "all": r"transformer_encoder\.layers\.({n})\.(self_attn\.(Wqkv|out_proj)|linear[12])",
    },
}
# IA3 rescales keys and values, and what enters the second feed-forward layer; scGPT's queries share a matrix with them
IA3 = {
    "geneformer": (
        r"bert\.encoder\.layer\.({n})\.(attention\.self\.(key|value)|output\.dense)",
        r".*layer\.\d+\.output\.dense",
    ),
    "scgpt": (r"transformer_encoder\.layers\.({n})\.(self_attn\.Wqkv|linear2)", r".*\.linear2"),
}
NORMS = {
    "geneformer": r"bert\.encoder\.layer\.({n})\..*LayerNorm",
    "scgpt": r"transformer_encoder\.layers\.({n})\.norm[12]",
}


@dataclass
class Adapted:
    """A network of which some weights are to be trained (``requires_grad``), and what peft made of it, if it did."""

    network: Any  # the BertForMaskedLM or ScGPTModel, with adapters in its modules if there are any
    peft_model: Any = None
    n_virtual: int = 0
    prompted: Any = None  # the peft model whose own forward pass must run (prefix, prompt)

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


def prepare(network: Any, choices: Choices, n_layers: int) -> Adapted:
    """Arrange a network for training by ``choices.method``; ``n_layers``: how many of its layers are read.

    Raises
    ------
    ValueError
        The architecture does not allow the method, in words.
    """
    if choices.method == "head":
        return Adapted(sharing_copy(network))
    if choices.method in ("partial", "full"):
        return Adapted(_unfrozen(network, choices, n_layers))
    return _with_peft(network, choices, n_layers)


def _unfrozen(network: Any, choices: Choices, n_layers: int) -> Any:
    layers = list(range(n_layers))
    if choices.method == "partial":
        if choices.n_layers > n_layers:
            raise ValueError(
                f"n_layers is {choices.n_layers}, but only {n_layers} layers are read. Train fewer, or use method='full'."
            )
        layers = layers[-choices.n_layers :]
    copied = sharing_copy(network)
    trained = [layers_of(copied)[i] for i in layers]
    if choices.method == "full":
        trained += input_modules(copied)
    for parameter in (p for module in trained for p in module.parameters()):
        parameter.data = parameter.data.clone()
        parameter.requires_grad = True
    return copied


# --- peft -----------------------------------------------------------------------------------------------


def _with_peft(network: Any, choices: Choices, n_layers: int) -> Adapted:
    import peft

    config = peft_config(network, choices, n_layers)
    copied = sharing_copy(network)
    if choices.quantize:
        from scfm.adaptation import quantize

        copied = quantize.quantized(copied, choices.quantize)
    with seeded(choices.seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's advice is about language models
        if choices.method in ("prefix", "prompt"):
            # on the encoder alone: the masked-LM head would answer for every position, and nobody asks it
            whole: Any = peft.get_peft_model(copied.bert, config)
            whole.to(network.device)
            return Adapted(copied, whole, choices.n_virtual, whole)
        whole = peft.get_peft_model(copied, config)
    whole.to(network.device)
    return Adapted(whole.get_base_model(), whole)


def peft_config(network: Any, choices: Choices, n_layers: int) -> Any:
    """peft's own configuration for ``choices``: what its documentation calls target modules, rank, alpha."""
    import peft

    kind, method = kind_of(network), choices.method
    numbers = "|".join(map(str, range(n_layers)))
    alpha = choices.alpha if choices.alpha is not None else 2 * choices.rank
    extra = choices.extra
    if method in ("lora", "dora"):
        return peft.LoraConfig(
            r=choices.rank,
            lora_alpha=alpha,  # type: ignore[arg-type]
            lora_dropout=choices.adapter_dropout,
            target_modules=_targets(kind, choices.targets, numbers),
            use_dora=method == "dora",
            **extra,
        )
    if method == "vera":
        return peft.VeraConfig(
            r=choices.rank,
            vera_dropout=choices.adapter_dropout,
            target_modules=_targets(kind, choices.targets, numbers),
            **extra,
        )
    if method == "ia3":
        scaled, inputs = IA3[kind]
        if choices.targets == "all":
            return peft.IA3Config(target_modules=scaled.replace("{n}", numbers), feedforward_modules=inputs, **extra)
        targets = _targets(kind, choices.targets, numbers)
        return peft.IA3Config(target_modules=targets, **({"feedforward_modules": []} | extra))
    if method == "ln":
        return peft.LNTuningConfig(target_modules=NORMS[kind].replace("{n}", numbers), **extra)
    if kind == "scgpt":
        raise ValueError(
            f"{method} tuning puts learned positions before the cell's tokens. peft does that for networks that read token ids; "
            "scGPT reads genes with values, and a learned position has no value. Use lora, dora, ia3, ln or vera."
        )
    if n_layers != network.config.num_hidden_layers:
        raise ValueError(
            f"{method} tuning runs the whole network, so it reads the last layer: leave layer out, or set it to 0."
        )
    made = peft.PrefixTuningConfig if method == "prefix" else peft.PromptTuningConfig
    return made(task_type="FEATURE_EXTRACTION", num_virtual_tokens=choices.n_virtual, **extra)


def _targets(kind: str, targets: Any, numbers: str) -> Any:
    if not isinstance(targets, str):
        return list(targets)
    places = PLACES[kind]
    if targets in places:
        return places[targets].replace("{n}", numbers)
    if targets == "qv":
        raise ValueError(
            "scGPT keeps query, key and value in one matrix (Wqkv), so 'qv' cannot be told apart there. Use 'attention'."
        )
    if targets.isidentifier() and "_" not in targets:
        raise ValueError(
            f"targets is {targets!r}; it can be {', '.join(map(repr, places))}, a list of modules or a pattern."
        )
    return targets


# --- counting -------------------------------------------------------------------------------------------


def count(parameters: Any) -> int:
    """How many numbers."""
    return sum(p.numel() for p in parameters)


def lora_parameters(network: Any, rank: int, targets: Any = "all") -> int:
    """Trained weights of LoRA by the formula: rank · (inputs + outputs) for each matrix it is put on."""
    import re

    numbers = "|".join(map(str, range(len(layers_of(network)))))
    pattern = _targets(kind_of(network), targets, numbers)
    linear = {name: m for name, m in network.named_modules() if isinstance(m, nn.Linear)}
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
    parts = [*reversed(layers_of(adapted.network)[:n_layers])]
    found = [[p for p in part.parameters() if p.requires_grad] for part in parts]
    found.append([p for module in input_modules(adapted.network) for p in module.parameters() if p.requires_grad])
    placed = {id(p) for stage in found for p in stage}
    found[0] += [p for p in adapted.trained().values() if id(p) not in placed]  # VeRA's shared parts, learned prompts
    return [stage for stage in found if stage]


def optimizer_groups(
    adapted: Adapted, stages: list[list[nn.Parameter]], head: nn.Module, choices: Choices
) -> list[dict[str, Any]]:
    """AdamW's groups: the rate falls by ``layer_decay`` from layer to layer; norms, biases and embeddings do not decay
    (the embedding of a gene that no cell here has must not shrink)."""
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
