"""Who guesses a hidden gene? A network, and simple guessers beside it, on the same hidden genes of the same cells.

The simple ones know little each: how frequent a gene is; which genes similar cells have; what the place of the gap in the sentence
gives away, from one side or from both. Lesson 01 builds the ideas by hand; here are their twins, and the contest.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scfm.stats import TooFewCells
from scfm.tokenized import TokenizedCells
from studies import comparisons

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from scfm.genes import RankVocabulary
    from scfm.models.geneformer import Geneformer

RULES = ("nothing", "no gene twice", "no gene twice, and the panel")  # what every guesser is told
ROLES = {  # which colour; in the order of the figures
    "random twin": "twin",
    "gene frequency": "baseline",
    "warm start": "twin",
    "pretrained": "model",
    "pretrained, words shuffled": "control",
    "place in line": "baseline",
    "place, both sides": "baseline",
    "similar cells": "baseline",
    "similar cells + place": "baseline",
    "similar cells + both sides": "baseline",
    "the same, tuned": "baseline",
}
MOST_ASKED = 600  # hidden genes to tune on
FEWEST_LEFT = 40  # cells that no draw tests, to learn from
SIMPLE = tuple(name for name, role in ROLES.items() if role == "baseline")


# --- what a guess is worth --------------------------------------------------------------------------


def score(log_p: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Mean loss in nats, and how often the right gene is the first guess or among the first ten.

    log_p: (masked, token). truth: (masked,) token ids.
    """
    of_truth = log_p.gather(1, truth[:, None])[:, 0]
    better = (log_p > of_truth[:, None]).sum(dim=1)  # (masked,) how many tokens the guesser found likelier
    return {
        "loss": -of_truth.mean().item(),
        "top 1": (better < 1).float().mean().item(),
        "top 10": (better < 10).float().mean().item(),
    }


def told(log_p: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """The same guesses (masked, token), knowing which genes are possible at all: the rest is set to zero, the sum back to one."""
    return log_p.masked_fill(~allowed, -np.inf).log_softmax(dim=1)


# --- guessers ---------------------------------------------------------------------------------------


def by_network(network: Any, mask: int, part: TokenizedCells, hidden: np.ndarray) -> torch.Tensor:
    """What a Geneformer says at the hidden places: log probabilities (masked, token). ``mask``: the token id of <mask>."""
    import torch

    padded = (torch.from_numpy(np.asarray(a)).long() for a in part.padded(np.arange(len(part))))
    ids, present = (a.to(network.device) for a in padded)  # (cell, token)
    covered = torch.zeros_like(ids, dtype=torch.bool)
    covered[present.bool()] = torch.from_numpy(hidden).to(network.device)  # the real tokens, row by row
    with torch.inference_mode():
        x = network.bert(ids.masked_fill(covered, mask), attention_mask=present).last_hidden_state  # (cell, token, d)
        return network.cls(x[covered]).log_softmax(dim=1).cpu()


def similar_cells(visible: np.ndarray, others: np.ndarray, k: int = 25, mix: float = 0.8) -> np.ndarray:
    """Guess the genes that the k most similar cells have: probabilities (cell, token), not normalized.

    visible: (cell, token) 1 where a gene can be seen. others: (other cell, token). Similar: cosine, a rare gene in common weighs more.
    mix: the weight of the k beside that of all other cells.
    """
    share = others.mean(axis=0) + 1 / len(others)
    weight = -np.log(np.minimum(share, 1)) * (others.sum(axis=0) > 0)
    norm = np.sqrt((others * weight**2).sum(axis=1)) + 1e-9
    alike = (visible * weight) @ (others * weight).T / norm  # (cell, other cell); up to the cell's own length
    nearest = np.argsort(-alike, axis=1)[:, :k]
    return mix * others[nearest].mean(axis=1) + (1 - mix) * share  # nothing gets probability zero


class _Distances:
    """Distances of keys from a bound, in bins of equal width; the first and the last take all beyond."""

    LOW, HIGH, WIDE = -4.0, 2.0, 0.02

    @property
    def n_bins(self) -> int:
        return int((self.HIGH - self.LOW) / self.WIDE) + 2

    def _bins(self, distance: np.ndarray) -> np.ndarray:
        return ((np.clip(distance, self.LOW, self.HIGH) - self.LOW) / self.WIDE).astype(int)


class PlaceInLine(_Distances):
    """Guess a hidden gene by its place: the genes to its right have smaller values, so its own lies above the largest of them.

    A gene's key is the value it has when it was counted once, minus the log of its median. How far values lie above that floor is
    learned from other cells, as a histogram.
    """

    def __init__(self, vocabulary: RankVocabulary, special: Sequence[int], cells: TokenizedCells) -> None:
        self.special = list(special)
        self.keys = np.full(len(vocabulary), -np.inf)  # (token,)
        tokens = list(vocabulary.tokens.values())
        self.keys[tokens] = [-np.log(vocabulary.medians[gene]) for gene in vocabulary.tokens]
        self.above = np.zeros((len(cells), self.n_bins))  # (cell, bin) counts of genes
        for i in range(len(cells)):
            genes = self.is_gene(cells[i])
            above = self.keys[cells[i]] - self.floors(cells[i], genes)
            np.add.at(self.above[i], self._bins(above[genes]), 1)

    def is_gene(self, sentence: np.ndarray) -> np.ndarray:
        """Which tokens of a sentence are genes: bool (token,)."""
        return ~np.isin(sentence, self.special)

    def floors(self, sentence: np.ndarray, visible: np.ndarray) -> np.ndarray:
        """For each place of a sentence (token,): the largest key among the visible genes to its right."""
        largest = np.maximum.accumulate(np.where(visible, self.keys[sentence], -np.inf)[::-1])[::-1]
        return np.append(largest[1:], -np.inf).clip(self.keys[self.keys > -np.inf].min())

    def fit(self, part: TokenizedCells, hidden: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """How well each gene fits into each gap: log of a count (masked, token), learned from the cells that are not ``chosen``."""
        floors = [
            self.floors(part[i], ~hidden[part.offsets[i] : part.offsets[i + 1]] & self.is_gene(part[i]))
            for i in range(len(part))
        ]
        usual = np.log(np.delete(self.above, chosen, axis=0).sum(axis=0) + 0.5)  # (bin,)
        return usual[self._bins(self.keys - np.concatenate(floors)[hidden][:, None])]


class BothSides(_Distances):
    """Guess a hidden gene by both neighbours of its gap: :class:`PlaceInLine` with a ceiling, and with Bayes' denominator.

    The sentence is sorted, so the gap is bounded from the left as well. A visible gene whose key is larger than all visible keys to its
    right was counted once (nearly always), so its value *is* its key: a ceiling for everything behind it. How far true genes lie from
    floor and ceiling is counted in other cells, by the width of the window, and divided by how far all genes that could stand there lie,
    frequent ones counting more: else a distance that is merely common would pass for a telling one.
    """

    WIDTHS = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
    WIDE = 0.04  # coarser: two bounds and eight widths share the counts
    PSEUDO = 0.3  # added to each count

    def __init__(
        self, place: PlaceInLine, cells: TokenizedCells, frequency: np.ndarray, hidden_share: float, seed: int
    ) -> None:
        """Learn from ``cells`` with ``hidden_share`` of their genes hidden. frequency: (token,), zero where no gene of the file is."""
        self.place, self.keys, self.frequency = place, place.keys, frequency
        shape = (2, len(self.WIDTHS) + 1, self.n_bins)  # (floor and ceiling, width, distance)
        true, usual = np.zeros(shape), np.zeros(shape)
        rng = np.random.default_rng(seed)
        tokens = np.flatnonzero(frequency > 0)
        for i in range(len(cells)):
            sentence = cells[i]
            hidden = place.is_gene(sentence) & (rng.random(len(sentence)) < hidden_share)
            if not hidden.any():
                continue
            bounds = self.window(sentence, ~hidden)
            prior = frequency.copy()
            prior[sentence[~hidden]] = 0
            prior = prior[tokens] / prior[tokens].sum()
            for at in np.flatnonzero(hidden):
                width = self._width(*bounds[:, at])
                for side, bound in enumerate(bounds[:, at]):
                    true[side, width, self._bins(self.keys[sentence[at]] - bound)] += 1
                    usual[side, width] += np.bincount(self._bins(self.keys[tokens] - bound), prior, self.n_bins)
        self.fits = np.log((true + self.PSEUDO) / (usual + self.PSEUDO))

    def _width(self, floor: Any, ceiling: Any) -> Any:
        return np.searchsorted(self.WIDTHS, np.asarray(ceiling) - floor, side="right")

    def window(self, sentence: np.ndarray, visible: np.ndarray) -> np.ndarray:
        """Floor and ceiling of each place of a sentence: (2, token). Special tokens are never visible."""
        visible = visible & self.place.is_gene(sentence)
        floors = self.place.floors(sentence, visible)
        known = np.where(visible, self.keys[sentence], -np.inf)
        largest = np.maximum.accumulate(known[::-1])[::-1]  # from each place on
        once = np.where(visible & (known >= largest), known, np.inf)
        ceilings = np.append(np.inf, np.minimum.accumulate(once)[:-1]).clip(max=self.keys.max() + 3.0)
        return np.stack([floors, np.maximum(ceilings, floors)])

    def fit(self, part: TokenizedCells, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How well each gene fits above the floor and below the ceiling of each gap: log ratios, two of (masked, token)."""
        windows = [self.window(part[i], ~hidden[part.offsets[i] : part.offsets[i + 1]]) for i in range(len(part))]
        bounds = np.concatenate(windows, axis=1)[:, hidden]  # (2, masked)
        width = self._width(*bounds)
        keys = np.where(np.isfinite(self.keys), self.keys, 0.0)
        floor, ceiling = (self.fits[side][width[:, None], self._bins(keys - bounds[side][:, None])] for side in (0, 1))
        return floor, ceiling


def tuned_weights(parts: Sequence[np.ndarray], allowed: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, float]:
    """How much to trust each guesser: the weights of their log probabilities (masked, token) that lose least on these questions.

    Convex, so there is one answer. Returns (part,) weights and the loss in nats.
    """
    import torch

    stacked = torch.from_numpy(np.stack(parts)).float()  # (part, masked, token)
    impossible = torch.from_numpy(~allowed)
    right = torch.from_numpy(truth).long()
    weights = torch.ones(len(parts), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=40, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        mixed = torch.einsum("p,pmt->mt", weights, stacked).masked_fill(impossible, -np.inf)
        value = torch.nn.functional.cross_entropy(mixed, right)
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach().numpy(), loss().item()


def shuffle_words(
    part: TokenizedCells, hidden: np.ndarray, special: Sequence[int], rng: np.random.Generator
) -> tuple[TokenizedCells, np.ndarray, np.ndarray]:
    """The same cells with their genes in random order; which places are hidden now, and how to sort the answers back."""
    moved = np.arange(len(part.tokens))
    for a, b in zip(part.offsets[:-1], part.offsets[1:], strict=True):
        genes = a + np.flatnonzero(~np.isin(part.tokens[a:b], list(special)))
        moved[genes] = rng.permutation(genes)
    return TokenizedCells(part.tokens[moved], part.offsets), hidden[moved], np.argsort(moved[hidden[moved]])


# --- the contest ------------------------------------------------------------------------------------


@dataclass
class Question:
    """Hidden genes of some cells: which (token,), what they are (masked,), the cell of each, and what can still be seen (cell, token)."""

    part: TokenizedCells
    hidden: np.ndarray
    truth: torch.Tensor
    of_cell: np.ndarray
    visible: np.ndarray


def presence(cells: TokenizedCells, n_tokens: int, special: Sequence[int]) -> np.ndarray:
    """Which genes stand in which sentence: float32 (cell, token), 0 or 1; special tokens are no genes."""
    present = np.zeros((len(cells), n_tokens), dtype=np.float32)
    present[np.repeat(np.arange(len(cells)), cells.lengths), cells.tokens] = 1
    present[:, list(special)] = 0
    return present


def hide(part: TokenizedCells, present: np.ndarray, special: dict[str, int], share: float, seed: int) -> Question:
    """Hide ``share`` of the genes of these cells; ``present`` (cell, token) are all their genes."""
    import torch

    from scfm.objectives import choose_masked

    hidden = choose_masked(part, special, share, seed)
    of_cell = np.repeat(np.arange(len(part)), part.lengths)[hidden]
    visible = present.copy()
    visible[of_cell, part.tokens[hidden]] = 0
    return Question(part, hidden, torch.from_numpy(part.tokens[hidden]).long(), of_cell, visible)


def contest(
    model: Geneformer,
    networks: Mapping[str, Any],
    cells: TokenizedCells,
    on_panel: np.ndarray,
    n_draws: int = 20,
    cells_per_draw: int = 12,
    hidden_share: float = 0.15,
    seed: int = 0,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """All guessers on the same hidden genes, told more and more of the rules; no cell is in two draws.

    What :class:`BothSides` counts and what "the same, tuned" chooses comes from the cells that no draw tests.

    Parameters
    ----------
    model
        Whose vocabulary it is, and whose network sees the shuffled words.
    networks
        name → network of the same shape (the model's own, its twins).
    on_panel
        (token,) True for the genes that the file holds at all.

    Returns
    -------
    A long table with columns guesser, told (one of :data:`RULES`), seed (the draw), metric (loss, top 1, top 10) and value, its
    ``attrs["hidden"]`` the number of genes hidden in the last draw, ``attrs["tuned"]`` what was chosen; and the seconds that each guesser
    took over all draws.

    Raises
    ------
    TooFewCells
        The draws leave fewer than :data:`FEWEST_LEFT` cells.
    """
    import pandas as pd
    import torch

    special = list(set(model.special.values()))
    mask = model.special["<mask>"]
    present = presence(cells, len(model.vocabulary), special)
    place = PlaceInLine(model.vocabulary, special, cells)
    order = np.random.default_rng(seed).permutation(len(cells))
    left = order[n_draws * cells_per_draw :]
    if len(left) < FEWEST_LEFT:
        raise TooFewCells(
            f"{n_draws} draws of {cells_per_draw} cells leave {len(left)} of {len(cells):,} to learn from; {FEWEST_LEFT} are needed. "
            "Take fewer draws or smaller ones."
        )
    frequency = _frequencies(model, present[left])  # (token,) log
    tune, learn = np.split(left, [min(60, len(left) // 4)])
    possible = np.exp(frequency.numpy()) * on_panel
    both = BothSides(place, cells[learn], possible, hidden_share, seed)
    asked = hide(cells[tune], present[tune], model.special, hidden_share, n_draws)
    chosen_way = _tuned(both, asked, present[learn], frequency.numpy(), _allowed(asked, special, on_panel)[RULES[2]])
    rows: list[tuple] = []
    for network in networks.values():  # the first pass of a network takes longer than all others: not counted
        by_network(network, mask, asked.part, asked.hidden)
    seconds = dict.fromkeys([*networks, "similar cells", "place in line", "both sides"], 0.0)

    for draw in range(n_draws):
        chosen = order[draw * cells_per_draw : (draw + 1) * cells_per_draw]
        others = np.delete(present, chosen, axis=0)
        q = hide(cells[chosen], present[chosen], model.special, hidden_share, draw)
        guesses = {}
        for name, network in networks.items():
            with _timed(seconds, name):
                guesses[name] = by_network(network, mask, q.part, q.hidden)
        mixed, there, back = shuffle_words(q.part, q.hidden, special, np.random.default_rng([seed, draw]))
        guesses["pretrained, words shuffled"] = by_network(model.network, mask, mixed, there)[back]
        guesses["gene frequency"] = frequency.expand(len(q.truth), -1)
        with _timed(seconds, "similar cells"):
            alike = np.log(similar_cells(q.visible, others)[q.of_cell])
            neighbours = torch.from_numpy(alike).float()  # (masked, token)
        with _timed(seconds, "place in line"):
            fits = torch.from_numpy(place.fit(q.part, q.hidden, chosen)).float()
            # Bayes: how frequent is the gene, times how well does it fit here?
            guesses["place in line"] = (guesses["gene frequency"] + fits).log_softmax(dim=1)
        with _timed(seconds, "both sides"):
            floor, ceiling = (torch.from_numpy(found).float() for found in both.fit(q.part, q.hidden))
            guesses["place, both sides"] = (guesses["gene frequency"] + floor + ceiling).log_softmax(dim=1)
        best = torch.from_numpy(
            np.log(similar_cells(q.visible, others, chosen_way.k, chosen_way.mix)[q.of_cell])
        ).float()
        parts = torch.stack([best, floor, ceiling, guesses["gene frequency"]])
        with_rules = {
            "similar cells": neighbours,
            "similar cells + place": neighbours + fits,
            "similar cells + both sides": neighbours + floor + ceiling,
            "the same, tuned": torch.einsum("p,pmt->mt", torch.tensor(chosen_way.weights), parts),
        }
        allowed = _allowed(q, special, on_panel)
        for name, log_p in guesses.items():
            rows += _scored(name, RULES, log_p, q.truth, allowed, draw)
        for name, log_p in with_rules.items():
            rows += _scored(name, RULES[2:], log_p, q.truth, allowed, draw)
    table = pd.DataFrame(rows, columns=["guesser", "told", "seed", "metric", "value"])
    table.attrs |= {"hidden": len(q.truth), "tuned": chosen_way._asdict()}
    return table, seconds


class Way(NamedTuple):
    """How "the same, tuned" mixes its parts: weights of similar cells, floor, ceiling and frequency; k neighbours and their share."""

    weights: tuple[float, ...]
    k: int
    mix: float


def _tuned(both: BothSides, q: Question, others: np.ndarray, frequency: np.ndarray, allowed: torch.Tensor) -> Way:
    on_panel = np.flatnonzero(allowed.numpy().any(axis=0))
    few = slice(MOST_ASKED)
    floor, ceiling = (found[few, on_panel] for found in both.fit(q.part, q.hidden))
    everywhere = np.broadcast_to(frequency[on_panel], floor.shape)
    truth = np.searchsorted(on_panel, q.truth.numpy()[few])
    found = []
    for k, mix in itertools.product((25, 50), (0.8, 0.95)):
        alike = np.log(similar_cells(q.visible, others, k, mix)[q.of_cell][few, on_panel] + 1e-12)
        weights, loss = tuned_weights((alike, floor, ceiling, everywhere), allowed.numpy()[few, on_panel], truth)
        found.append((loss, Way(tuple(float(w) for w in weights), k, mix)))
    return min(found)[1]


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - begin


def _frequencies(model: Geneformer, others: np.ndarray) -> torch.Tensor:
    """Log of how frequent each gene is (token,): in the corpus, or where the vocabulary does not say, in the other cells."""
    import torch

    known = bool(model.vocabulary.frequencies)
    counts = model.vocabulary.frequency_of_tokens() if known else others.sum(axis=0) + 1
    return torch.from_numpy(np.log(counts / counts.sum() + 1e-12)).float()


def _allowed(q: Question, special: Sequence[int], on_panel: np.ndarray) -> dict[str, torch.Tensor]:
    """Rule → which genes it leaves possible at each hidden place, bool (masked, token)."""
    import torch

    genes = torch.ones(len(on_panel), dtype=torch.bool)
    genes[list(special)] = False
    unseen = genes & torch.from_numpy(q.visible[q.of_cell] == 0)
    return {RULES[1]: unseen, RULES[2]: unseen & torch.from_numpy(on_panel)}


def _scored(
    name: str, rules: Sequence[str], log_p: torch.Tensor, truth: torch.Tensor, allowed: dict[str, torch.Tensor], draw: int
) -> list[tuple]:  # fmt: skip
    rows: list[tuple] = []
    for rule in rules:
        found = score(told(log_p, allowed[rule]) if rule in allowed else log_p, truth)
        rows += [(name, rule, draw, metric, value) for metric, value in found.items()]
    return rows


def verdicts(results: pd.DataFrame, ours: str = "pretrained", metric: str = "loss") -> pd.DataFrame:
    """``ours`` against every simpler guesser, draw by draw, under each rule that both know.

    Columns told, rival, mean, low, high (of ours minus theirs) and verdict.
    """
    table = results.rename(columns={"guesser": "method"})
    pairs = [(ours, rival) for rival in ROLES if not rival.startswith(ours)]
    found = comparisons.gaps(table, pairs, of=(metric,), by=("told",), lower_is_better=("loss",))
    return found.drop(columns=["metric", "ours"])
