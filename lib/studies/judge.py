"""Has a small model learned anything? The table of its kind's questions, and the model card written from it.

python -m studies.judge data/models/geneformer-mini
"""

from __future__ import annotations

import importlib
from pathlib import Path

from scfm.models.registry import kind_of
from scfm.store import cache
from studies.judging import (
    TISSUES,
)


def main() -> None:
    import argparse

    import pandas as pd

    parser = argparse.ArgumentParser(prog="python -m studies.judge", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="*", default=list(TISSUES))
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--table", type=Path, default=None, help="default: data/results/NAME.parquet")
    parser.add_argument("--card-only", action="store_true", help="write the card from the table that is there")
    given = parser.parse_args()
    # each kind of model is asked its own questions, by the file of its name
    mine = importlib.import_module(f"studies.judge_{kind_of(given.folder)}")
    path = given.table or cache.repo_data() / "results" / f"{given.folder.name.replace('-', '_')}.parquet"
    if not given.card_only:
        table = mine.judge(given.folder, given.sets, given.draws)
        path.parent.mkdir(parents=True, exist_ok=True)
        with cache.atomic_write(path) as temporary:
            table.to_parquet(temporary, index=False)
    mine.write_card(given.folder, pd.read_parquet(path))
    print(f"The table is in {path}, the card in {given.folder / 'README.md'}.")


if __name__ == "__main__":
    main()
