"""From the corpus to questions for a generating model: some genes of a cell with their bins, others to be answered.

Every draw comes from the generator that is handed in, so the same minibatches come out whenever a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scfm import genes
from scfm.pretraining.corpus import Corpus, make_vocabulary

if TYPE_CHECKING:
    from scfm.pretraining.scgpt_settings import Settings

SHARES_GENERATED = (0.25, 0.5, 0.75)  # upstream's
ZEROS_SHOWN = (0.0, 0.25, 0.5)  # share of zeros among the perceived genes of a minibatch
ZEROS_ASKED = 0.5  # among the genes to be generated; drawn apart, or the genes shown would betray how many are off


class Minibatch(NamedTuple):
    """Equally many genes of each cell: the first ``n_perceived`` are shown with their values, the others are asked for."""

    genes: np.ndarray  # int64 (cell, gene)
    values: np.ndarray  # float32 (cell, gene) bins; 0 = measured, not expressed
    n_perceived: int


def symbol_vocabulary(
    corpus: Corpus, train: np.ndarray, settings: Settings
) -> tuple[genes.SymbolVocabulary, np.ndarray]:
    """A token for the symbol of every gene that enough training cells express; scGPT's special tokens after them.

    Also the token of each column of the corpus, int32 (column,), -1 = none.
    """
    ranks = make_vocabulary(corpus, train, settings.name, settings.min_cells, settings.max_len)
    tokens, column_token = _tokens(corpus, {g: ranks.symbols.get(g, "") for g in ranks.tokens})
    n = len(tokens)
    special = {genes.PAD: n, genes.CLS: n + 1, "<eoc>": n + 2}
    return genes.SymbolVocabulary(settings.name, tokens, special), column_token


def _tokens(
    corpus: Corpus, symbol_of: Mapping[str, str], known: Mapping[str, int] | None = None
) -> tuple[dict[str, int], np.ndarray]:
    """Tokens of symbols (new ones, unless ``known``) and of columns; a second gene of the same symbol has none."""
    tokens: dict[str, int] = {}
    column_token = np.full(len(corpus.ensembl_ids), -1, np.int32)
    for column in sorted(range(len(column_token)), key=corpus.ensembl_ids.__getitem__):
        symbol = symbol_of.get(corpus.ensembl_ids[column], "")
        if symbol and symbol not in tokens and (known is None or symbol in known):
            column_token[column] = tokens[symbol] = len(tokens) if known is None else known[symbol]
    return tokens, column_token


class ValueCells:
    """Cells as genes with bins, and with the zeros that each dataset really measured."""

    def __init__(
        self,
        corpus: Corpus,
        vocabulary: genes.SymbolVocabulary,
        settings: Settings,
        column_token: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ) -> None:
        """``weight`` (gene token,): how often a gene is drawn among the zeros; how often the corpus expresses it, unless given."""
        self.corpus, self.vocabulary, self.settings = corpus, vocabulary, settings
        if column_token is None:
            _, column_token = _tokens(corpus, genes.ensembl_to_symbol(), vocabulary.tokens)
        self.column_token = column_token
        own, n = self.column_token >= 0, len(vocabulary.tokens)
        # which genes a dataset measured: those that any of its cells has
        datasets, self.dataset = np.unique(corpus.dataset, return_inverse=True)
        self.measured = np.zeros((len(datasets), n), bool)
        expressed = np.zeros(n)
        for number in range(len(datasets)):
            counts = corpus.counts[self.dataset == number]
            n_cells = np.bincount(counts.indices, minlength=len(own))  # (column,)
            self.measured[number, self.column_token[own]] = n_cells[own] > 0
            expressed[self.column_token[own]] += n_cells[own]
        self.weight = expressed / expressed.sum() if weight is None else weight
        self.can_be_off = self.measured & (self.weight > 0)  # (dataset, gene token)

    def minibatches(
        self,
        cells: np.ndarray,
        counts: Any,
        rng: np.random.Generator,
        generated: tuple[float, ...] = SHARES_GENERATED,
        zeros_shown: tuple[float, ...] = ZEROS_SHOWN,
    ) -> list[Minibatch]:
        """Minibatches of ``cells`` with ``counts`` (cell, column), those of similar length together, in random order.

        The share of genes to be generated and the share of zeros among those shown are drawn from the given ones for each
        minibatch. Cells that are left over after the last whole minibatch are left out, and so are cells of very few genes. A
        minibatch of cells that express nearly all genes of their panel is shorter: as long as enough of these are off.
        """
        from scfm import tokenize

        size, length = self.settings.minibatch, self.settings.max_len - 1
        offsets, tokens, values = tokenize.bin_rows(
            counts.indptr, counts.indices, counts.data, self.column_token, n_bins=self.settings.n_bins
        )
        order = np.argsort(np.diff(offsets), kind="stable")
        made = []
        for first in range(0, len(order) - size + 1, size):
            group = order[first : first + size]
            asked, off = float(rng.choice(generated)), float(rng.choice(zeros_shown))
            expressed = (1 - asked) * (1 - off) + asked * (1 - ZEROS_ASKED)  # of all genes of the minibatch
            shortest = int(offsets[group[0] + 1] - offsets[group[0]])
            n = min(length, int(shortest / expressed))
            most_off = min(self._n_off(cells[cell], tokens[offsets[cell] : offsets[cell + 1]]) for cell in group)
            while True:
                n_perceived, on_shown, n_on = _division(n, shortest, asked, off)
                if n - n_on <= most_off:
                    break
                n -= 1
            if n < 32:  # too little is known of these cells
                continue
            g, v = np.empty((size, n), np.int64), np.zeros((size, n), np.float32)
            on = np.r_[:on_shown, n_perceived : n_perceived + n_on - on_shown]
            silent = np.setdiff1d(np.arange(n), on)
            for row, cell in enumerate(group):
                own = slice(offsets[cell], offsets[cell + 1])
                chosen = rng.permutation(offsets[cell + 1] - offsets[cell])[:n_on]
                g[row, on], v[row, on] = tokens[own][chosen], values[own][chosen]
                if len(silent):
                    g[row, silent] = rng.permutation(self._zeros(cells[cell], tokens[own], len(silent), rng))
            made.append(Minibatch(g, v, n_perceived))
        rng.shuffle(made)
        return made

    def _n_off(self, cell: int, expressed: np.ndarray) -> int:
        """How many genes :meth:`_zeros` can choose from."""
        known = self.can_be_off[self.dataset[cell]]
        return int(known.sum() - known[expressed].sum())

    def _zeros(self, cell: int, expressed: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """``n`` genes that this cell's dataset measured and the cell does not express; often expressed ones more often.

        A gene that no cell ever expresses teaches nothing when it is off once more.

        Raises
        ------
        ValueError
            There are not so many.
        """
        weight = np.where(self.can_be_off[self.dataset[cell]], self.weight, 0)
        weight[expressed] = 0
        if n > (there := np.count_nonzero(weight)):
            raise ValueError(
                f"{n:,} genes that are off were asked of a cell whose dataset measured {there:,} more genes only."
            )
        with np.errstate(divide="ignore"):
            race = rng.standard_exponential(len(weight)) / weight  # the n first are a draw without replacement
        return np.argpartition(race, n)[:n]


def _division(n: int, shortest: int, asked: float, off: float) -> tuple[int, int, int]:
    """Of ``n`` genes: how many are shown, how many of these are on, how many are on in all (``shortest`` at most)."""
    n_perceived = n - round(n * asked)
    off_shown, off_asked = round(n_perceived * off), round((n - n_perceived) * ZEROS_ASKED)
    n_on = n - off_shown - off_asked
    if n_on > shortest:
        off_shown, n_on = off_shown + n_on - shortest, shortest  # what rounding may have added
    return n_perceived, n_perceived - off_shown, n_on
