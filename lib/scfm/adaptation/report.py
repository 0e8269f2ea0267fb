"""The price and the course of a fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Report:
    """The price and the course of a fit. Memory in bytes, energy in joules (None where no counter can be read)."""

    model: str
    method: str
    trained_parameters: int
    head_parameters: int
    total_parameters: int
    seconds: float
    peak_memory: int
    peak_memory_gpu: int | None
    joules: float | None
    joules_from: str
    machine: str
    dtype: str
    n_cells: int
    n_validation: int
    cells_per_class: dict[str, dict[str, int]]
    steps: int
    best_step: int
    stopped_early: bool
    resumed_from: int
    date: str = ""
    data: dict[str, Any] = field(default_factory=dict)  # what the cells are, as far as they say
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def trained_share(self) -> float:
        """Trained parameters, the head's among them, as a share of all."""
        return self.trained_parameters / self.total_parameters

    def table(self) -> pd.DataFrame:
        """The learning curve: step, epoch, train_loss, seconds, and the validation scores where cells were kept aside."""
        import pandas as pd

        return pd.DataFrame(self.curve)

    def __str__(self) -> str:
        lines = [
            f"{self.method} on {self.model}",
            f"  trained    {self.trained_parameters:,} of {self.total_parameters:,} parameters ({self.trained_share:.2%}), "
            f"{self.head_parameters:,} of them in the head",
            f"  cells      {self.n_cells:,} to learn from, {self.n_validation:,} to watch",
            f"  time       {self.seconds:.1f} s, {self.steps} steps"
            + (f", best at step {self.best_step}" if self.best_step != self.steps else "")
            + (", stopped early" if self.stopped_early else "")
            + (f", resumed at step {self.resumed_from}" if self.resumed_from else ""),
            f"  memory     {self.peak_memory / 2**20:,.0f} MiB at most"
            + (f", {self.peak_memory_gpu / 2**20:,.0f} MiB on the GPU" if self.peak_memory_gpu else ""),
            f"  energy     {self.joules:,.0f} J ({self.joules_from})"
            if self.joules is not None
            else f"  energy     not told: {self.joules_from}",
            f"  machine    {self.machine}, {self.dtype}",
        ]
        if self.curve and "validation_loss" in self.curve[-1]:
            best = min(self.curve, key=lambda row: row["validation_loss"])
            lines.append(
                f"  validation loss {best['validation_loss']:.3f}, accuracy {best['validation_accuracy']:.1%}, balanced "
                f"{best['validation_balanced_accuracy']:.1%} at step {best['step']:.0f}"
            )
        return "\n".join([*lines, *(f"  note       {note}" for note in self.notes)])

    __repr__ = __str__
