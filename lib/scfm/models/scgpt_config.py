"""scGPT's settings, and the form of its answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput

# where peft puts a LoRA: attention and feed-forward of the layers (not the value encoder, whose names end alike)
LORA_TARGETS = r"transformer_encoder\.layers\.\d+\.(self_attn\.(Wqkv|out_proj)|linear[12])"


class NotAvailableError(RuntimeError):
    """The network lacks the part that the question needs; the message says which and why."""


class ScGPTConfig(PreTrainedConfig):
    """What an scGPT is made of; each optional part is off unless named here.

    num_batches: batches of a study that the batch tokens, DSBN and the adversarial head know.
    batch_tokens: the batch's embedding is appended to what the decoders read.
    domain_norm: "none", "dsbn" (one affine-free BatchNorm per batch), "dsbn-affine", or "batchnorm" (one for all).
    num_modalities, num_conditions: kinds of modality tokens and of condition (perturbation) tokens; 0 = none.
    zero_prob: the decoders also give P(value > 0), as "explicit zero probability".
    if_expressed: the decoders' values were learned of expressed genes only, so that they say what a gene's value is if it is
    expressed, and value × P(value > 0) is the value to be expected. Otherwise zeros were among the values.
    mvc: the GEPC decoder. num_classes: outputs of the classifier, 0 = none. adversarial: the discriminator of batches.
    generative: the flag embedding that marks genes without a value.
    unavailable: ability → why this checkpoint lacks it ("GEPC", "generation", "classification", ...).
    """

    model_type = "scgpt"

    def __init__(
        self,
        vocab_size: int = 60_697,
        hidden_size: int = 512,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 8,
        intermediate_size: int = 512,
        dropout: float = 0.2,
        attention_dropout: float | None = None,
        pad_token_id: int | None = None,
        cls_token_id: int | None = None,
        pad_value: float = -2.0,
        mask_value: float = -1.0,
        n_bins: int = 51,
        max_seq_len: int = 1200,
        num_batches: int = 0,
        batch_tokens: bool = False,
        domain_norm: str = "none",
        num_modalities: int = 0,
        num_conditions: int = 0,
        zero_prob: bool = False,
        if_expressed: bool = False,
        mvc: bool = True,
        num_classes: int = 0,
        num_class_layers: int = 3,
        adversarial: bool = False,
        generative: bool = True,
        unavailable: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        if domain_norm not in ("none", "dsbn", "dsbn-affine", "batchnorm"):
            raise ValueError(f"domain_norm is {domain_norm!r}; it can be 'none', 'dsbn', 'dsbn-affine' or 'batchnorm'")
        if num_batches < 1 and (batch_tokens or adversarial or domain_norm.startswith("dsbn")):
            raise ValueError("batch_tokens, dsbn and adversarial need num_batches, the number of batches")
        if hidden_size % num_attention_heads:
            raise ValueError(f"{num_attention_heads} heads do not divide hidden_size {hidden_size}")
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.cls_token_id = cls_token_id
        self.pad_value = pad_value
        self.mask_value = mask_value
        self.n_bins = n_bins
        self.max_seq_len = max_seq_len
        self.num_batches = num_batches
        self.batch_tokens = batch_tokens
        self.domain_norm = domain_norm
        self.num_modalities = num_modalities
        self.num_conditions = num_conditions
        self.zero_prob = zero_prob
        self.if_expressed = if_expressed
        self.mvc = mvc
        self.num_classes = num_classes
        self.num_class_layers = num_class_layers
        self.adversarial = adversarial
        self.generative = generative
        self.unavailable = dict(unavailable or {})
        self.pad_token_id = pad_token_id
        super().__init__(**kwargs)


@dataclass
class ScGPTOutput(ModelOutput):
    """What :meth:`ScGPTModel.forward` answers; None where the network has no such part."""

    loss: Tensor | None = None  # cross-entropy of the classes, if labels were given
    expression: Tensor | None = None  # (cell, token) GEP: predicted value
    zero_prob: Tensor | None = None  # (cell, token) P(value > 0); upstream's "mlm_zero_probs"
    gepc: Tensor | None = None  # (cell, token) value predicted from the cell embedding
    gepc_zero_prob: Tensor | None = None  # (cell, token)
    cell_embedding: Tensor | None = None  # (cell, d) the <cls> position, not normalized
    cls: Tensor | None = None  # (cell, class) logits
    dab: Tensor | None = None  # (cell, batch) logits of the discriminator
    last_hidden_state: Tensor | None = None  # (cell, token, d)


@dataclass
class ScGPTGenerateOutput(ModelOutput):
    """What :meth:`ScGPTModel.generate_forward` answers; ``gepc`` has the perceived genes first, then the generated."""

    loss: Tensor | None = None
    perceived: Tensor | None = None  # (cell, perceived) GEP
    generated: Tensor | None = None  # (cell, generated) GEP
    perceived_zero_prob: Tensor | None = None
    generated_zero_prob: Tensor | None = None
    gepc: Tensor | None = None  # (cell, perceived + generated)
    gepc_zero_prob: Tensor | None = None
    cell_embedding: Tensor | None = None  # (cell, d)
    cls: Tensor | None = None
    dab: Tensor | None = None
    last_hidden_state: Tensor | None = None  # (cell, perceived + generated, d)
