"""Is this a matrix of raw counts, and which human genes are its columns?

Models of this course were trained on raw counts of human genes named by Ensembl id. A user's file may hold something else
under the same file ending; the two questions here are asked of every file before anything is computed from it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.errors import GeneNameError, NotCountsError

if TYPE_CHECKING:
    import anndata
    import pandas as pd

log = logging.getLogger("scfm")

COUNT_LAYERS = ("counts", "raw_counts", "raw", "count", "umi", "umis", "umi_counts", "matrix")  # as lower case
_SPLICED = ("spliced", "mature")  # most of a cell's molecules: taken where the whole is not there
_REST = ("unspliced", "nascent", "ambiguous")  # counts of a part of the molecules: never the expression
_GENE_KINDS = ("gene expression", "gex", "rna")  # as lower case; others: antibodies, guides, hashtags, peaks
_CLOSE = 1e-3  # how far from a whole number a stored count may be (float16 and text files round)
_BLOCK = 1 << 22

# --- which matrix holds the counts? -----------------------------------------------------------------


NOTHING = "nothing but zeros"


def judge(matrix: Any) -> str:
    """Say what a matrix holds: "counts", or in words what speaks against it.

    ``matrix``: cells x genes, scipy sparse or numpy. Looks at every stored value.
    """
    data = matrix.data if hasattr(matrix, "indptr") else np.asarray(matrix).reshape(-1)
    if data.dtype.kind not in "fiub":
        return f"values of type {data.dtype}, which are no numbers"
    parts = [data[i : i + _BLOCK] for i in range(0, len(data), _BLOCK)]  # views: no copy of the whole matrix
    if data.dtype.kind == "f" and not all(np.isfinite(part).all() for part in parts):
        wrong = sum(int((~np.isfinite(part)).sum()) for part in parts)
        return f"{wrong:,} values that are NaN or infinite"
    if not data.any():
        return NOTHING
    if data.min() < 0:
        return f"negative values (down to {data.min():.3g}): scaled or centred data"
    if data.dtype.kind in "iub":
        return "counts"
    broken = next((part for part in parts if (np.abs(part - np.rint(part)) > _CLOSE).any()), None)
    if broken is None:
        return "counts"
    example, largest = broken[np.abs(broken - np.rint(broken)) > _CLOSE][0], data.max()
    totals = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    totals = totals[totals > 0]
    if len(totals) > 1 and totals.std() < 0.01 * totals.mean():
        return f"normalized values: every cell sums to about {totals.mean():,.0f}"
    if largest < 20:
        undone = (
            matrix.astype(np.float64).expm1() if hasattr(matrix, "indptr") else np.expm1(np.asarray(matrix, np.float64))
        )
        totals = np.asarray(undone.sum(axis=1)).ravel()
        totals = totals[totals > 0]
        if len(totals) > 1 and totals.std() < 0.01 * totals.mean():
            return f"log-transformed values: with the log undone, every cell sums to about {totals.mean():,.0f}"
        return f"small fractions (for example {example:.3g}; the largest is {largest:.3g}): log-transformed or corrected data"
    return f"values that are not whole numbers (for example {example:.3g}): normalized, corrected or imputed data"


def find_counts(adata: anndata.AnnData) -> tuple[Any, pd.DataFrame, str]:
    """Find the raw counts in ``X``, the layers or ``raw`` → (matrix, its var table, where it was).

    Of several matrices of counts one that is more than zeros and ones wins, then the one with most genes, then the order X,
    layers, raw. Of layers the name decides: counts and the like, then others, then spliced; unspliced and ambiguous are none.

    Raises
    ------
    NotCountsError
        If none holds counts, and the message says what each holds instead; if several layers do, and no name tells which.
    """
    layers = sorted((key for key in map(str, adata.layers) if key.lower() not in _REST), key=_rank)
    places: list[tuple[str, Any, pd.DataFrame]] = []
    if adata.X is not None:
        places.append(("X", adata.X, adata.var))
    places += [(f'layers["{key}"]', adata.layers[key], adata.var) for key in layers]
    if adata.raw is not None:
        places.append(("raw", adata.raw.X, adata.raw.var))
    verdicts = {where: judge(matrix) for where, matrix, _ in places}
    good = [place for place in places if verdicts[place[0]] == "counts"]
    if not good:
        found = "; ".join(f"{where} holds {verdict}" for where, verdict in verdicts.items()) or "it holds no matrix"
        raise NotCountsError(
            f"No raw counts were found: {found}. Models here need raw counts (whole numbers, not normalized, not log-"
            'transformed, not scaled). Save them in X, in layers["counts"] or in raw; they are usually in the file as '
            "it came from the sequencing pipeline."
        )
    best = max(good, key=_worth)  # the first of equals
    where, matrix, var = best
    _refuse_two([place for place in good if _worth(place) == _worth(best)])
    if where != "X":
        log.warning("Raw counts were taken from %s; X holds %s.", where, verdicts.get("X", "nothing"))
    if _binary(matrix):
        log.warning(
            "%s holds 0 and 1 only: where a gene was seen, not how often. Ranks and bins need the counts.", where
        )
    if (depth := _one_depth(matrix)) is not None:
        log.warning(
            "Every cell of %s sums to about %s: are these normalized values that were rounded? Models need counts as sequenced.",
            where,
            f"{depth:,.0f}",
        )
    if where.lower() in [f'layers["{name}"]' for name in _SPLICED]:
        log.warning("%s holds a part of the molecules only; the whole (layers matrix or counts) is not there.", where)
    return matrix, var, where


def _rank(layer: str) -> tuple[int, str]:
    """Which layer is looked at first: by its name, then by the alphabet."""
    order = [*COUNT_LAYERS, "", *_SPLICED]
    return order.index(layer.lower() if layer.lower() in order else ""), layer


def _one_depth(matrix: Any) -> float | None:
    """The sum of every cell where all have nearly the same, as no sequencing gives them; None where they differ."""
    totals = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    same = len(totals) >= 20 and totals.mean() > 100 and totals.std() < 0.005 * totals.mean()
    return float(totals.mean()) if same else None


def _binary(matrix: Any) -> bool:
    return bool((matrix.data if hasattr(matrix, "indptr") else np.asarray(matrix)).max() == 1)


def _worth(place: tuple[str, Any, Any]) -> tuple[bool, int]:
    return not _binary(place[1]), place[1].shape[1]


def _refuse_two(places: list[tuple[str, Any, Any]]) -> None:
    """NotCountsError where the first is a layer of a name that says nothing, and another such layer holds other counts."""
    same = [f'layers["{name}"]' for name in (*COUNT_LAYERS, *_SPLICED)]
    unnamed = [place for place in places if place[0].startswith("layers[") and place[0].lower() not in same]
    if not unnamed or unnamed[0] is not places[0]:
        return
    totals = [np.asarray(matrix.sum(axis=1)).ravel() for _, matrix, _ in unnamed]
    if any(not np.array_equal(totals[0], other) for other in totals[1:]):
        raise NotCountsError(
            f"Several layers hold counts ({', '.join(where for where, _, _ in unnamed)}), other ones each, and no name tells "
            'which are the raw ones. Save those in X or in layers["counts"].'
        )


def gene_columns(var: pd.DataFrame) -> np.ndarray | None:
    """Mask of the columns that are genes, by var["feature_types"]; None where that column is missing or tells nothing."""
    column = next((name for name in ("feature_types", "feature_type", "modality") if name in var), None)
    if column is None:
        return None
    kinds = var[column].astype(str).str.lower()
    gene = kinds.isin(_GENE_KINDS).to_numpy()
    if gene.all() or not gene.any():
        return None
    others = var[column].astype(str)[~gene].value_counts()
    log.warning("Left out, being no genes: %s.", ", ".join(f"{n:,} of type {kind}" for kind, n in others.items()))
    return gene


def as_counts(matrix: Any) -> Any:
    """Cells x genes as CSR float32 whole numbers, sorted, without stored zeros."""
    from scipy import sparse

    csr = sparse.csr_matrix(matrix, dtype=np.float32, copy=True)
    csr.data = np.rint(csr.data)
    csr.sum_duplicates()
    csr.eliminate_zeros()
    return csr


def nearly_counts(matrix: Any) -> bool:
    """Whether rounding restores counts: four fifths of the values lie within 0.02 of a whole number.

    Corrected UMI counts (CEL-seq, for barcode collisions) are such; TPM, RPKM and normalized values are not.
    """
    data = matrix.data if hasattr(matrix, "indptr") else np.asarray(matrix)[np.asarray(matrix) != 0]
    if not len(data) or not np.isfinite(data).all() or data.min() < 0:
        return False
    return bool((np.abs(data - np.rint(data)) < 0.02).mean() >= 0.8)


# --- which genes are the columns? -------------------------------------------------------------------

_HUMAN = re.compile(r"(ENSG\d{11})(\.\d+)?(_PAR_Y)?$", re.IGNORECASE)
_OTHER_SPECIES = re.compile(r"(?!ENSG\d)ENS[A-Z]{2,6}\d{6,}", re.IGNORECASE)
_TITLE_CASE = re.compile(r"[A-Z][a-z]{2,}[a-z0-9-]*$|[A-Z][a-z]+\d+[a-z0-9]*$")
_GENOME = re.compile(r"(GRCh38|GRCh37|hg19|hg38|mm10|GRCm38|GRCm39)(_+|-{2,})")  # Seurat turns _ into -
_SPECIES = {"ENSMUSG": "mouse", "ENSRNOG": "rat", "ENSDARG": "zebrafish", "ENSMMUG": "macaque", "ENSSSCG": "pig"}
_ID_COLUMNS = (
    "ensembl_id",
    "gene_ids",
    "gene_id",
    "ensembl",
    "ensembl_gene_id",
    "ensemble_id",
    "ENSEMBL",
    "feature_id",
    "Accession",
    "id",
)
_SYMBOL_COLUMNS = ("gene_symbol", "gene_symbols", "feature_name", "gene_name", "gene_names", "symbol", "Gene", "name")


def _share(names: Sequence[str], pattern: re.Pattern[str]) -> float:
    return sum(bool(pattern.match(name)) for name in names) / max(len(names), 1)


def _text(values: Any) -> list[str]:
    return ["" if value in ("nan", "None", "NA", "<NA>") else value for value in map(str, values)]


def looks_like_genes(names: Sequence[str]) -> bool:
    """Whether names are mostly those of human or mouse genes (asked of cell names: then the table is transposed)."""
    from scfm import genes

    some = list(names[:: max(1, len(names) // 500)])
    known = genes.symbol_to_ensembl()
    upper = {name for name in some if _HUMAN.match(name) or _OTHER_SPECIES.match(name) or name.upper() in known}
    return len(upper) > 0.3 * len(some)


def map_genes(var_names: Sequence[str], var: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Name the columns → (DataFrame ``ensembl_id``, ``gene_symbol``; one row per column), and a report.

    Where most genes of the file have an Ensembl id, its ids are taken as they are (without version suffix); else symbols are
    mapped with the bundled table, old symbols included. A gene without an id gets ``""`` and stays in the matrix.

    Raises
    ------
    GeneNameError
        If the genes are of another species, or none of them is known.
    """
    import pandas as pd

    from scfm import genes

    index = _text(var_names)
    columns = {str(name): _text(var[name]) for name in var.columns}
    named = {name: columns[name] for name in (*_ID_COLUMNS, *_SYMBOL_COLUMNS) if name in columns}
    prefixed = {
        match.group(1) for names in (index, *named.values()) for name in names if (match := _GENOME.match(name))
    }
    if prefixed & {"mm10", "GRCm38", "GRCm39"}:
        raise GeneNameError(
            "Genes carry a mouse genome's prefix (mm10_ or GRCm38_): mouse, or a human-mouse mixture. Keep the human cells "
            "and genes only; the models here know human genes."
        )
    if prefixed:
        index = [_GENOME.sub("", name, count=1) for name in index]
        columns |= {key: [_GENOME.sub("", name, count=1) for name in names] for key, names in named.items()}
    candidates = {"the index": index, **{name: columns[name] for name in _ID_COLUMNS if name in columns}}
    for where, names in candidates.items():
        if _share(names, _OTHER_SPECIES) > 0.5:
            prefix = next(re.match(r"[A-Za-z]+", name).group().upper() for name in names if _OTHER_SPECIES.match(name))  # type: ignore[union-attr]
            species = _SPECIES.get(prefix, "not human")
            raise GeneNameError(
                f"Genes ({where}) have Ensembl ids {prefix}...: {species}. Models here know human genes (ENSG...). Map the "
                "genes to their human one-to-one orthologs first (Ensembl BioMart), and say so beside every result."
            )
    ids_from = max(candidates, key=lambda where: _share(candidates[where], _HUMAN))
    matched = [_HUMAN.match(name) for name in candidates[ids_from]]
    ids = [match.group(1).upper() if match else "" for match in matched]
    versions = sum(bool(match and (match.group(2) or match.group(3))) for match in matched)
    symbol_column = next((name for name in _SYMBOL_COLUMNS if name in columns), None)
    symbols = columns[symbol_column] if symbol_column else (index if ids_from != "the index" else [""] * len(index))
    report: dict[str, Any] = {"n_genes": len(index), "ids": ids_from, "n_versions_removed": versions}
    if sum(map(bool, ids)) > 0.5 * len(ids):
        to_symbol = genes.ensembl_to_symbol()
        symbols = [
            symbol or to_symbol.get(gene, "") or gene or name
            for symbol, gene, name in zip(symbols, ids, index, strict=True)
        ]
        report["n_from_symbols"] = 0
    else:
        symbols = [symbol or name for symbol, name in zip(symbols, index, strict=True)]
        ids = _map_symbols(symbols, ids)
        report |= {"ids": "symbols", "n_from_symbols": sum(map(bool, ids))}
    missing = [symbol for symbol, gene in zip(symbols, ids, strict=True) if not gene]
    report |= {"n_unmapped": len(missing), "unmapped_examples": missing[:10]}
    return pd.DataFrame({"ensembl_id": ids, "gene_symbol": symbols}), report


def _map_symbols(symbols: list[str], ids: list[str]) -> list[str]:
    from scfm import genes

    table = genes.symbol_to_ensembl()
    # R's make.names turns HLA-A into HLA.A
    mapped = [
        gene or table.get(symbol) or table.get(symbol.replace(".", "-"), "")
        for symbol, gene in zip(symbols, ids, strict=True)
    ]
    n_known, n_title = sum(map(bool, mapped)), _share(symbols, _TITLE_CASE)
    if n_title > 0.5 and n_known < 0.5 * len(symbols):
        raise GeneNameError(
            f"{n_title:.0%} of the gene symbols are written like mouse genes ({', '.join(symbols[:3])}). Models here know "
            "human genes. Map them to their human one-to-one orthologs first (Ensembl BioMart), and say so beside every result."
        )
    if n_known == 0:
        raise GeneNameError(
            f"None of the {len(symbols):,} gene names is a human Ensembl id or symbol (the first: {', '.join(symbols[:3])}). "
            "Put Ensembl ids (ENSG...) or symbols into var_names or var['ensembl_id']. If these are cells, the table is "
            "transposed: cells belong in the rows."
        )
    return mapped


def sentences(report: dict[str, Any]) -> list[str]:
    """What :func:`map_genes` did, in words; empty if the genes were fine as they came."""
    said = []
    if report["ids"] == "symbols":
        missing = ", ".join(report["unmapped_examples"][:5])
        said.append(
            f"Gene symbols were mapped to Ensembl ids: {report['n_from_symbols']:,} of {report['n_genes']:,}. "
            + (f"Not mapped: {report['n_unmapped']:,} (for example {missing})." if missing else "")
        )
    if report["n_versions_removed"]:
        said.append(f"The version suffix was removed from {report['n_versions_removed']:,} Ensembl ids.")
    return said


def sum_duplicates(matrix: Any, names: pd.DataFrame, report: dict[str, Any]) -> tuple[Any, pd.DataFrame]:
    """Add up columns of the same gene (same Ensembl id, or same name where there is no id); says so in ``report``."""
    import pandas as pd
    from scipy import sparse

    key = names["ensembl_id"].where(names["ensembl_id"] != "", names["gene_symbol"])
    codes, unique = pd.factorize(key)
    report["n_duplicates_summed"] = len(key) - len(unique)
    if len(unique) == len(key):
        return matrix, names.set_index(key.to_numpy())
    double = list(dict.fromkeys(key[key.duplicated()]))
    log.warning(
        "%s gene(s) occur more than once (for example %s): their counts were added up.",
        f"{len(double):,}",
        ", ".join(double[:3]),
    )
    gather = sparse.csr_matrix((np.ones(len(codes), np.float32), (np.arange(len(codes)), codes)))
    summed = sparse.csr_matrix(matrix @ gather)
    summed.sort_indices()
    return summed, names.loc[~key.duplicated().to_numpy()].set_index(unique.to_numpy())
