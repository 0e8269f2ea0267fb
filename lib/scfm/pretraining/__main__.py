"""Pretrain a mini model, resumable.

python -m scfm.pretraining --help
python -m scfm.pretraining scgpt-mini --help
"""

from __future__ import annotations

import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from scfm.pretraining import geneformer_mini, scgpt_mini
from scfm.pretraining.corpus import read_corpus
from scfm.store import cache

RECIPES = {"geneformer-mini": geneformer_mini, "scgpt-mini": scgpt_mini}


def main() -> None:
    """What ``make pretrain`` calls."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m scfm.pretraining", description=__doc__)
    parser.add_argument("model", nargs="?", default="geneformer-mini", choices=list(RECIPES))
    parser.add_argument("--corpus", default="mini", help="a table of data/corpora.toml, or your own .toml file's path")
    parser.add_argument("--files", nargs="*", help="instead: dataset names or files")
    parser.add_argument("--out", type=Path, default=None, help="the model's folder (default: runs/pretrain/NAME/model)")
    parser.add_argument("--work", type=Path, default=None, help="checkpoints (default: runs/pretrain/NAME)")
    parser.add_argument("--threads", type=int, default=None)
    recipe: Any = RECIPES["scgpt-mini" if "scgpt-mini" in sys.argv[1:] else "geneformer-mini"]
    settings = recipe.Settings()
    options = (
        "name",
        "steps",
        "max_len",
        "hidden",
        "layers",
        "min_cells",
        "minibatch",
        "learning_rate",
        "seed",
        "share_of_cells",
    )
    for name in options:
        value = getattr(settings, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default {value}")
    parser.add_argument("--checkpoint-every", type=int, default=250, help="steps between checkpoints (default 250)")
    parser.add_argument("--cold", action="store_true", help="no warm start of the gene embeddings")
    given = parser.parse_args()
    names, left_out = given.files, {}
    if not names:
        own = Path(given.corpus)
        path, table = (own, None) if own.suffix == ".toml" else (cache.repo_data() / "corpora.toml", given.corpus)
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        chosen = content[table] if table else next(iter(content.values()))
        names, left_out = chosen["train"], chosen.get("left_out", {})
    if given.threads:
        import torch

        torch.set_num_threads(given.threads)
    settings = replace(settings, **{name: getattr(given, name) for name in options}, warm_start=not given.cold)
    work = given.work or Path("runs/pretrain") / settings.name
    out = given.out or work / "model"
    report = recipe.pretrain(read_corpus(names, left_out), settings, work, out, given.checkpoint_every)
    print(recipe.summary(report))
    print(f"The model is in {out}.")


if __name__ == "__main__":
    main()
