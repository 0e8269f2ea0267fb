"""scGPT's building blocks: what makes a token, how tokens attend, and what reads the answer off them.

Names of modules are those of the released state dicts, so that a checkpoint needs no translation beyond the spellings of
one attention weight. Cui et al. 2024 (10.1038/s41592-024-02201-0); upstream: scgpt/model/model.py and, for generation, the
old development branch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST_VALUE = 512.0  # upstream clips values here; bins never get near it
DOMAIN_NORM_EPS = 6.1e-5  # upstream's: the smallest normal number of float16

# --- from a gene, a value and a batch to a vector ---------------------------------------------------


class NormedEmbedding(nn.Module):
    """A looked-up vector, LayerNorm'd: upstream's GeneEncoder and BatchLabelEncoder."""

    def __init__(self, n: int, d: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n, d, padding_idx=padding_idx)
        self.enc_norm = nn.LayerNorm(d)

    def forward(self, ids: Tensor) -> Tensor:
        """Int64 ids (...) → vectors (..., d)."""
        return self.enc_norm(self.embedding(ids))  # (..., d)


class ValueEncoder(nn.Module):
    """A number becomes a vector by a small network: neighbouring bins are neighbours from the start."""

    def __init__(self, d: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(1, d)
        self.linear2 = nn.Linear(d, d)
        self.norm = nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        """Values (...), cut at ``LARGEST_VALUE`` → vectors (..., d)."""
        x = values.to(self.norm.weight.dtype)[..., None].clamp(max=LARGEST_VALUE)
        return self.dropout(self.norm(self.linear2(F.relu(self.linear1(x)))))  # (..., d)


class DomainNorm(nn.Module):
    """DSBN: a batch normalization of its own for each batch of the study (Chang et al. 2019, arXiv:1906.03950).

    Upstream normalizes a whole minibatch by the label of its first cell, so a minibatch had to be of one batch. Here each
    cell goes by its own label; on such minibatches the two agree.
    """

    def __init__(self, d: int, n_batches: int, affine: bool = False) -> None:
        super().__init__()
        self.bns = nn.ModuleList(nn.BatchNorm1d(d, eps=DOMAIN_NORM_EPS, affine=affine) for _ in range(n_batches))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """``x`` (cell, ..., d), each cell normalized by the statistics of its batch, ``labels`` (cell,)."""
        out = torch.empty_like(x)  # (cell, ..., d)
        for label in labels.unique().tolist():
            rows = labels == label
            own = x[rows]
            out[rows] = self.bns[label](own.reshape(-1, x.shape[-1])).view(own.shape).to(x.dtype)
        return out


# --- attention --------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Multi-head attention for perceived genes (all see all) and for generated ones (each sees the perceived and itself)."""

    def __init__(self, d: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.Wqkv = nn.Linear(d, 3 * d)
        self.out_proj = nn.Linear(d, d)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (cell, head, token, d / heads)."""
        q, k, v = self.Wqkv(x).unflatten(-1, (3, self.n_heads, -1)).unbind(-3)  # (cell, token, head, d / heads)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def perceive(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        """Perceived genes attend to perceived genes; ``visible`` (cell, 1, token or 1, key), True = may be looked at."""
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)
        return self.out_proj(context.transpose(1, 2).flatten(2))  # (cell, token, d)

    def generate(
        self, own: tuple[Tensor, Tensor, Tensor], k: Tensor, v: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """Generated genes attend to the perceived keys and values and each to itself: no generated gene sees another.

        The whole mask would be mostly forbidden, so the scores are made in two pieces: with the perceived genes, and one
        number per gene with itself. Upstream's generated branch does not pass through ``out_proj``; the released weights
        were trained that way, so neither does ours.
        """
        own_q, own_k, own_v = own
        own_q = own_q * own_q.shape[-1] ** -0.5
        others = own_q @ k.transpose(-1, -2)  # (cell, head, generated, perceived)
        if visible is not None:
            others = others.masked_fill(~visible, float("-inf"))
        itself = (own_q * own_k).sum(-1, keepdim=True)  # (cell, head, generated, 1)
        weights = F.dropout(torch.cat([others, itself], -1).softmax(-1), self.dropout, self.training)
        context = weights[..., :-1] @ v + weights[..., -1:] * own_v
        return context.transpose(1, 2).flatten(2)  # (cell, generated, d)


class Layer(nn.Module):
    """Post-norm transformer layer with ReLU; perceived and generated genes share every weight but ``out_proj``."""

    def __init__(self, d: int, n_heads: int, d_hidden: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(d, n_heads, attention_dropout)
        self.linear1 = nn.Linear(d, d_hidden)
        self.linear2 = nn.Linear(d_hidden, d)
        self.norm1 = nn.LayerNorm(d, eps=1e-5)
        self.norm2 = nn.LayerNorm(d, eps=1e-5)
        self.dropout = nn.Dropout(dropout)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residual and norm, then the feed-forward network with its own: everything after the attention."""
        x = self.norm1(x + self.dropout(attended))
        return self.norm2(x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x))))))

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """One step for perceived ``x`` (cell, token, d)."""
        return self.finish(x, self.self_attn.perceive(*self.self_attn.project(x), visible))

    def forward_both(self, x: Tensor, generated: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step for perceived ``x`` (cell, perceived, d) and ``generated`` (cell, generated, d) side by side."""
        q, k, v = self.self_attn.project(x)
        attended = self.self_attn.generate(self.self_attn.project(generated), k, v, visible)
        return self.finish(x, self.self_attn.perceive(q, k, v, visible)), self.finish(generated, attended)


class Layers(nn.Module):
    """The stack; a module of its own only because the state dicts say ``transformer_encoder.layers.N``."""

    def __init__(self, n: int, *shape: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(*shape) for _ in range(n))


# --- decoders ---------------------------------------------------------------------------------------


def _three_linear(d_in: int, d: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d_in, d), nn.LeakyReLU(), nn.Linear(d, d), nn.LeakyReLU(), nn.Linear(d, 1))


class ExpressionDecoder(nn.Module):
    """GEP: the value of a gene from its token; with ``zero_prob`` also the probability that it is not zero."""

    def __init__(self, d_in: int, d: int, zero_prob: bool) -> None:
        super().__init__()
        self.fc = _three_linear(d_in, d)
        self.zero_logit = _three_linear(d_in, d) if zero_prob else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens (cell, token, d) → values and, if there is that decoder, P(not zero): (cell, token) each."""
        nonzero = None if self.zero_logit is None else self.zero_logit(x)[..., 0].sigmoid()
        return self.fc(x)[..., 0], nonzero  # (cell, token) each


class CellDecoder(nn.Module):
    """GEPC, upstream's MVC "inner product": the value of a gene from the cell embedding alone, query · W · cell."""

    def __init__(self, d_gene: int, d_cell: int, zero_prob: bool) -> None:
        super().__init__()
        self.gene2query = nn.Linear(d_gene, d_gene)
        self.W = nn.Linear(d_gene, d_cell, bias=False)
        self.W_zero_logit = nn.Linear(d_gene, d_cell) if zero_prob else None

    def forward(self, cell: Tensor, genes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Cell (cell, d_cell) and its genes' vectors (cell, token, d_gene) → values, P(not zero): (cell, token) each."""
        query = self.gene2query(genes).sigmoid()  # (cell, token, d_gene)
        value = (self.W(query) @ cell[..., None])[..., 0]  # (cell, token)
        if self.W_zero_logit is None:
            return value, None
        return value, (self.W_zero_logit(query) @ cell[..., None])[..., 0].sigmoid()


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


def reverse_gradient(x: Tensor, strength: float = 1.0) -> Tensor:
    """``x`` itself; on the way back its gradient times ``-strength`` (Ganin & Lempitsky 2015, arXiv:1409.7495)."""
    return _Reversed.apply(x, strength)


class Head(nn.Module):
    """Logits of a cell's class, (Linear, activation, LayerNorm) twice and a Linear.

    With ``reverse`` it is the adversarial discriminator of batches: it learns to tell them apart (LeakyReLU), and the
    encoder, which gets the reversed gradient, learns to hide them.
    """

    def __init__(self, d: int, n_classes: int, n_layers: int = 3, reverse: bool = False) -> None:
        super().__init__()
        self._decoder = nn.ModuleList()
        for _ in range(n_layers - 1):
            self._decoder.extend([nn.Linear(d, d), nn.LeakyReLU() if reverse else nn.ReLU(), nn.LayerNorm(d)])
        self.out_layer = nn.Linear(d, n_classes)
        self.reverse = reverse

    def forward(self, cell: Tensor) -> Tensor:
        """Cell embeddings (cell, d) → logits (cell, class)."""
        x = reverse_gradient(cell) if self.reverse else cell
        for module in self._decoder:
            x = module(x)
        return self.out_layer(x)  # (cell, class)
