"""Rebuild data/genes.tsv.gz, the table of human genes, from the sets of datasets.toml found through SCFM_CACHE.

    SCFM_CACHE=/path/to/shared python data/make_genes.py

One row per (ensembl_id, gene_symbol) that any such set's `var` names. Annotations changed over the years, so a symbol can
have several ids (an id of GRCh37 and one of GRCh38) and an id several symbols (FAM46C, then TENT5C). The order of the
rows answers both: **the first row of a symbol is its id, the first row of an id is its symbol.** The pair that most
sets agree on comes first; among equals, the smaller id or symbol. The rows after the first are aliases: they let old
symbols be mapped.

Left out: ids that are not human (`ENSG` + 11 digits), and rows whose symbol is missing or only repeats an id.
"""

from __future__ import annotations

import collections
import gzip
import os
import re
import sys
import tomllib
from pathlib import Path

ENSEMBL = re.compile(r"ENSG\d{11}")


def count_pairs(folders: list[Path]) -> collections.Counter[tuple[str, str]]:
    """In how many sets does each (ensembl_id, gene_symbol) occur?"""
    import h5py
    from anndata.io import read_elem

    listed = tomllib.loads(Path(__file__).with_name("datasets.toml").read_text()).values()
    # a folder may hold other files too: peaks, say, which are no genes
    names = sorted(entry["file"] for entry in listed if entry["source"] == "cache")
    pairs: collections.Counter[tuple[str, str]] = collections.Counter()
    for folder in folders:
        for path in (folder / name for name in names if (folder / name).exists()):
            with h5py.File(path) as file:
                var = read_elem(file["var"])
            seen = set(zip(var["ensembl_id"].astype(str), var["gene_symbol"].astype(str), strict=True))
            pairs.update(
                (gene, symbol)
                for gene, symbol in seen
                if ENSEMBL.fullmatch(gene) and symbol not in ("", "nan", "None") and not ENSEMBL.match(symbol)
            )
    return pairs


def ordered(pairs: collections.Counter[tuple[str, str]]) -> list[tuple[str, str]]:
    """Rows in the file's order: every symbol's id first, every id's symbol first."""
    best: dict[str, tuple[str, str]] = {}  # symbol -> its most frequent pair
    for pair in sorted(pairs, key=lambda p: (-pairs[p], p)):
        best.setdefault(pair[1], pair)
    chosen = sorted(best.values(), key=lambda p: (p[0], -pairs[p], p[1]))
    # A pair whose symbol belongs to another id: only needed to name that older id, so it goes to the end.
    others = sorted(set(pairs) - set(chosen), key=lambda p: (p[0], -pairs[p], p[1]))
    return chosen + others


def main() -> None:
    folders = [Path(f) for f in os.environ.get("SCFM_CACHE", "").split(os.pathsep) if f]
    pairs = count_pairs(folders)
    if not pairs:
        sys.exit("No set found: set SCFM_CACHE to the folder that holds data/*.h5ad.")
    rows = ["ensembl_id\tgene_symbol", *("\t".join(pair) for pair in ordered(pairs))]
    target = Path(__file__).with_name("genes.tsv.gz")
    temporary = target.with_name(target.name + ".part")
    # mtime 0 and no file name in the header: the same rows give the same bytes.
    temporary.write_bytes(gzip.compress(("\n".join(rows) + "\n").encode(), compresslevel=9, mtime=0))
    temporary.replace(target)
    ids, symbols = {p[0] for p in pairs}, {p[1] for p in pairs}
    print(f"{target.name}: {len(pairs)} rows, {len(ids)} ids, {len(symbols)} symbols, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
