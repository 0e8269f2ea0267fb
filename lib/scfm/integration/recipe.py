"""scGPT's fine-tuning: the objectives of pretraining once more, on the cells of a new study.

Lesson 07 builds it by hand. In the paper "fine-tuning" is no classifier on frozen features: the network gets parts for the
new study (batch tokens, a normalization per batch, a discriminator of batches, a classifier), and everything is trained to fill
in hidden values there. Labels are needed for CLS only. Cui et al. 2024 (10.1038/s41592-024-02201-0); upstream:
examples/finetune_integration.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scfm.inside.seeded import seeded
from scfm.integration.study import Study, minibatches, prepare
from scfm.integration.study import check as check_study
from scfm.models import Model
from scfm.models.scgpt import ScGPT
from scfm.models.scgpt_network import ScGPTConfig, ScGPTModel
from scfm.objectives import Weights, combine
from scfm.tokenized import TokenizedCells

if TYPE_CHECKING:
    import anndata
    import pandas as pd

OBJECTIVES = ("GEP", "GEPC", "ECS", "DAR", "CLS")
# parts that belong to a study, not to the model: always new
OF_THE_STUDY = ("batch_encoder.", "dsbn.", "cls_decoder.", "grad_reverse_discriminator.")


# --- a network with parts for the new study ---------------------------------------------------------


def with_parts(base: ScGPTModel, seed: int = 0, **parts: Any) -> ScGPTModel:
    """A copy of ``base`` with other parts: every weight that fits is the base's, the rest is random by ``seed``.

    ``parts``: settings of :class:`ScGPTConfig` (num_batches, batch_tokens, domain_norm, adversarial, num_classes, zero_prob, ...).
    Decoders that now also read the batch token get zeros for it, so that the copy answers as the base does until it is
    trained. (Upstream's loader drops a decoder whose width has changed, and starts it at random.)
    """
    config = ScGPTConfig(**(base.config.to_diff_dict() | parts))
    config.unavailable = {
        ability: why for ability, why in config.unavailable.items() if ability not in ("classification", "adversarial")
    }
    with seeded(seed):
        network = ScGPTModel(config)
    state = network.state_dict()
    for name, value in base.state_dict().items():
        if name not in state or name.startswith(OF_THE_STUDY):
            continue
        if state[name].shape == value.shape:
            state[name].copy_(value)
        else:  # a decoder that reads d numbers in one network and 2 d in the other
            common = tuple(slice(min(a, b)) for a, b in zip(value.shape, state[name].shape, strict=True))
            state[name].zero_()
            state[name][common] = value[common]
    return network.train(base.training).to(base.device)


# --- training ---------------------------------------------------------------------------------------


@dataclass
class FineTuned:
    """A fine-tuned scGPT, and how it came about.

    history: long table (step, epoch, objective, loss), unweighted, per minibatch. interrupted: training was stopped by hand.
    """

    model: ScGPT
    study: Study = field(repr=False)
    history: pd.DataFrame = field(repr=False)
    seconds: float = 0.0
    interrupted: bool = False
    settings: dict[str, Any] = field(default_factory=dict, repr=False)

    def embed(self, adata: anndata.AnnData, normalize: bool = True, dtype: str = "float32") -> np.ndarray:
        """Embeddings of cells of this study's batches, by the genes it was fine-tuned on; float32 (cell, d), in input order.

        Raises
        ------
        ValueError
            A gene of the study is missing, or a batch is new and the network has parts for each batch.
        """
        return self.model.embed(*self._read(adata), normalize=normalize, dtype=dtype, progress=False)

    def predict(self, adata: anndata.AnnData) -> np.ndarray:
        """The classifier's answer for each cell, str (cell,); NotAvailableError where CLS was not among the objectives."""
        self.model.require("classification")
        cell = self.embed(adata, normalize=False)
        network = self.model.network
        with torch.inference_mode():
            logits = network.cls_decoder(torch.from_numpy(cell).to(network.device))
        return np.asarray(self.study.classes)[logits.argmax(1).cpu().numpy()]

    def _read(self, adata: anndata.AnnData) -> tuple[TokenizedCells, np.ndarray | None]:
        symbols = adata.var["gene_symbol"].astype(str)
        first = {symbol: column for column, symbol in reversed(list(enumerate(symbols)))}
        missing = [gene for gene in self.study.genes if gene not in first]
        if missing:
            raise ValueError(
                f"{len(missing)} of the {len(self.study.genes)} genes that this model was fine-tuned on are missing, for "
                f"example {', '.join(missing[:3])}: give it cells of the same study."
            )
        part = adata[:, [first[gene] for gene in self.study.genes]]
        cells = self.model.tokenize(part, max_len=part.n_vars + 1, include_zeros=True)
        network = self.model.network
        if network.batch_encoder is None and network.dsbn is None:
            return cells, None
        number = {name: i for i, name in enumerate(self.study.batches)}
        names = adata.obs["batch"].astype(str).to_numpy()
        unknown = sorted(set(names) - set(number))
        if unknown:
            raise ValueError(
                f"Batch {unknown[0]!r} is new: this network has parts for {', '.join(self.study.batches)} only. Fine-tune it "
                "with the new batch, or with batch_tokens=False and domain_norm='none'."
            )
        return cells, np.asarray([number[name] for name in names])


def finetune(
    model: ScGPT,
    adata: anndata.AnnData,
    objectives: Sequence[str] = ("GEP", "GEPC", "ECS", "DAR"),
    weights: Weights | None = None,
    labels: Sequence[str] | np.ndarray | None = None,
    batch_tokens: bool = True,
    domain_norm: str = "dsbn",
    n_genes: int = 1200,
    mask_fraction: float = 0.4,
    epochs: int = 30,
    minibatch: int = 64,
    learning_rate: float = 1e-4,
    decay: float = 0.9,
    max_steps: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> FineTuned:
    """Fine-tune an scGPT on a study as the paper does; ``model`` itself stays as it is.

    Defaults are those of upstream's integration recipe for the whole-human model: Adam, gradients cut at norm 1, the learning
    rate times ``decay`` after each epoch. There, a minibatch holds cells of one batch when DSBN is on; here each cell is
    normalized by its own label, so minibatches are mixed, and ECS and DAR see pairs across batches.

    Parameters
    ----------
    adata
        Raw counts of all cells, labelled or not, with ``obs["batch"]``.
    objectives
        Which of GEP, GEPC, ECS, DAR, CLS are on; ``weights`` says how much those count.
    labels
        (cell,), for CLS: "" or "unknown" where not known; ``obs["cell_type"]`` unless given.
    batch_tokens, domain_norm
        Parts for the batches, as in :class:`ScGPTConfig`; False and "none" for a study of one batch.
    max_steps
        Stop after this many minibatches; 0 for the network as it starts, to compare with.

    Returns
    -------
    FineTuned
        After an interrupt (stop button, Ctrl-C) what there is so far.

    Raises
    ------
    NotAvailableError
        The checkpoint has no GEPC decoder.
    ValueError
        An objective that does not exist or lacks batches or labels; settings out of range; a loss that is no number.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    on = _checked(model, objectives, mask_fraction, epochs, minibatch, learning_rate)
    study = prepare(model, adata, n_genes, labels)
    check_study(study, on, batch_tokens, domain_norm, labels is None)
    w = replace(weights or Weights(), **{name.lower(): 0.0 for name in OBJECTIVES if name not in on})
    of_batches = batch_tokens or domain_norm.startswith("dsbn")
    network = with_parts(
        model.network,
        seed,
        num_batches=len(study.batches) if of_batches or "DAR" in on else 0,
        batch_tokens=batch_tokens,
        domain_norm=domain_norm,
        adversarial="DAR" in on,
        num_classes=len(study.classes) if "CLS" in on else 0,
        zero_prob=model.network.config.zero_prob or bool(w.zero_prob and (w.gep or w.gepc)),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    steps = epochs * math.ceil(len(study) / minibatch)
    steps = steps if max_steps is None else min(steps, max_steps)
    rows: list[tuple[int, int, str, float]] = []
    interrupted = False
    begin = time.perf_counter()
    with seeded(seed):  # dropout
        network.train()
        try:
            with tqdm(total=steps, desc="fine-tuning", unit="step", disable=not progress, delay=1, leave=False) as bar:
                for step, (epoch, cells, mask) in enumerate(minibatches(study, minibatch, mask_fraction, seed)):
                    if step == steps:
                        break
                    for group in optimizer.param_groups:
                        group["lr"] = learning_rate * decay**epoch
                    total, losses = losses_of(network, study, cells, mask, w)
                    if not torch.isfinite(total):
                        raise ValueError(f"The loss is no number at step {step}: take a smaller learning_rate.")
                    optimizer.zero_grad()
                    total.backward()
                    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                    optimizer.step()
                    rows += [(step, epoch, name, loss.item()) for name, loss in losses.items()]
                    bar.set_postfix({name: f"{loss.item():.3g}" for name, loss in losses.items()}, refresh=False)
                    bar.update()
        except KeyboardInterrupt:
            interrupted = True  # what was learned so far is kept
    network.eval()
    settle(network, study)
    adapted = ScGPT(network, model.vocabulary, f"{model.name}, fine-tuned ({', '.join(on)})")
    settings = {"objectives": on, "weights": w, "seed": seed, "steps": steps, "learning_rate": learning_rate}
    history = pd.DataFrame(rows, columns=["step", "epoch", "objective", "loss"])
    return FineTuned(adapted, study, history, time.perf_counter() - begin, interrupted, settings)


def losses_of(
    network: ScGPTModel, study: Study, cells: np.ndarray, mask: np.ndarray, weights: Weights
) -> tuple[Tensor, dict[str, Tensor]]:
    """One forward pass with the values at ``mask`` hidden, and the objectives of ``weights``: (total, each by name)."""
    device, config = network.device, network.config
    gene_ids = torch.from_numpy(study.gene_ids).to(device).expand(len(cells), -1)  # (cell, token)
    target, hidden = torch.from_numpy(study.values[cells]).to(device), torch.from_numpy(mask).to(device)
    batch, label = (torch.from_numpy(numbers[cells]).to(device) for numbers in (study.batch, study.label))
    reads_batches = network.batch_encoder is not None or network.dsbn is not None
    output = network(
        gene_ids, target.masked_fill(hidden, config.mask_value), batch_labels=batch if reads_batches else None
    )
    return combine(output, target, hidden, batch, label, weights, config.if_expressed)


@torch.no_grad()
def settle(network: ScGPTModel, study: Study, size: int = 64) -> None:
    """Give DSBN (or BatchNorm) the mean and variance of the study's cells as they are, with nothing hidden.

    In training the running statistics are those of inputs of which mask_fraction is "hidden"; an embedding is made of
    inputs of which nothing is. Upstream leaves it so; we do not.
    """
    groups: list[tuple[Any, np.ndarray]] = []
    if network.dsbn is not None:
        groups = [(bn, np.flatnonzero(study.batch == number)) for number, bn in enumerate(network.dsbn.bns)]
    elif network.bn is not None:
        groups = [(network.bn, np.arange(len(study)))]
    gene_ids = torch.from_numpy(study.gene_ids).to(network.device)
    for bn, cells in groups:
        total, squares = torch.zeros(2, network.config.hidden_size, dtype=torch.float64, device=network.device)
        for first in range(0, len(cells), size):
            values = torch.from_numpy(study.values[cells[first : first + size]]).to(network.device)
            x = network.tokens(network.encoder(gene_ids), values).double()  # (cell, token, d)
            total += x.sum((0, 1))
            squares += x.square().sum((0, 1))
        mean = total / (len(cells) * len(gene_ids))
        bn.running_mean.copy_(mean)
        bn.running_var.copy_(squares / (len(cells) * len(gene_ids)) - mean.square())


# --- refusals ---------------------------------------------------------------------------------------


def _checked(
    model: Model, objectives: Sequence[str], mask_fraction: float, epochs: int, minibatch: int, learning_rate: float
) -> tuple[str, ...]:
    """The objectives in the paper's order, after everything that can be refused without the data."""
    asked = [objectives] if isinstance(objectives, str) else list(objectives)
    unknown = [name for name in asked if str(name).upper() not in OBJECTIVES]
    if unknown or not asked:
        said = f"{unknown[0]!r} is no objective of scGPT" if unknown else "No objective was named"
        raise ValueError(f"{said}; there are {', '.join(OBJECTIVES)}.")
    on = tuple(name for name in OBJECTIVES if name in {str(a).upper() for a in asked})
    if not isinstance(model, ScGPT) or not isinstance(model.network, ScGPTModel):
        raise TypeError(
            f"An scGPT as scfm.load_model gives it was expected, not {type(getattr(model, 'network', model)).__name__}. "
            "An adapter of peft has to be merged first (merge_and_unload)."
        )
    if model.network.config.num_modalities or model.network.config.num_conditions:
        raise ValueError("This scGPT has modality or condition tokens, which this loop has no inputs for.")
    if "GEPC" in on:
        model.require("GEPC")
    if not 0 <= mask_fraction < 1 or (mask_fraction == 0 and {"GEP", "GEPC"} & set(on)):
        raise ValueError(
            f"mask_fraction is {mask_fraction}; GEP and GEPC need a share between 0 and 1 (the paper: 0.4)."
        )
    if epochs < 1 or minibatch < 2 or not learning_rate > 0:
        raise ValueError("epochs must be at least 1, minibatch at least 2 (ECS looks at pairs), learning_rate above 0.")
    return on
