"""The price list of lesson 05: LoRA at every rank, place and alpha, and its relatives, on the draws of the ladder.

    python -m studies.sweep            go on with what is missing, then write data/results/peft.parquet
    python -m studies.sweep --collect  write the table from the shards that are there

A shard is one dataset, one budget and one draw; labelled cells, test cells and scores are those of :mod:`studies.ladder`. The fits
are shorter than the ladder's (fewer steps, smaller minibatches, shorter sentences), so that nineteen of them take minutes on one
core: compare rows of this table with each other. So head, full, LoRA on the random twin and logistic regression stand in it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scfm.store import cache
from studies import ladder

RANKS = (1, 2, 4, 8, 16, 32)
PLACES = ("qv", "attention", "feedforward")  # "all" is the default, and among the ranks
ALPHAS = (2.0, 64.0)  # at rank 8; the default is 16
RELATIVES = ("dora", "ia3", "vera", "ln", "prefix", "prompt")
DRAWS = (("kang_ifnb_pbmc", 10),)  # dataset, labels per class
SEEDS = 5
STEPS = 30  # a third of the ladder's
MINIBATCH = 16
MAX_LEN = 128  # tokens of a cell
DTYPE = "float32"  # stated, so that machines agree


def variants() -> dict[str, dict[str, Any]]:
    """Name in the table → options of :func:`scfm.adapt`."""
    found: dict[str, dict[str, Any]] = {"head": {"method": "head"}}
    found |= {f"lora r={rank}": {"method": "lora", "rank": rank} for rank in RANKS}
    found |= {f"lora on {place}": {"method": "lora", "targets": place} for place in PLACES}
    found |= {f"lora alpha={alpha:g}": {"method": "lora", "alpha": alpha} for alpha in ALPHAS}
    found |= {method: {"method": method} for method in RELATIVES}
    return found | {"full": {"method": "full"}, "twin lora r=8": {"method": "lora"}}


@dataclass(frozen=True)
class Shard(ladder.Shard):
    """One dataset, one budget, one draw: every variant, and logistic regression."""

    labels_per_class: int = 10

    @property
    def name(self) -> str:
        return f"{self.model}_{self.dataset}_{self.labels_per_class}_{self.seed}"

    @property
    def methods(self) -> tuple[str, ...]:
        return (*ladder.FROM_SCRATCH, *variants())

    @property
    def minibatch(self) -> int:
        return MINIBATCH

    @property
    def max_len(self) -> int:
        return MAX_LEN

    def stamp(self, steps: int) -> dict[str, Any]:
        return super().stamp(steps) | {"dtype": DTYPE}

    def budgets(self, kinds: np.ndarray) -> list[int]:
        return [self.labels_per_class]

    def way(self, method: str) -> tuple[str, dict[str, Any]]:
        return "random" if method.startswith("twin ") else "pretrained", variants()[method] | {"dtype": DTYPE}


def shards(model: str = "geneformer-mini", draws: Sequence[tuple[str, int]] = DRAWS, n_seeds: int = SEEDS) -> list[Shard]:  # fmt: skip
    """All shards; every draw of the first dataset before the next."""
    return [Shard(model, dataset, seed, budget) for dataset, budget in draws for seed in range(n_seeds)]


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(prog="python -m studies.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=None, help="default: data/results/peft")
    parser.add_argument("--work", type=Path, default=Path("runs/peft"), help="unfinished shards (default runs/peft)")
    parser.add_argument("--collect", action="store_true", help="write the table from the shards that are there, and stop")  # fmt: skip
    given = parser.parse_args()
    out = given.out or cache.repo_data() / "results" / "peft"
    wanted, missing = ladder.possible(shards(n_seeds=given.seeds))
    for name, reason in missing.items():
        print(f"left out: {name} ({reason})")
    if not given.collect:
        import torch

        torch.set_num_threads(1)  # a shard is one core's work, so its seconds mean the same everywhere
        given.work.mkdir(parents=True, exist_ok=True)
        try:
            ladder.refuse_others(wanted, out, given.steps)
        except ValueError as error:
            raise SystemExit(str(error)) from error
        for line in ladder.work_through(wanted, out, given.work, given.steps):
            print(line, flush=True)
    table = ladder.collect(out)
    with cache.atomic_write(out.with_suffix(".parquet")) as path:
        table.to_parquet(path, index=False)
    print(f"{table['seed'].nunique()} draws, {len(table):,} rows in {out.with_suffix('.parquet')}")


if __name__ == "__main__":
    main()
