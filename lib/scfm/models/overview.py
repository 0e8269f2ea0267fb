"""What there is: the shapes of the models that this course loads, and tables of other people's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfm.genes import RankVocabulary, VocabularyError
from scfm.store import cache, hub

if TYPE_CHECKING:
    import pandas as pd


def architecture(name: str) -> dict[str, Any]:
    """The shape of a model of ``data/models.toml`` as its config.json gives it (``num_hidden_layers``, ``hidden_size``, ...).

    Nothing is downloaded. A copy: the caller may change it.

    Raises
    ------
    KeyError
        The catalogue has no such model; the message lists those that it has.
    """
    return dict(_entry(name)["architecture"])


def vocabulary(name: str) -> RankVocabulary:
    """The vocabulary of a Geneformer of ``data/models.toml``, without its weights.

    Raises
    ------
    KeyError
        The catalogue has no such model.
    scfm.genes.VocabularyError, scfm.store.hub.HubError
        It has no vocabulary of ranks (scGPT), or its dictionaries could not be had.
    """
    entry = _entry(name)
    if entry["kind"] != "geneformer" or not {"bundled", "vocabulary"} & set(entry):
        raise VocabularyError(f"{name} has no vocabulary of ranked genes: it is a {entry['kind']}. Name a Geneformer.")
    if "bundled" in entry:
        return RankVocabulary.load(cache.repo_data() / entry["bundled"])
    return RankVocabulary.published(entry["vocabulary"])


def of_cells() -> pd.DataFrame:
    """Models of cells, one per row: what each reads and guesses, and whether its weights can be had."""
    return _table("single_cell_models")


def of_all_fields() -> pd.DataFrame:
    """Foundation models of many fields, one per row: field, self-made task, DOI, and what people used before."""
    return _table("fields")


def _entry(name: str) -> dict[str, Any]:
    known = hub.catalogue()["models"]
    plain = hub.plain_name(name)
    if plain not in known:
        raise KeyError(f"data/models.toml has no model {name!r}; it has {', '.join(known)}.")
    return dict(known[plain])


def _table(name: str) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(cache.repo_data() / f"{name}.csv")
