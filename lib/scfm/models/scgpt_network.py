"""scGPT as a Hugging Face model: tokens of gene and value in, predicted values and a cell embedding out.

The forward pass that lesson 07 takes apart (``ScGPTModel.forward``) and the one behind generation that lesson 08 does
(``ScGPTModel.generate_forward``); the pieces are in ``scgpt_layers.py``, the settings in ``scgpt_config.py``. Cui et al. 2024 (10.1038/s41592-024-02201-0).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from scfm.models.scgpt_config import LORA_TARGETS, NotAvailableError, ScGPTConfig, ScGPTGenerateOutput, ScGPTOutput
from scfm.models.scgpt_layers import (
    CellDecoder,
    DomainNorm,
    ExpressionDecoder,
    Head,
    Layers,
    NormedEmbedding,
    ValueEncoder,
)

__all__ = ["LORA_TARGETS", "NotAvailableError", "ScGPTConfig", "ScGPTGenerateOutput", "ScGPTModel", "ScGPTOutput"]


class ScGPTModel(PreTrainedModel):
    """The scGPT network. ``pad_mask`` arguments are bool (cell, token), True = padding, as upstream's."""

    config_class = ScGPTConfig
    config: ScGPTConfig
    base_model_prefix = "scgpt"
    main_input_name = "gene_ids"
    _supports_sdpa = True
    _no_split_modules = ["Layer"]  # noqa: RUF012

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__(config)
        d, c = config.hidden_size, config
        self.encoder = NormedEmbedding(c.vocab_size, d, c.pad_token_id)
        self.value_encoder = ValueEncoder(d, c.dropout)
        self.flag_encoder = nn.Embedding(2, d) if c.generative else None
        self.batch_encoder = NormedEmbedding(c.num_batches, d) if c.batch_tokens else None
        self.mod_encoder = NormedEmbedding(c.num_modalities, d) if c.num_modalities else None
        # the last kind of condition is that of padding, as upstream's pert_pad_id 2 of 3
        self.pert_encoder = nn.Embedding(c.num_conditions, d, c.num_conditions - 1) if c.num_conditions else None
        dsbn = c.domain_norm.startswith("dsbn")
        self.dsbn = DomainNorm(d, c.num_batches, c.domain_norm == "dsbn-affine") if dsbn else None
        self.bn = nn.BatchNorm1d(d, eps=6.1e-5) if c.domain_norm == "batchnorm" else None
        attention_dropout = c.dropout if c.attention_dropout is None else c.attention_dropout
        self.transformer_encoder = Layers(
            c.num_hidden_layers, d, c.num_attention_heads, c.intermediate_size, c.dropout, attention_dropout
        )
        d_read = 2 * d if c.batch_tokens or c.num_modalities else d  # what the decoders read
        self.decoder = ExpressionDecoder(d_read, d, c.zero_prob)
        self.mvc_decoder = CellDecoder(d_read if c.num_modalities else d, d_read, c.zero_prob) if c.mvc else None
        self.cls_decoder = Head(d, c.num_classes, c.num_class_layers) if c.num_classes else None
        self.grad_reverse_discriminator = Head(d, c.num_batches, reverse=True) if c.adversarial else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Upstream's start: torch's own defaults, but gene embeddings uniform in ±0.1."""
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = module.in_features**-0.5
                nn.init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Embedding):
            if module is self.encoder.embedding:
                nn.init.uniform_(module.weight, -0.1, 0.1)
            else:
                nn.init.normal_(module.weight)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
            if module.weight is not None:
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm1d):
                nn.init.zeros_(module.running_mean)  # type: ignore[arg-type]
                nn.init.ones_(module.running_var)  # type: ignore[arg-type]
                nn.init.zeros_(module.num_batches_tracked)  # type: ignore[arg-type]

    def get_input_embeddings(self) -> nn.Module:
        """The genes' embeddings, by which transformers and peft go."""
        return self.encoder.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put ``value`` in their place."""
        self.encoder.embedding = value  # type: ignore[assignment]

    def require(self, ability: str) -> None:
        """Raise NotAvailableError, with the reason, if the network cannot do "GEPC", "generation", "classification", ..."""
        parts = {
            "GEPC": self.mvc_decoder,
            "generation": self.flag_encoder,
            "classification": self.cls_decoder,
            "adversarial": self.grad_reverse_discriminator,
        }
        if parts.get(ability, self.decoder) is None or ability in self.config.unavailable:
            reason = self.config.unavailable.get(ability, "its config leaves the part out")
            raise NotAvailableError(f"This scGPT cannot do {ability}: {reason}.")

    # --- tokens -----------------------------------------------------------------------------------

    def tokens(self, genes: Tensor, values: Tensor | None, conditions: Tensor | None = None) -> Tensor:
        """Gene + value (or the flag "to be generated" where ``values`` is None) + condition: (cell, token, d)."""
        if values is not None:
            x = genes + self.value_encoder(values)
        else:
            self.require("generation")
            x = genes + self.flag_encoder.weight[1]  # type: ignore[union-attr]
        if self.pert_encoder is not None:
            if conditions is None:
                raise ValueError("This network has condition tokens: give conditions, int (cell, token)")
            x = x + self.pert_encoder(conditions)
        elif conditions is not None:
            raise ValueError("conditions were given, but this network has no condition tokens")
        return x

    def normalize(self, x: Tensor, batch_labels: Tensor | None) -> Tensor:
        """DSBN or BatchNorm of the tokens, if the network has one."""
        if self.dsbn is not None:
            return self.dsbn(x, batch_labels)
        if self.bn is not None:
            return self.bn(x.reshape(-1, x.shape[-1])).view(x.shape).to(x.dtype)
        return x

    def check_batches(self, batch_labels: Tensor | None, n_cells: int) -> None:
        """Batch labels must be there if, and only if, the network knows batches."""
        needed = self.batch_encoder is not None or self.dsbn is not None
        if batch_labels is None:
            if needed:
                raise ValueError("This network has batch tokens or DSBN: give batch_labels, int (cell,)")
            return
        if not needed:
            raise ValueError("batch_labels were given, but this network has neither batch tokens nor DSBN")
        if batch_labels.shape != (n_cells,):
            raise ValueError(
                f"batch_labels has shape {tuple(batch_labels.shape)}; one per cell, ({n_cells},), was expected"
            )
        if len(batch_labels) and not 0 <= batch_labels.min() <= batch_labels.max() < self.config.num_batches:
            raise ValueError(
                f"batch_labels must lie from 0 to {self.config.num_batches - 1}, the batches of this network"
            )

    def _appended(self, batch_labels: Tensor | None, modalities: Tensor | None, n_tokens: int) -> Tensor | None:
        """What the decoders read beside the tokens, (cell, token, d): the batch's and the modality's embedding."""
        if (modalities is None) != (self.mod_encoder is None):
            raise ValueError(
                "modalities, int (cell, token), must be given if and only if the network has modality tokens"
            )
        parts: list[Tensor] = []
        if self.batch_encoder is not None:
            parts.append(self.batch_encoder(batch_labels)[:, None].expand(-1, n_tokens, -1))
        if self.mod_encoder is not None:
            parts.append(self.mod_encoder(modalities))
        return sum(parts[1:], parts[0]) if parts else None

    def _decode(
        self, x: Tensor, genes: Tensor, batch_labels: Tensor | None, modalities: Tensor | None, labels: Tensor | None
    ) -> dict[str, Tensor | None]:
        """Everything that is read off the hidden states ``x`` (cell, token, d); ``genes`` are the gene embeddings."""
        cell = x[:, 0]
        beside = self._appended(batch_labels, modalities, x.shape[1])
        value, nonzero = self.decoder(x if beside is None else torch.cat([x, beside], -1))
        out: dict[str, Tensor | None] = {"expression": value, "zero_prob": nonzero, "cell_embedding": cell}
        if self.mvc_decoder is not None:
            asked = genes if self.mod_encoder is None or beside is None else torch.cat([genes, beside], -1)
            known = cell if beside is None else torch.cat([cell, beside[:, 0]], -1)
            out["gepc"], out["gepc_zero_prob"] = self.mvc_decoder(known, asked)
        if self.cls_decoder is not None:
            out["cls"] = self.cls_decoder(cell)
        if labels is not None:
            self.require("classification")
            out["loss"] = F.cross_entropy(out["cls"], labels)  # type: ignore[arg-type]
        if self.grad_reverse_discriminator is not None:
            out["dab"] = self.grad_reverse_discriminator(cell)
        out["last_hidden_state"] = x
        return out

    def _visible(self, genes: Tensor, pad_mask: Tensor | None) -> Tensor | None:
        if pad_mask is None and self.config.pad_token_id is not None:
            pad_mask = genes == self.config.pad_token_id
        if pad_mask is None or not pad_mask.any():
            return None  # without a mask, SDPA may take its fastest kernel
        return ~pad_mask.bool()[:, None, None, :]  # (cell, 1, 1, key)

    # --- forward passes ---------------------------------------------------------------------------

    def forward(
        self,
        gene_ids: Tensor,
        values: Tensor,
        pad_mask: Tensor | None = None,
        batch_labels: Tensor | None = None,
        modalities: Tensor | None = None,
        conditions: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> ScGPTOutput:
        """Predict every value from the values that are there: GEP, GEPC, and the heads.

        Parameters
        ----------
        gene_ids, values
            int64 and float (cell, token), ``<cls>`` first; a value to be predicted is ``config.mask_value``.
        pad_mask
            bool (cell, token), True = padding; where ``gene_ids`` is ``config.pad_token_id`` unless given.
        batch_labels, labels
            int64 (cell,): batch of the study; class, for ``.loss``.
        modalities, conditions
            int64 (cell, token).

        Raises
        ------
        ValueError
            An input that the network needs is missing, or one that it has no use for was given.
        """
        self.check_batches(batch_labels, len(gene_ids))
        genes = self.encoder(gene_ids)
        x = self.normalize(self.tokens(genes, values, conditions), batch_labels)  # (cell, token, d)
        visible = self._visible(gene_ids, pad_mask)
        for layer in self.transformer_encoder.layers:
            x = layer(x, visible)
        return ScGPTOutput(**self._decode(x, genes, batch_labels, modalities, labels))

    def generate_forward(
        self,
        pcpt_genes: Tensor,
        pcpt_values: Tensor,
        gen_genes: Tensor | None = None,
        pcpt_pad_mask: Tensor | None = None,
        gen_pad_mask: Tensor | None = None,
        cell_prompt: Tensor | None = None,
        batch_labels: Tensor | None = None,
        pcpt_modalities: Tensor | None = None,
        gen_modalities: Tensor | None = None,
        pcpt_conditions: Tensor | None = None,
        gen_conditions: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> ScGPTGenerateOutput:
        """Predict the values of generated genes from perceived ones: each generated gene sees all perceived, and itself.

        Parameters
        ----------
        pcpt_genes, pcpt_values
            (cell, perceived), ``<cls>`` first.
        gen_genes
            (cell, generated), genes without values; None for the perceived alone.
        pcpt_pad_mask, gen_pad_mask
            bool, True = padding. The second changes nothing, as no gene looks at another generated one; it is accepted so
            that both halves can be given alike.
        cell_prompt
            (cell, d) embedding that is written to position 0 instead of ``<cls>``: upstream's second pass in training,
            and "make me a B cell".

        Raises
        ------
        NotAvailableError
            The network has no flag embedding, so it was never trained to generate.
        """
        self.check_batches(batch_labels, len(pcpt_genes))
        genes = self.encoder(pcpt_genes)
        x = self.normalize(self.tokens(genes, pcpt_values, pcpt_conditions), batch_labels)  # (cell, perceived, d)
        if cell_prompt is not None:
            x = torch.cat([cell_prompt[:, None].to(x.dtype), x[:, 1:]], 1)
        visible = self._visible(pcpt_genes, pcpt_pad_mask)
        n, modalities = pcpt_genes.shape[1], pcpt_modalities
        if gen_genes is None:
            for layer in self.transformer_encoder.layers:
                x = layer(x, visible)
        else:
            asked = self.encoder(gen_genes)
            y = self.normalize(self.tokens(asked, None, gen_conditions), batch_labels)  # (cell, generated, d)
            for layer in self.transformer_encoder.layers:
                x, y = layer.forward_both(x, y, visible)  # type: ignore[operator]
            x, genes = torch.cat([x, y], 1), torch.cat([genes, asked], 1)
            if pcpt_modalities is not None and gen_modalities is not None:
                modalities = torch.cat([pcpt_modalities, gen_modalities], 1)
        out = self._decode(x, genes, batch_labels, modalities, labels)
        value, nonzero = out.pop("expression"), out.pop("zero_prob")
        halves = {"perceived": value[:, :n], "generated": value[:, n:]}  # type: ignore[index]
        if nonzero is not None:
            halves |= {"perceived_zero_prob": nonzero[:, :n], "generated_zero_prob": nonzero[:, n:]}
        return ScGPTGenerateOutput(**halves, **out)
