"""Write data/cards/NAME.md, a data card for every dataset, from data/datasets.toml.

python data/make_cards.py
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOURCES = {
    "bundled": "comes with an installed package: {file}",
    "simulated": "made from `{of}` when it is loaded",
    "subset": "drawn from `{of}` when it is loaded",
    "cache": "not downloaded: put it as `{file}` into a folder that SCFM_CACHE names",
    "download": "downloaded on first use: {file}",
    "census": "a slice of CZ CELLxGENE Census {census_version}, drawn on first use",
}
CONVERTED = (
    "downloaded from its carrier and converted on first use, checked against the listed counts; or put it as `{file}` into a folder "
    "that SCFM_CACHE names"
)
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
        "Where": CONVERTED.format(**entry) if "origin" in entry else SOURCES[entry["source"]].format(**entry),
        "Size": ", ".join(size),
        "Organism, tissue": f"{entry['organism']}, {entry['tissue']}",
        "Values": COUNTS[entry["counts"]],
        "Columns": columns or "no labels, batches or conditions",
        "Role": SPLITS[entry["split"]],
        "Licence": entry["licence"],
        "Citation": entry["citation"]
        + (f" · [doi:{entry['doi']}](https://doi.org/{entry['doi']})" if entry.get("doi") else ""),
        "Taken from": entry.get("carrier", ""),
        "Addresses": "<br>".join(entry.get("urls", _addresses(entry.get("origin")))),
        "Hash": digest or ("as its source" if "of" in entry else "none published: the first download is recorded"),
        "Labels": "<br>".join(
            [*entry["labels"]["urls"], f"sha256 `{entry['labels']['sha256']}`"] if "labels" in entry else []
        ),
    }
    table = "\n".join(f"| {key} | {value.replace('|', '/')} |" for key, value in rows.items() if value)
    notes = f"\n{entry['notes']}\n" if entry.get("notes") else ""
    return f"<!-- made by data/make_cards.py from data/datasets.toml -->\n# {name}\n\n{entry['title']}.\n{notes}\n| | |\n|---|---|\n{table}\n"


def _addresses(origin: dict[str, Any] | None) -> list[str]:
    return [origin["urls"][0].format(file=file) for file in origin["files"]] if origin else []


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
