"""Write data/cards/NAME.md, a data card for every dataset, from data/datasets.toml.

python data/make_cards.py
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import quote

HERE = Path(__file__).parent
SOURCES = {
    "bundled": "comes with an installed package: {file}",
    "simulated": "made from `{of}` when it is loaded",
    "subset": "drawn from `{of}` when it is loaded",
    "cache": "not downloaded: put it as `{file}` into a folder that SCFM_CACHE names",
    "download": "downloaded on first use: {file}",
    "census": "a slice of CZ CELLxGENE Census {census_version}, drawn on first use",
}
MADE = (
    "made at first use, or by `make data FOR={name}`, from the public files below, and checked against the listed cells, genes, labels and "
    "counts; or put it as `{file}` into a folder that SCFM_CACHE names"
)
KINDS = {
    "matrix": "a matrix of R",
    "seurat": "a Seurat object",
    "experiment": "a Bioconductor experiment",
    "tables": "tables",
    "10x": "folders of 10x",
}
COUNTS = {"UMI": "UMI counts", "reads": "read counts (no UMI)"}
SPLITS = {
    "evaluation": "kept for evaluation: geneformer-mini has not seen it",
    "corpus": "may be in the corpus of geneformer-mini",
}


def render(name: str, entry: dict[str, Any]) -> str:
    """The card of one dataset as Markdown."""
    size = [f"{entry[key]:,} {key}" for key in ("cells", "genes") if key in entry]
    if "bytes" in entry:
        size.append(f"{entry['bytes'] / 1e6:,.1f} MB")
    digest = next((f"{key} `{entry[key]}`" for key in ("sha256", "md5") if key in entry), "")
    columns = ", ".join(f"{role} = `{column}`" for role, column in entry["columns"].items())
    rows = {
        "Load": f'`scfm.load_dataset("{name}")`',
        "Where": (MADE if "origin" in entry else SOURCES[entry["source"]]).format(name=name, **entry),
        "Size": ", ".join(size),
        "Organism, tissue": f"{entry['organism']}, {entry['tissue']}",
        "Values": COUNTS[entry["counts"]],
        "Columns": columns or "no labels, batches or conditions",
        "Role": SPLITS[entry["split"]],
        "Licence": entry["licence"],
        "Citation": entry["citation"]
        + (f" · [doi:{entry['doi']}](https://doi.org/{entry['doi']})" if entry.get("doi") else ""),
        **(_made_from(entry["origin"]) if "origin" in entry else {}),
        "Addresses": "<br>".join(entry.get("urls", ())),
        "Hash": digest or ("as its source" if "of" in entry else "none published: the first download is recorded"),
        "Labels": "<br>".join(
            [*entry["labels"]["urls"], f"sha256 `{entry['labels']['sha256']}`"] if "labels" in entry else []
        ),
    }
    table = "\n".join(f"| {key} | {value.replace('|', '/')} |" for key, value in rows.items() if value)
    notes = f"\n{entry['notes']}\n" if entry.get("notes") else ""
    return f"<!-- made by data/make_cards.py from data/datasets.toml -->\n# {name}\n\n{entry['title']}.\n{notes}\n| | |\n|---|---|\n{table}\n"


def _made_from(origin: dict[str, Any]) -> dict[str, str]:
    """The raw files, the recipe's kind and the hash of what has to come out."""
    files = [
        f"[{one['repo']} : {one['path']}](https://raw.githubusercontent.com/{one['repo']}/{one['commit']}/{quote(one['path'])}), "
        f"{one['bytes']:,} bytes, git blob `{one['blob']}`"
        for one in origin["files"].values()
    ]
    others = [f"`{what['shared_with']}`" for what in origin.get("obs", {}).values() if "shared_with" in what]
    flags = f"; the flag of shared cells from {' and '.join(others)}" if others else ""
    return {
        "Made from": "<br>".join(files) + flags,
        "Recipe": f"{KINDS[origin['kind']]} (`origin` of its entry in data/datasets.toml); content `{origin['content']}`",
    }


def cards() -> dict[str, str]:
    """File name → content of every card."""
    entries = tomllib.loads((HERE / "datasets.toml").read_text(encoding="utf-8"))
    return {f"{name}.md": render(name, entry) for name, entry in entries.items()}


def main() -> None:
    folder = HERE / "cards"
    folder.mkdir(exist_ok=True)
    wanted = cards()
    for old in folder.glob("*.md"):
        if old.name not in wanted:
            old.unlink()
    for name, content in wanted.items():
        (folder / name).write_text(content, encoding="utf-8")
    print(f"{len(wanted)} data cards in data/cards")


if __name__ == "__main__":
    main()
