"""Corpus → medians → vocabulary → a small foundation model, in the way Geneformer was made.

    python -m scfm.pretrain --help

One pool of cells after another is augmented, ranked, sorted by length and cut into minibatches; a BERT guesses the 15 % of
the genes that were masked. Every random draw comes from (seed, number of the pool or step), so a run that was
killed goes on from its last checkpoint exactly where an uninterrupted one would be.
"""

from __future__ import annotations

import json
import time
import tomllib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm import cache, genes
from scfm.corpus import SPECIAL, Corpus, make_vocabulary, read_corpus
from scfm.minibatches import length_grouped, mask_tokens, ranked, stream

if TYPE_CHECKING:
    import torch
    from transformers import BertForMaskedLM


@dataclass(frozen=True)
class Settings:
    """All that decides the result of a pretraining run."""

    name: str = "geneformer-mini"
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 512
    max_len: int = 256  # tokens of a cell, <cls> and <eos> included
    min_cells: int = 200  # a gene seen in fewer training cells gets no token: rare genes keep the loss from moving
    mask_fraction: float = 0.15
    minibatch: int = 32
    pool: int = 50  # minibatches that are augmented and sorted by length together
    thin_share: float = 0.7  # this share of the cells has its counts thinned to 20-100 %
    panel_share: float = 0.3  # this share keeps a random 5-100 % of its genes, as a small gene panel would
    steps: int = 5250
    warmup: int = 300
    learning_rate: float = 1e-3
    slope_to: int = 7500  # the rate falls linearly as if to zero at this step ...
    cooldown: int = 1000  # ... and over the last steps of the run all the way to it
    weight_decay: float = 0.01
    dropout: float = 0.05  # hidden layers only: attention dropout would send SDPA down its slow path
    warm_start: bool = True  # gene embeddings from an SVD of gene presence, output bias from the genes' frequencies
    held_out_cells: float = 0.05
    seed: int = 0


# --- the network ------------------------------------------------------------------------------------


def new_network(settings: Settings, n_vocabulary: int) -> BertForMaskedLM:
    """A BERT with random weights, drawn from the seed."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return BertForMaskedLM(
            BertConfig(
                vocab_size=n_vocabulary,
                hidden_size=settings.hidden,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
                intermediate_size=settings.feed_forward,
                max_position_embeddings=settings.max_len,
                hidden_act="relu",
                hidden_dropout_prob=settings.dropout,
                attention_probs_dropout_prob=0.0,
                pad_token_id=SPECIAL[genes.PAD],
            )
        )


def warm_start(network: BertForMaskedLM, corpus: Corpus, train: np.ndarray, columns: tuple, seed: int) -> None:
    """Start the gene embeddings from a truncated SVD of which cell expresses which gene, the output bias from frequencies."""
    import torch
    from sklearn.utils.extmath import randomized_svd

    presence = corpus.counts[train]
    presence = presence[:, columns[0] >= 0].astype(np.float32)
    presence.data[:] = 1.0
    token = columns[0][columns[0] >= 0]
    frequency = np.asarray(presence.mean(axis=0)).ravel()
    embedding = network.bert.embeddings.word_embeddings.weight
    _, _, components = randomized_svd(presence, n_components=embedding.shape[1], random_state=seed)
    start = components.T / components.std() * 0.02  # the scale of BERT's own start
    with torch.no_grad():
        embedding[token] = torch.from_numpy(np.ascontiguousarray(start, dtype=np.float32))
        bias = network.cls.predictions.bias
        bias.fill_(float(np.log(1e-6)))  # a special token is never the answer
        bias[token] = torch.from_numpy(np.log(frequency / frequency.sum()).astype(np.float32))


def masked_loss(network: BertForMaskedLM, tokens: torch.Tensor, masked: torch.Tensor, positions: torch.Tensor) -> Any:
    """Cross-entropy (minibatch * k,) and logits at the masked positions only: elsewhere nothing is to be guessed."""
    import torch

    hidden = network.bert(input_ids=masked).last_hidden_state  # (cell, token, d)
    at_masked = torch.take_along_dim(hidden, positions[..., None], dim=1)  # (cell, k, d)
    logits = network.cls(at_masked).flatten(0, 1).float()  # (cell * k, vocabulary)
    target = torch.take_along_dim(tokens, positions, dim=1).flatten()
    return torch.nn.functional.cross_entropy(logits, target, reduction="none"), logits, target


# --- the run ----------------------------------------------------------------------------------------


def pretrain(corpus: Corpus, settings: Settings, work: Path, out: Path, checkpoint_every: int = 250) -> dict:
    """Pretrain, or go on from ``work/checkpoint.pt``; write the model folder to ``out``. Returns the training log.

    Raises
    ------
    ValueError
        If the checkpoint in ``work`` was made with other settings or another corpus.
    """
    import torch
    from tqdm.auto import tqdm

    from scfm import embed

    work.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, held_out = split(corpus, settings)
    vocabulary = make_vocabulary(corpus, train, settings.name, settings.min_cells, settings.max_len)
    columns = vocabulary.columns(corpus.ensembl_ids)
    network: Any = new_network(settings, len(vocabulary))
    if settings.warm_start:
        warm_start(network, corpus, train, columns, settings.seed)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    network.to(device).train()
    decay = [p for p in network.parameters() if p.ndim > 1]
    no_decay = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": settings.weight_decay}, {"params": no_decay, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
    )
    fingerprint = {"settings": asdict(settings), "corpus": corpus.hashes}
    log: list[dict] = []
    pool, step, seconds = 0, 0, 0.0
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        if json.loads(state["fingerprint"]) != fingerprint:
            raise ValueError(
                f"{checkpoint} was made with other settings or another corpus. Delete {work} to start afresh, or give "
                "another --work folder."
            )
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        pool, step, seconds, log = state["pool"], state["step"], state["seconds"], json.loads(state["log"])

    def save() -> None:
        with cache.atomic_write(checkpoint) as path:
            torch.save(
                {
                    "fingerprint": json.dumps(fingerprint),
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "pool": pool,
                    "step": step,
                    "seconds": seconds,
                    "log": json.dumps(log),
                },
                path,
            )

    bf16 = embed.choose_dtype("auto", device) == torch.bfloat16
    sample = ranked(corpus.counts[held_out], corpus.n_counts[held_out], columns, settings.max_len)
    first = time.monotonic() - seconds
    bar = tqdm(total=settings.steps, initial=step, desc=settings.name, unit="step")
    pools = stream(corpus, train, columns, settings, pool)
    recent: list[float] = []
    saved = step
    while step < settings.steps:
        for tokens in next(pools)[: settings.steps - step]:
            rng = np.random.default_rng([settings.seed, 3, step])
            torch.manual_seed(settings.seed * 1_000_003 + step)
            masked, positions = mask_tokens(tokens, len(vocabulary), settings.mask_fraction, rng)
            rate = learning_rate(step, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = [torch.from_numpy(a).to(device) for a in (tokens, masked, positions)]
            with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
                loss = masked_loss(network, *batch)[0].mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            recent.append(loss.item())
            step += 1
            bar.update()
        pool += 1
        # a pool is the unit that can be resumed: checkpoints fall on its end
        if step - saved >= checkpoint_every or step >= settings.steps:
            seconds, saved = time.monotonic() - first, step
            log.append({"step": step, "seconds": round(seconds), "train_loss": float(np.mean(recent)), "rate": rate})
            log[-1] |= evaluate(network, sample, seed=0, device=device)
            bar.set_postfix(train=f"{log[-1]['train_loss']:.3f}", held_out=f"{log[-1]['loss']:.3f}")
            recent = []
            save()
    bar.close()
    report = {
        **fingerprint,
        "n_cells_train": len(train),
        "n_cells_held_out": len(held_out),
        "n_genes": len(vocabulary) - len(SPECIAL),
        "seconds": round(seconds),
        "device": device,
        "log": log,
    }
    frequencies = token_frequencies(corpus, train, columns, vocabulary, settings.max_len)
    vocabulary = replace(vocabulary, frequencies=frequencies)
    report["frequency_baseline"] = frequency_baseline(vocabulary, sample)
    write_model(network, start if settings.warm_start else None, vocabulary, report, out)
    return report


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, a slow linear fall, and a faster one to zero over the last steps."""
    slope_to, cooldown = max(settings.slope_to, settings.steps), min(settings.cooldown, settings.steps)
    warm, fall = (step + 1) / settings.warmup, 1 - step / slope_to
    return settings.learning_rate * min(warm, fall) * min(1.0, (settings.steps - step) / cooldown)


def split(corpus: Corpus, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training cells and of the held-out ones: the same share of every dataset."""
    rng = np.random.default_rng([settings.seed, 0])
    held_out = rng.random(len(corpus)) < settings.held_out_cells
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def evaluate(network: BertForMaskedLM, cells: list[np.ndarray], seed: int, device: str = "cpu") -> dict[str, float]:
    """Loss and accuracy of the guesses on cells (bare gene tokens), 15 % masked, one at a time per equal-length group."""
    import torch

    losses, hits = [], []
    rng = np.random.default_rng(seed)
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        for tokens in length_grouped(cells, 16, rng):
            masked, positions = mask_tokens(tokens, network.config.vocab_size, 0.15, rng, bert=False)
            batch = [torch.from_numpy(a).to(device) for a in (tokens, masked, positions)]
            loss, logits, target = masked_loss(network, *batch)
            losses.append(loss.cpu().numpy())
            hits.append((logits.argmax(1) == target).cpu().numpy())
    network.train(was_training)
    return {"loss": float(np.concatenate(losses).mean()), "accuracy": float(np.concatenate(hits).mean())}


def token_frequencies(
    corpus: Corpus, train: np.ndarray, columns: tuple, vocabulary: genes.RankVocabulary, max_len: int
) -> dict[str, float]:
    """Each gene's share of all gene tokens of the training cells; one is added to each count, so that none is zero."""
    counts = np.ones(len(vocabulary))
    for cell in ranked(corpus.counts[train], corpus.n_counts[train], columns, max_len):
        counts[cell] += 1
    total = counts[len(SPECIAL) :].sum()
    return {gene: float(counts[token] / total) for gene, token in vocabulary.tokens.items()}


def frequency_baseline(vocabulary: genes.RankVocabulary, cells: list[np.ndarray], seed: int = 0) -> dict[str, float]:
    """What knowing only how frequent each gene is achieves on :func:`evaluate`'s own questions; ``*_unseen``: with the genes
    that the cell shows excluded, since none occurs twice."""
    share = vocabulary.frequency_of_tokens()
    rng = np.random.default_rng(seed)
    found: dict[str, list[np.ndarray]] = {"loss": [], "accuracy": [], "loss_unseen": [], "accuracy_unseen": []}
    for tokens in length_grouped(cells, 16, rng):
        masked, positions = mask_tokens(tokens, len(share), 0.15, rng, bert=False)
        for cell, shown, at in zip(tokens, masked, positions, strict=True):
            target, left = cell[at], share.copy()
            left[shown] = 0
            found["loss"].append(-np.log(share[target]))
            found["loss_unseen"].append(-np.log(left[target] / left.sum()))
            found["accuracy"].append(target == share.argmax())
            found["accuracy_unseen"].append(target == left.argmax())
    return {name: float(np.concatenate(values).mean()) for name, values in found.items()}


def write_model(network: Any, start: dict | None, vocabulary: genes.RankVocabulary, report: dict, out: Path) -> None:
    """Write the folder that ``scfm.load_model`` reads: half-precision weights, config, vocabulary, log.

    ``start.safetensors`` keeps what the warm start set (gene embeddings and output bias), so that the warm start alone can
    be put beside the trained model.
    """
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}  # the same tensors under a second name

    def half(state: dict) -> dict[str, torch.Tensor]:
        return {name: value.detach().cpu().half().contiguous() for name, value in state.items() if name not in tied}

    network.config.architectures = ["BertForMaskedLM"]
    with cache.atomic_write(out / "config.json") as path:
        network.config.to_json_file(path)
    with cache.atomic_write(out / "model.safetensors") as path:
        save_file(half(network.state_dict()), path, metadata={"format": "pt"})
    if start is not None:
        warm = {name: start[name] for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias")}
        with cache.atomic_write(out / "start.safetensors") as path:
            save_file(half(warm), path, metadata={"format": "pt"})
    vocabulary.save(out)
    with cache.atomic_write(out / "training_log.json") as path:
        path.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    import argparse

    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m scfm.pretrain", description=__doc__)
    parser.add_argument("--corpus", default="mini", help="a table of data/corpora.toml, or your own .toml file's path")
    parser.add_argument("--files", nargs="*", help="instead: dataset names or files")
    parser.add_argument("--out", type=Path, default=None, help="the model's folder (default: runs/pretrain/NAME/model)")
    parser.add_argument("--work", type=Path, default=None, help="checkpoints (default: runs/pretrain/NAME)")
    parser.add_argument("--threads", type=int, default=None)
    for name in ("name", "steps", "max_len", "hidden", "layers", "min_cells", "minibatch", "learning_rate", "seed"):
        value = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default {value}")
    parser.add_argument("--checkpoint-every", type=int, default=250, help="steps between checkpoints (default 250)")
    parser.add_argument("--cold", action="store_true", help="no warm start of the gene embeddings")
    given = parser.parse_args()
    names = given.files
    if not names:
        own = Path(given.corpus)
        path, table = (own, None) if own.suffix == ".toml" else (cache.repo_data() / "corpora.toml", given.corpus)
        content = tomllib.loads(path.read_text())
        names = (content[table] if table else next(iter(content.values())))["train"]
    if given.threads:
        import torch

        torch.set_num_threads(given.threads)
    settings = Settings(
        **{
            key: getattr(given, key)
            for key in (
                "name",
                "steps",
                "max_len",
                "hidden",
                "layers",
                "min_cells",
                "minibatch",
                "learning_rate",
                "seed",
            )
        },
        warm_start=not given.cold,
    )
    work = given.work or Path("runs/pretrain") / settings.name
    out = given.out or work / "model"
    report = pretrain(read_corpus(names), settings, work, out, given.checkpoint_every)
    last, baseline = report["log"][-1], report["frequency_baseline"]
    print(f"Held-out cells: loss {last['loss']:.3f}, accuracy {last['accuracy']:.1%};", end=" ")
    print(f"gene frequencies alone: {baseline['loss_unseen']:.3f}, {baseline['accuracy_unseen']:.1%}.")
    print(f"The model is in {out}.")


if __name__ == "__main__":
    main()
