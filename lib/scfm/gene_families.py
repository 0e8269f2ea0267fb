"""Classes of genes, for ``adapt(level="gene")``: families that a symbol gives away, and the label files of Geneformer's paper."""

from __future__ import annotations

import re
from collections.abc import Iterable

from scfm import cache

# root symbols of gene families (HGNC): what every cell runs on, and what cells of the immune system wear and send
FAMILIES = {
    "machinery": r"RP[LS]\d|MRP[LS]\d|NDUF|ATP5|COX\d|UQCR|PSM[A-G]\d|TIMM|TOMM|EIF\d|SNRP|POLR|SF3|CCT\d|LSM\d|HNRNP|SDH[A-D]|SRSF",
    "immune": r"CD\d|HLA-|IL\d|CCL|CCR|CXC[LR]|KLR|GZM|TNF|IFI|FC[EG]R|FCRL|LILR|TLR\d|LY\d|LTB|IG[LH]|MS4A|S100A|PRF1|GNLY|NKG7|ISG",
}
DOSAGE = "dictionaries/geneformer/labels/dosage_sens_tf_labels.csv"


def by_symbol(symbols: Iterable[str]) -> dict[str, str]:
    """Gene symbol → ``"machinery"`` or ``"immune"``, of those symbols that belong to one of :data:`FAMILIES`."""
    patterns = {name: re.compile(f"({pattern})") for name, pattern in FAMILIES.items()}
    return {symbol: name for symbol in symbols for name, pattern in patterns.items() if pattern.match(symbol)}


def dosage_sensitive() -> dict[str, str]:
    """Ensembl id → ``"dosage_sensitive"`` or ``"dosage_insensitive"``: the transcription factors of Theodoris et al. 2023.

    Raises
    ------
    FileNotFoundError
        The file of labels is in none of the folders of ``SCFM_CACHE``.
    """
    import pandas as pd

    path = cache.find(DOSAGE)
    if path is None:
        raise FileNotFoundError(f"No folder of SCFM_CACHE has {DOSAGE}; it comes with Geneformer's published examples.")
    table = pd.read_csv(path)
    return {gene: str(column) for column in table for gene in table[column].dropna().astype(str)}
