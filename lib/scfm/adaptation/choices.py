"""Everything that can be chosen when a model is adapted, with its default and what it means."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PEFT = ("lora", "dora", "ia3", "ln", "vera", "prefix", "prompt")
METHODS = ("head", *PEFT, "partial", "full")

# Learning rates for a network 128 wide; a wider one gets proportionally less (rate · 128 / width, full: 3e-5 at 768).
RATES = {
    "head": 1e-2,
    "lora": 2e-3,
    "dora": 2e-3,
    "ia3": 1e-2,
    "ln": 5e-3,
    "vera": 2e-2,
    "prefix": 1e-2,
    "prompt": 1e-2,
    "partial": 3e-4,
    "full": 2e-4,
}
HEAD_RATE = 1e-3  # of the head while the network below it is trained

# Which option belongs to which methods; the others refuse it. The options of training (epochs, minibatch, rates, ...) are open to
# all, so that one set of them serves a whole ladder: a head that is ``solved`` for at once takes no steps and does not ask for them.
BELONGS = {
    "rank": ("lora", "dora", "vera"),
    "alpha": ("lora", "dora"),
    "targets": ("lora", "dora", "ia3", "vera"),
    "adapter_dropout": ("lora", "dora", "vera"),
    "n_virtual": ("prefix", "prompt"),
    "quantize": ("lora", "dora"),
    "n_layers": ("partial",),
    "gradual": ("partial", "full"),
    "layer_decay": ("partial", "full"),
    "replay_weight": ("lora", "dora", "ia3", "ln", "vera", "partial", "full"),
    "checkpointing": ("lora", "dora", "ia3", "ln", "vera", "partial", "full"),
    "extra": PEFT,
}


@dataclass(frozen=True)
class Choices:
    """All that decides the result of :func:`scfm.adapt`, beside model, cells and labels."""

    method: str = "head"
    level: str = "cell"  # "cell": a class per cell; "gene": a class per gene, seen in many cells
    seed: int = 0

    # what the head reads, and the head
    pooling: str | None = None  # "cls" | "mean"; None = the model's own
    layer: int | None = None  # 0 the last, -1 the one before; None = -1 for a frozen Geneformer (its embedding), else 0
    head: str = "linear"  # "linear" | "mlp" (Linear, Tanh, Dropout, Linear: BERT's pooler and classifier)
    head_dropout: float = 0.0  # of the small network
    # standardization of the features: "common" | "each" | "none"; None = chosen for a solved head (scfm.linear), else "common"
    scale: str | None = None
    start: str = "probe"  # "probe": a linear head starts as logistic regression on the untrained network; "random"
    class_weight: Any = None  # None, "balanced" (rare classes count as much as frequent ones), or {class: weight}

    # peft
    rank: int = 8  # of LoRA, DoRA, VeRA
    alpha: float | None = None  # LoRA's update is scaled by alpha / rank; None = 2 · rank
    targets: Any = "all"  # "attention" | "qv" | "feedforward" | "all" | names of modules | a regular expression
    adapter_dropout: float = 0.0
    n_virtual: int = (
        8  # learned positions of prefix and prompt tuning; every gene's position (its rank) moves on by as many
    )
    quantize: str | None = None  # "4bit" | "8bit": the frozen base in bitsandbytes' precision; needs a GPU

    # partial and full
    n_layers: int = 2  # partial: the last so many layers
    gradual: bool = False  # unfreeze one layer after another, from the top, over the first half of the steps
    layer_decay: float = 1.0  # learning rate of each layer = this times that of the layer above

    replay_weight: float = 1.0  # of the pretraining's loss on the cells of ``replay``, beside the labels' cross-entropy

    # training
    epochs: int = 10
    max_steps: int | None = None  # stop earlier, whatever the epochs
    minibatch: int = 32  # cells per step
    max_tokens: int | None = (
        None  # a step is cut into pieces of so many tokens: less memory, the same gradient (but for dropout's draws)
    )
    learning_rate: float | None = None  # None = by method and width (RATES)
    head_rate: float | None = None  # None = HEAD_RATE (method "head" with an MLP: RATES)
    weight_decay: float = 0.01
    warmup: float = 0.1  # share of the steps
    schedule: str = "linear"  # "linear" | "cosine" | "constant" after the warm-up
    # share of the cells (of the groups, if given) kept to watch; 0 = train on all (if ``solved``: always 0)
    validation: float = 0.1
    patience: int | None = 3  # stop after so many evaluations without a lower validation loss; None = never
    evaluate_every: int | None = None  # steps; None = once per epoch
    dtype: str = "auto"  # "float32" | "bfloat16" | "auto": bfloat16 where the hardware has it
    checkpointing: bool = False  # gradient checkpointing: less memory, a third more time
    checkpoint_every: int = 50  # steps between checkpoints in ``work``
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)  # settings of peft's config that are not named here

    def __post_init__(self) -> None:
        one_of(self.method, METHODS, "method")
        one_of(self.level, ("cell", "gene"), "level")
        one_of(self.head, ("linear", "mlp"), "head")
        one_of(self.scale, (None, "common", "each", "none"), "scale")
        one_of(self.start, ("probe", "random"), "start")
        one_of(self.schedule, ("linear", "cosine", "constant"), "schedule")
        one_of(self.dtype, ("auto", "float32", "bfloat16"), "dtype")
        one_of(self.quantize, (None, "4bit", "8bit"), "quantize")
        for name in ("rank", "n_virtual", "n_layers", "epochs", "minibatch", "checkpoint_every"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; a whole number of at least 1 was expected.")
        for name in ("max_steps", "max_tokens", "patience", "evaluate_every"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} is {value!r}; a whole number of at least 1, or None, was expected.")
        for name in ("validation", "warmup", "head_dropout", "adapter_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; a share from 0 to below 1 was expected.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay is {self.weight_decay!r}; a number of at least 0 was expected.")
        if self.head_dropout and self.head != "mlp":
            raise ValueError(f"head_dropout has no effect with head={self.head!r}; it belongs to 'mlp'. Leave it out.")
        for name in ("learning_rate", "head_rate", "alpha"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value!r}; a positive number, or None, was expected.")
        if not (math.isfinite(self.replay_weight) and self.replay_weight > 0):
            raise ValueError(f"replay_weight is {self.replay_weight!r}; a positive number was expected.")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay!r}; a number above 0 and at most 1 was expected.")
        if isinstance(self.class_weight, Mapping):
            # plain names and numbers, as they go to disk; 2 and np.int64(2) are one
            object.__setattr__(self, "class_weight", {str(name): float(w) for name, w in self.class_weight.items()})
        defaults = {field.name: field.default for field in dataclasses.fields(self)} | {"extra": {}}
        for name, methods in BELONGS.items():
            if self.method not in methods and getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"{name} has no effect with method={self.method!r}; it belongs to {', '.join(methods)}. Leave it out, or "
                    "choose one of these."
                )

    @classmethod
    def from_options(cls, **options: Any) -> Choices:
        """Choices from keyword arguments; a name that does not exist is answered with the nearest that does."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                raise TypeError(
                    f"adapt has no option {name!r}."
                    + (f" Did you mean {close[0]!r}?" if close else "")
                    + f" There are: {', '.join(known)}."
                )
        return cls(**options)

    @property
    def trains_network(self) -> bool:
        """Is more than a head trained?"""
        return self.method != "head"

    @property
    def solved(self) -> bool:
        """Is the head solved for at once, without training steps: a linear one on a frozen network?"""
        return self.method == "head" and self.head == "linear"

    def rate(self, width: int) -> float:
        """Learning rate of the network's weights."""
        return self.learning_rate or RATES[self.method] * min(1.0, 128 / width)

    def rate_of_head(self) -> float:
        """Learning rate of the head's weights, which are few and standardized: the same for every width."""
        if self.head_rate is not None:
            return self.head_rate
        return HEAD_RATE if self.trains_network else self.learning_rate or RATES["head"]


def one_of(value: Any, allowed: tuple, name: str) -> None:
    """Refuse what is not among ``allowed``, with the nearest that is."""
    if value in allowed:
        return
    close = difflib.get_close_matches(str(value), [str(a) for a in allowed], n=1)
    raise ValueError(
        f"{name} is {value!r}; it can be {', '.join(map(repr, allowed))}."
        + (f" Did you mean {close[0]!r}?" if close else "")
    )
