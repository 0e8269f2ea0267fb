"""Genes by name: symbols and Ensembl ids, the vocabularies of the models, and how much of a dataset they cover.

A model knows a gene only by its token id. Two kinds of vocabulary lead there: Geneformer's goes from Ensembl ids and
carries each gene's nonzero median (:class:`RankVocabulary`); scGPT's goes from gene symbols (:class:`SymbolVocabulary`).
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from scfm.store import cache

if TYPE_CHECKING:
    import anndata
    import pandas as pd

PAD, MASK, CLS, EOS = "<pad>", "<mask>", "<cls>", "<eos>"
LOWEST_OVERLAP = 0.20


class VocabularyError(ValueError):
    """A dataset and a vocabulary do not fit each other, or a vocabulary file is not what it should be."""


# --- pickles from outside -------------------------------------------------------------------------


class _OnlyNumbers(pickle.Unpickler):
    """Numbers, strings, lists and dicts need no imports; numpy scalars need these three. Everything else is refused."""

    ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "scalar"),
            ("numpy", "dtype"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise VocabularyError(
                f"This pickle asks to import {module}.{name}. A gene dictionary holds only text and numbers, so it was "
                "refused and nothing in it was run. Get the file again from its official source."
            )
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def restricted_load(path: str | Path) -> dict:
    """Read a pickled dictionary of text and numbers, running no code that the file may contain.

    Raises
    ------
    VocabularyError
        If the pickle asks for anything but numpy scalars, is damaged, or does not hold a dictionary.
    """
    path = Path(path)
    try:
        content = _OnlyNumbers(io.BytesIO(path.read_bytes())).load()
    except VocabularyError as error:
        raise VocabularyError(f"{path.name}: {error}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise VocabularyError(
            f"{path.name} is not a readable pickle ({error}); it may be cut off. Fetch it again."
        ) from error
    if not isinstance(content, dict):
        raise VocabularyError(f"{path.name} holds a {type(content).__name__}; a gene dictionary was expected.")
    return content


# --- symbols and Ensembl ids ----------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def gene_table() -> pd.DataFrame:
    """The bundled table of human genes: one row per pair of ``ensembl_id`` and ``gene_symbol``, best pair first."""
    import pandas as pd

    return pd.read_csv(cache.repo_data() / "genes.tsv.gz", sep="\t", comment="#", dtype=str, keep_default_na=False)


@functools.lru_cache(maxsize=1)
def symbol_to_ensembl() -> dict[str, str]:
    """Gene symbol → Ensembl id (human). A symbol that stands for several genes gives the one most datasets mean."""
    table = gene_table().drop_duplicates("gene_symbol")
    return dict(zip(table["gene_symbol"], table["ensembl_id"], strict=True))


@functools.lru_cache(maxsize=1)
def ensembl_to_symbol() -> dict[str, str]:
    """Ensembl id (human) → gene symbol."""
    table = gene_table().drop_duplicates("ensembl_id")
    return dict(zip(table["ensembl_id"], table["gene_symbol"], strict=True))


@functools.lru_cache(maxsize=1)
def symbols_of_ensembl() -> dict[str, list[str]]:
    """Ensembl id (human) → all symbols that the gene has or had, the usual one first."""
    symbols: dict[str, list[str]] = {}
    for gene, symbol in zip(*(gene_table()[column] for column in ("ensembl_id", "gene_symbol")), strict=True):
        symbols.setdefault(gene, []).append(symbol)
    return symbols


def present_id(ensembl_id: str) -> str:
    """The id that the gene goes by in most data sets: releases gave some genes a new one (CCL5, SOD2) under the same symbol."""
    return symbol_to_ensembl().get(ensembl_to_symbol().get(ensembl_id, ""), ensembl_id)


# --- Geneformer's kind: Ensembl id → token and median ---------------------------------------------

# where the published dictionaries lie: in the hub's layout, or in a folder of SCFM_CACHE under their older file names
_PUBLISHED: dict[str, dict[str, tuple[str, ...]]] = {
    "V1": {
        "tokens": (
            "geneformer/gene_dictionaries_30m/token_dictionary_gc30M.pkl",
            "dictionaries/geneformer/v1_30M/token_dictionary.pkl",
        ),
        "medians": (
            "geneformer/gene_dictionaries_30m/gene_median_dictionary_gc30M.pkl",
            "dictionaries/geneformer/v1_30M/gene_median_dictionary.pkl",
        ),
        "mapping": (
            "geneformer/gene_dictionaries_30m/ensembl_mapping_dict_gc30M.pkl",
            "dictionaries/geneformer/v1_30M/ensembl_mapping_dict_gc30M.pkl",
        ),
        "symbols": (
            "geneformer/gene_dictionaries_30m/gene_name_id_dict_gc30M.pkl",
            "dictionaries/geneformer/v1_30M/gene_name_id_dict.pkl",
        ),
    },
    "V2": {
        part: (f"geneformer/{stem}_gc104M.pkl", f"dictionaries/geneformer/v2_104M/{stem}_gc104M.pkl")
        for part, stem in {
            "tokens": "token_dictionary",
            "medians": "gene_median_dictionary",
            "mapping": "ensembl_mapping_dict",
            "symbols": "gene_name_id_dict",
        }.items()
    },
}
_MAX_LENGTH = {"V1": 2048, "V2": 4096}
ALTERNATIVES = "alternative_names.tsv.gz"
_SCGPT = "dictionaries/scgpt/default_census_vocab.json"


class Vocabulary:
    """What all vocabularies have: gene → token id, special token → token id, and the column of ``var`` that they go by."""

    column: ClassVar[str]
    goes_by: ClassVar[str]  # the same in words

    if TYPE_CHECKING:  # fields of the dataclasses below

        @property
        def name(self) -> str:
            """What messages and cards call it."""

        @property
        def tokens(self) -> Mapping[str, int]:
            """Gene → token id."""

        @property
        def special(self) -> Mapping[str, int]:
            """Special token → token id."""

    def __len__(self) -> int:
        return len(self.tokens) + len(self.special)

    @functools.cached_property
    def _gene_of(self) -> dict[int, str]:
        return {token: gene for gene, token in [*self.tokens.items(), *self.special.items()]}

    def gene(self, token_id: int) -> str:
        """The gene (or special token) of a token id, under the name that the vocabulary goes by."""
        return self._gene_of[int(token_id)]

    def token(self, gene: str) -> int:
        """Token id of a gene or a special token; VocabularyError if there is none."""
        raise NotImplementedError

    def other_name(self, gene: str) -> str:
        """The gene's name of the kind that this vocabulary goes by, from the course's own table; "" if it has none."""
        raise NotImplementedError

    def find(self, gene: str) -> int | None:
        """Token id of a gene by Ensembl id or symbol; None if the vocabulary lacks it. Special tokens are no genes."""
        try:
            token = self.token(gene)
        except VocabularyError:
            return self.tokens.get(self.other_name(gene))
        return None if gene in self.special else token

    def tokens_of(self, names: Iterable[str]) -> np.ndarray:
        """Token id of each name of the kind that this vocabulary goes by (int32; -1: not in the vocabulary)."""
        raise NotImplementedError

    def column_tokens(self, var: pd.DataFrame) -> np.ndarray:
        """Token of each gene of a dataset, by the column that the vocabulary goes by: int32 (gene,), -1 = none."""
        return self.tokens_of(var[self.column])


@dataclass(frozen=True)
class RankVocabulary(Vocabulary):
    """What a Geneformer-like model needs to know about genes.

    ``tokens``: Ensembl id → token id. ``medians``: Ensembl id → median of its nonzero counts per 10,000 over the pretraining
    corpus. ``mapping``: retired or alternative Ensembl ids (upper case) → current ones. ``max_len``: most tokens in a cell.
    ``frequencies``, known for our own models only: each gene's share of all gene tokens of the corpus, what a guesser knows
    that has looked at no cell.
    """

    column: ClassVar[str] = "ensembl_id"
    goes_by: ClassVar[str] = "Ensembl ids"

    name: str
    tokens: Mapping[str, int]
    medians: Mapping[str, float]
    mapping: Mapping[str, str] = field(repr=False)
    symbols: Mapping[str, str] = field(repr=False)
    special: Mapping[str, int]
    max_len: int
    frequencies: Mapping[str, float] | None = field(default=None, repr=False)

    @classmethod
    def published(cls, version: str) -> RankVocabulary:
        """The dictionaries of Geneformer ``"V1"`` (30M cells) or ``"V2"`` (104M cells), from the cache or the hub."""
        if version not in _PUBLISHED:
            raise VocabularyError(f"There is no Geneformer vocabulary {version!r}; there are {', '.join(_PUBLISHED)}.")
        return _published(version)

    @classmethod
    def load(cls, folder: str | Path) -> RankVocabulary:
        """Read the vocabulary that :meth:`save` wrote into a model's folder."""
        import pandas as pd

        path = Path(folder) / "vocabulary.tsv.gz"
        if not path.exists():
            raise VocabularyError(f"{folder} has no vocabulary.tsv.gz, so its token ids cannot be matched to genes.")
        settings = json.loads((Path(folder) / "rank_tokenizer.json").read_text(encoding="utf-8"))
        table = pd.read_csv(
            path,
            sep="\t",
            dtype={"ensembl_id": str, "gene_symbol": str},
            keep_default_na=False,
            # pandas' own way of reading numbers is off in the last bit at times; older folders are still read so, since it decides
            # ties and all that was measured with them was
            float_precision="round_trip" if settings.get("exact_medians") else None,
        )
        special = table[table["ensembl_id"].str.startswith("<")]
        genes = table.drop(special.index)
        ids = genes["ensembl_id"].tolist()
        others = Path(folder) / ALTERNATIVES
        known: dict[str, str] = {}
        if others.exists():  # a vocabulary without other names has no such file, and older folders have none either
            pairs = pd.read_csv(others, sep="\t", dtype=str, keep_default_na=False)
            known = dict(zip(pairs["name"], pairs["ensembl_id"], strict=True))
        return cls(
            name=settings["name"],
            tokens=dict(zip(ids, genes["token_id"].tolist(), strict=True)),
            medians=dict(zip(ids, genes["median"].astype(float).tolist(), strict=True)),
            mapping={gene: gene for gene in ids} | known,
            symbols=dict(zip(ids, genes["gene_symbol"].tolist(), strict=True)),
            special=dict(zip(special["ensembl_id"], special["token_id"].tolist(), strict=True)),
            max_len=settings["max_len"],
            frequencies=dict(zip(ids, genes["frequency"].tolist(), strict=True)) if "frequency" in genes else None,
        )

    def save(self, folder: str | Path) -> None:
        """Write ``vocabulary.tsv.gz`` (token id, Ensembl id, symbol, median) and ``rank_tokenizer.json`` into ``folder``.

        And ``alternative_names.tsv.gz`` where genes have other names.
        """
        import pandas as pd

        genes = sorted(self.tokens, key=self.tokens.__getitem__)
        table = pd.DataFrame(
            {
                "token_id": [*self.special.values(), *(self.tokens[gene] for gene in genes)],
                "ensembl_id": [*self.special, *genes],
                "gene_symbol": [*self.special, *(self.symbols.get(gene, "") for gene in genes)],
                "median": [1.0] * len(self.special) + [self.medians[gene] for gene in genes],
            }
        )
        if self.frequencies is not None:
            table["frequency"] = [0.0] * len(self.special) + [self.frequencies[gene] for gene in genes]
        with cache.atomic_write(Path(folder) / "vocabulary.tsv.gz") as path:
            _write_tsv(table, path)
        (Path(folder) / ALTERNATIVES).unlink(missing_ok=True)  # another vocabulary's
        if self.alternatives:
            pairs = pd.DataFrame(sorted(self.alternatives.items()), columns=["name", "ensembl_id"])
            with cache.atomic_write(Path(folder) / ALTERNATIVES) as path:
                _write_tsv(pairs, path)
        with cache.atomic_write(Path(folder) / "rank_tokenizer.json") as path:
            settings = {"name": self.name, "max_len": self.max_len, "exact_medians": True}
            path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    @property
    def starts_with_cls(self) -> bool:
        """Whether a cell's tokens are framed by ``<cls>`` and ``<eos>`` (V2 and our mini) or bare (V1)."""
        return CLS in self.special

    @functools.cached_property
    def alternatives(self) -> dict[str, str]:
        """``mapping`` as far as it matters: other names of genes that have a token, retired Ensembl ids among them."""
        return {name: gene for name, gene in self.mapping.items() if name != gene and gene in self.tokens}

    def frequency_of_tokens(self) -> np.ndarray:
        """``frequencies`` by token id: (len(self),) float64, zero for special tokens, summing to one."""
        if self.frequencies is None:
            raise VocabularyError(f"The vocabulary {self.name} does not say how frequent its genes were in the corpus.")
        share = np.zeros(len(self))
        for gene, token in self.tokens.items():
            share[token] = self.frequencies[gene]
        return share / share.sum()

    def other_name(self, gene: str) -> str:
        """The Ensembl id of a symbol, by the course's own table."""
        return symbol_to_ensembl().get(gene, "")

    def tokens_of(self, names: Iterable[str]) -> np.ndarray:
        """Token id of each Ensembl id (int32; -1: not in the vocabulary)."""
        return self.columns(names)[0]

    def symbol(self, token_id: int) -> str:
        """Gene symbol of a token id; the Ensembl id where no symbol is known."""
        gene = self.gene(token_id)
        return self.symbols.get(gene) or gene

    @functools.cached_property
    def _token_of_symbol(self) -> dict[str, int]:
        # two Ensembl ids can share a symbol; the lower token id answers for both
        pairs = sorted(((token, self.symbols.get(gene, "")) for gene, token in self.tokens.items()), reverse=True)
        return {symbol: token for token, symbol in pairs if symbol}

    def token(self, gene: str) -> int:
        """Token id of a gene given as Ensembl id or symbol, or of a special token such as ``<mask>``."""
        if gene in self.special:
            return self.special[gene]
        current = self.mapping.get(gene.upper()) or self.mapping.get(_bare(gene), gene)
        token = self.tokens.get(current, self._token_of_symbol.get(gene))
        if token is None:
            raise VocabularyError(f"{gene!r} is not in the vocabulary {self.name}.")
        return token

    def columns(self, ensembl_ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """For each column of a dataset its token id (int32; -1: not in the vocabulary) and its median (float64).

        Columns that map to the same gene get the same token: their counts are to be summed.
        """
        tokens: list[int] = []
        medians: list[float] = []
        for gene in ensembl_ids:
            current = self.mapping.get(str(gene).upper()) or self.mapping.get(_bare(str(gene)))
            known = current is not None and current in self.tokens and current in self.medians
            tokens.append(self.tokens[current] if known else -1)  # type: ignore[index]
            medians.append(self.medians[current] if known else 1.0)  # type: ignore[index]
        return np.asarray(tokens, dtype=np.int32), np.asarray(medians, dtype=np.float64)


def _bare(gene: str) -> str:
    """An Ensembl id in upper case and without its version: ENSG00000141510 for ENSG00000141510.17."""
    return re.sub(r"^(ENSG\d{11})(\.\d+)?(_PAR_Y)?$", r"\1", gene.upper())


def _write_tsv(table: pd.DataFrame, path: Path) -> None:
    """The same table gives the same bytes, so its hash can be published: gzip's header holds no time and no file name."""
    path.write_bytes(gzip.compress(table.to_csv(sep="\t", index=False).encode(), mtime=0))


@functools.lru_cache(maxsize=2)
def _published(version: str) -> RankVocabulary:
    content = {}
    for part, names in _PUBLISHED[version].items():
        path = cache.find(*names)
        if path is None:
            from scfm.store import hub  # the only step that may need a network

            path = hub.fetch_dictionary(names[0])
        content[part] = restricted_load(path)
    specials = {token: int(number) for token, number in content["tokens"].items() if token.startswith("<")}
    symbols: dict[str, str] = {}
    for symbol, gene in content["symbols"].items():
        symbols.setdefault(gene, symbol)
    return RankVocabulary(
        name=f"geneformer-{version.lower()}",
        tokens={gene: int(number) for gene, number in content["tokens"].items() if gene not in specials},
        medians={gene: float(median) for gene, median in content["medians"].items()},
        mapping=content["mapping"],
        symbols=symbols,
        special=specials,
        max_len=_MAX_LENGTH[version],
    )


# --- scGPT's kind: symbol → token -----------------------------------------------------------------


@dataclass(frozen=True)
class SymbolVocabulary(Vocabulary):
    """scGPT's vocabulary: gene symbol → token id, with ``<pad>``, ``<cls>`` and ``<eoc>`` after the genes."""

    column: ClassVar[str] = "gene_symbol"
    goes_by: ClassVar[str] = "gene symbols"

    name: str
    tokens: Mapping[str, int]
    special: Mapping[str, int]

    @classmethod
    def load(cls, path: str | Path) -> SymbolVocabulary:
        """Read a ``vocab.json``. Special tokens that the file lacks are numbered after the genes, as upstream does."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise VocabularyError(f"{path} is not a readable JSON file ({error}); it may be cut off.") from error
        if not isinstance(content, dict) or not all(isinstance(token, int) for token in content.values()):
            raise VocabularyError(f"{path} should hold one object of gene symbol → token id.")
        special = {name: content.pop(name) for name in (PAD, CLS, "<eoc>") if name in content}
        for name in (PAD, CLS, "<eoc>"):
            if name not in special:
                special[name] = 1 + max([*content.values(), *special.values()], default=-1)
        return cls(name=Path(path).stem, tokens=content, special=special)

    @classmethod
    def published(cls) -> SymbolVocabulary:
        """The vocabulary of the released whole-human scGPT, from a folder of ``SCFM_CACHE``; it is not downloaded.

        Raises
        ------
        FileNotFoundError
            No folder has it.
        """
        path = cache.find(_SCGPT)
        if path is None:
            raise FileNotFoundError(f"scGPT's own vocabulary is not at hand ({_SCGPT} in a folder of SCFM_CACHE).")
        return cls.load(path)

    def token(self, gene: str) -> int:
        """Token id of a gene symbol or a special token."""
        token = self.special.get(gene, self.tokens.get(gene))
        if token is None:
            raise VocabularyError(f"{gene!r} is not in the vocabulary {self.name}, which goes by gene symbols.")
        return token

    def other_name(self, gene: str) -> str:
        """The symbol of an Ensembl id, by the course's own table."""
        return ensembl_to_symbol().get(gene, "")

    def tokens_of(self, names: Iterable[str]) -> np.ndarray:
        """Token id of each gene symbol (int32; -1: not in the vocabulary)."""
        return np.asarray([self.tokens.get(str(symbol), -1) for symbol in names], dtype=np.int32)

    def column_tokens(self, var: pd.DataFrame) -> np.ndarray:
        """Token of each gene by its symbol; where that is of another release, by the other symbols of its Ensembl id.

        A token whose symbol another column bears is left to that column.
        """
        found = self.tokens_of(var[self.column])
        if "ensembl_id" in var:
            borne, names = set(found.tolist()), symbols_of_ensembl()
            for k in np.flatnonzero(found < 0):
                others = names.get(_bare(str(var["ensembl_id"].iloc[k])), ())
                token = next((self.tokens[name] for name in others if name in self.tokens), -1)
                found[k] = -1 if token in borne else token
        return found


# --- do a dataset and a vocabulary fit? -----------------------------------------------------------


@dataclass(frozen=True)
class Overlap:
    """How much of a dataset a vocabulary covers."""

    n_genes: int
    n_mapped: int
    fraction_counts: float
    missing: tuple[str, ...]

    @property
    def fraction_genes(self) -> float:
        """The share of the dataset's genes that are in the vocabulary."""
        return self.n_mapped / max(self.n_genes, 1)

    def __str__(self) -> str:
        return (
            f"{self.n_mapped:,} of {self.n_genes:,} genes ({self.fraction_genes:.0%}) are in the vocabulary; "
            f"they hold {self.fraction_counts:.1%} of all counts."
        )


def overlap(adata: anndata.AnnData, vocabulary: Vocabulary) -> Overlap:
    """Count the genes and the counts of ``adata`` that ``vocabulary`` covers.

    Raises
    ------
    VocabularyError
        If under 20 % of the genes are known: another species, another kind of gene id, or the wrong vocabulary.
    """
    if vocabulary.column not in adata.var:
        raise VocabularyError(
            f"adata.var has no column {vocabulary.column!r}; read the file with scfm.load_dataset, which makes it."
        )
    names = adata.var[vocabulary.column].astype(str).to_numpy()
    known = vocabulary.column_tokens(adata.var) >= 0
    per_gene = np.asarray(adata.X.sum(axis=0)).ravel()
    # the genes that are missed most are the ones to look at first
    missed = np.flatnonzero(~known)
    missed = missed[np.argsort(-per_gene[missed], kind="stable")]
    with np.errstate(invalid="ignore"):  # infinite values are refused after the genes are known
        fraction_counts = float(per_gene[known].sum() / max(per_gene.sum(), 1e-12))
    found = Overlap(
        n_genes=len(names),
        n_mapped=int(known.sum()),
        fraction_counts=fraction_counts,
        missing=tuple(names[missed[:10]]),
    )
    if found.fraction_genes < LOWEST_OVERLAP:
        raise VocabularyError(
            f"Only {found.n_mapped:,} of {found.n_genes:,} genes ({found.fraction_genes:.1%}) are in the vocabulary "
            f"{vocabulary.name}; at least {LOWEST_OVERLAP:.0%} are needed for its tokens to mean anything. Not found, for "
            f"example: {', '.join(found.missing[:5])}. It goes by human {vocabulary.goes_by}: "
            "check the species and the kind of gene id."
        )
    return found
