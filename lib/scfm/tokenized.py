"""Cells as tokens: ragged arrays, minibatches by token budget, and Parquet on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm.store import cache

if TYPE_CHECKING:
    import pyarrow as pa

CELLS_PER_ROW_GROUP = 2048


class TokenizedCells:
    """Many cells as one long array of tokens: cell i is ``tokens[offsets[i]:offsets[i + 1]]``.

    tokens: int32 (n_tokens,). offsets: int64 (n_cells + 1,). values: float32 (n_tokens,) or None (ranks have none).
    cell_ids: (n_cells,) str. report: what was noticed on the way (empty cells, overlap, ...), a dict for JSON.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        offsets: np.ndarray,
        values: np.ndarray | None = None,
        cell_ids: Sequence[str] | np.ndarray | None = None,
        vocabulary_name: str = "",
        vocabulary_sha256: str = "",
        pad_id: int = 0,
        report: dict[str, Any] | None = None,
    ) -> None:
        self.tokens = np.asarray(tokens, np.int32)
        self.offsets = np.asarray(offsets, np.int64)
        self.values = None if values is None else np.asarray(values, np.float32)
        if cell_ids is None:
            cell_ids = np.arange(len(self)).astype(str)
        self.cell_ids = np.asarray(cell_ids, dtype=str)
        self.vocabulary_name = vocabulary_name
        self.vocabulary_sha256 = vocabulary_sha256
        self.pad_id = int(pad_id)
        self.report = report or {}
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.tokens):
            raise ValueError("offsets must begin with 0 and end with the number of tokens")
        if (np.diff(self.offsets) < 0).any():
            raise ValueError("offsets must not decrease")
        if self.values is not None and len(self.values) != len(self.tokens):
            raise ValueError(f"{len(self.values)} values for {len(self.tokens)} tokens: one for each was expected")
        if len(self.cell_ids) != len(self):
            raise ValueError(f"{len(self.cell_ids)} cell ids for {len(self)} cells: one for each was expected")

    @classmethod
    def from_lists(
        cls, lists: Sequence[Sequence[int]], values: Sequence[Sequence[float]] | None = None, **kwargs: Any
    ) -> TokenizedCells:
        """Cells from one list of token ids each (and, if given, one list of values each)."""
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(cell) for cell in lists], out=offsets[1:])
        tokens = np.concatenate([np.empty(0, np.int32), *(np.asarray(cell, np.int32) for cell in lists)])
        flat = None
        if values is not None:
            if [len(cell) for cell in values] != [len(cell) for cell in lists]:
                raise ValueError("each cell must have as many values as tokens")
            flat = np.concatenate([np.empty(0, np.float32), *(np.asarray(cell, np.float32) for cell in values)])
        return cls(tokens, offsets, flat, **kwargs)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        middle = int(np.median(self.lengths)) if len(self) else 0
        return f"TokenizedCells({len(self):,} cells, {middle:,} tokens in the median cell, {self.vocabulary_name!r})"

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per cell, int64 (n_cells,)."""
        return np.diff(self.offsets)

    def __getitem__(self, key: Any) -> Any:
        """One cell's tokens (by an integer), or a TokenizedCells of some cells (by a slice, indices or a mask)."""
        if isinstance(key, int | np.integer):
            cell = range(len(self))[int(key)]
            return self.tokens[self.offsets[cell] : self.offsets[cell + 1]]
        if isinstance(key, slice) and key.step in (None, 1):  # neighbours share their tokens with the original: no copy
            start, stop, _ = key.indices(len(self))
            stop = max(start, stop)
            cells = np.arange(start, stop)
            tokens = slice(self.offsets[start], self.offsets[stop])
            offsets = self.offsets[start : stop + 1] - self.offsets[start]
            positions: Any = tokens
        else:
            key = np.asarray(key) if not isinstance(key, slice) else key
            if isinstance(key, np.ndarray) and key.dtype == bool and len(key) != len(self):
                raise IndexError(f"a mask of {len(key)} for {len(self)} cells")
            cells = np.arange(len(self))[key if isinstance(key, slice) or key.size else np.empty(0, np.int64)]
            offsets = np.zeros(len(cells) + 1, np.int64)
            np.cumsum(self.lengths[cells], out=offsets[1:])
            positions = np.repeat(self.offsets[cells] - offsets[:-1], self.lengths[cells]) + np.arange(offsets[-1])
        return TokenizedCells(
            self.tokens[positions],
            offsets,
            None if self.values is None else self.values[positions],
            self.cell_ids[cells],
            self.vocabulary_name,
            self.vocabulary_sha256,
            self.pad_id,
            self.report,
        )

    def keep(self, mask: np.ndarray) -> TokenizedCells:
        """The same cells with some of their tokens only; ``mask``: bool (token,)."""
        mask = np.asarray(mask, bool)
        if mask.shape != self.tokens.shape:
            raise ValueError(f"mask has shape {mask.shape}; one entry per token, {self.tokens.shape}, was expected")
        before = np.concatenate([[0], np.cumsum(mask)])
        return TokenizedCells(
            self.tokens[mask],
            before[self.offsets],
            None if self.values is None else self.values[mask],
            self.cell_ids,
            self.vocabulary_name,
            self.vocabulary_sha256,
            self.pad_id,
            self.report,
        )

    def count(self, mask: np.ndarray) -> np.ndarray:
        """How many tokens of each cell the ``mask``, bool (token,), holds: int64 (n_cells,)."""
        return np.diff(np.concatenate([[0], np.cumsum(mask)])[self.offsets])

    # --- minibatches ------------------------------------------------------------------------------

    def minibatches(self, max_tokens: int, max_cells: int | None = None) -> list[np.ndarray]:
        """Cut the cells into minibatches of at most ``max_tokens`` tokens after padding, cells of similar length together.

        Returns index arrays, the longest cells first (if memory does not suffice, the first minibatch says so). The same
        cells always give the same minibatches. A cell that is longer than ``max_tokens`` is alone in its own.
        """
        if max_tokens < 1 or (max_cells is not None and max_cells < 1):
            raise ValueError("max_tokens and max_cells must be at least 1")
        lengths = self.lengths
        order = np.argsort(-lengths, kind="stable")
        out: list[np.ndarray] = []
        first = 0
        while first < len(order):
            n = max(
                1, max_tokens // max(1, int(lengths[order[first]]))
            )  # the first is the longest: all are padded to it
            out.append(order[first : first + min(n, max_cells or n)])
            first += len(out[-1])
        return out

    def padded(self, indices: Any, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of some cells as a rectangle: input_ids int64 (cell, position) and attention mask int64, 1 = a token."""
        return self._rectangle(self.tokens, indices, width, self.pad_id, np.dtype(np.int64))

    def padded_values(self, indices: Any, width: int | None = None, pad_value: float = -2.0) -> np.ndarray:
        """Values of some cells as a rectangle, float32 (cell, position); padding holds ``pad_value`` (scGPT's is -2)."""
        if self.values is None:
            raise ValueError("these cells have no values: rank_encode keeps only the order of the genes")
        return self._rectangle(self.values, indices, width, pad_value, np.dtype(np.float32))[0]

    def _rectangle(
        self, flat: np.ndarray, indices: Any, width: int | None, filler: float, dtype: np.dtype
    ) -> tuple[np.ndarray, np.ndarray]:
        cells = np.arange(len(self))[indices]
        lengths = self.lengths[cells]
        widest = int(lengths.max(initial=0))
        if width is not None and width < widest:
            raise ValueError(f"width is {width}, but a cell has {widest} tokens")
        width = width or widest
        mask = np.arange(width) < lengths[:, None]  # (cell, position)
        out = np.full(mask.shape, filler, dtype)
        out[mask] = np.concatenate(
            [flat[:0], *(flat[self.offsets[c] : self.offsets[c] + n] for c, n in zip(cells, lengths, strict=True))]
        )
        return out, mask.astype(np.int64)

    # --- on disk ----------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write one Parquet file: columns input_ids, length, cell_id (and values); vocabulary and report in its metadata.

        ``datasets.Dataset.from_parquet(str(path))`` reads it too. The file appears only when it is complete.
        """
        import pyarrow.parquet as pq

        path = Path(path)
        with cache.atomic_write(path) as temporary:
            schema = self._schema()
            # tokens below 65,536 have two zero bytes each: split by byte they shrink to half and cost no time
            split = ["input_ids.list.element"] + (["values.list.element"] if self.values is not None else [])
            with pq.ParquetWriter(
                temporary,
                schema,
                compression="lz4",
                use_dictionary=False,
                write_statistics=False,
                column_encoding=dict.fromkeys(split, "BYTE_STREAM_SPLIT"),
            ) as writer:
                for first in range(0, max(len(self), 1), CELLS_PER_ROW_GROUP):
                    writer.write_table(self._table(schema, first, min(first + CELLS_PER_ROW_GROUP, len(self))))
        return path

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        from scfm.inside.version import version

        about = {
            "format": 1,
            "scfm": version(),
            "vocabulary_name": self.vocabulary_name,
            "vocabulary_sha256": self.vocabulary_sha256,
            "pad_id": self.pad_id,
            "report": self.report,
        }
        columns = {"input_ids": _list_of(pa.int32()), "length": pa.int32(), "cell_id": pa.string()}
        if self.values is not None:
            columns["values"] = _list_of(pa.float32())
        # nothing is ever missing; saying so saves Parquet a third of the work
        fields = [pa.field(name, kind, nullable=False) for name, kind in columns.items()]
        return pa.schema(fields, metadata={"scfm": json.dumps(about)})

    def _table(self, schema: pa.Schema, first: int, last: int) -> pa.Table:
        import pyarrow as pa

        part = slice(self.offsets[first], self.offsets[last])
        offsets = pa.array((self.offsets[first : last + 1] - self.offsets[first]).astype(np.int32))
        columns = [
            pa.ListArray.from_arrays(offsets, pa.array(self.tokens[part]), type=_list_of(pa.int32())),
            pa.array(np.diff(self.offsets[first : last + 1]).astype(np.int32)),
            pa.array(self.cell_ids[first:last].tolist(), pa.string()),
        ]
        if self.values is not None:
            columns.append(pa.ListArray.from_arrays(offsets, pa.array(self.values[part]), type=_list_of(pa.float32())))
        return pa.Table.from_arrays(columns, schema=schema)

    @classmethod
    def load(cls, path: str | Path) -> TokenizedCells:
        """Read what ``save`` wrote, or a folder that ``tokenize_file`` filled.

        Raises
        ------
        FileNotFoundError
            Nothing is there.
        ValueError
            The file is damaged or not of this kind; the folder is unfinished.
        """
        path = Path(path)
        if path.is_dir():
            return cls._load_folder(path)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        about = read_about(path)
        import pyarrow.parquet as pq

        table = pq.read_table(path)

        def flat(name: str, dtype: type) -> np.ndarray:
            return np.concatenate([np.empty(0, dtype), *(chunk.flatten().to_numpy() for chunk in table[name].chunks)])

        return cls(
            flat("input_ids", np.int32),
            np.concatenate([[0], np.cumsum(table["length"].to_numpy(), dtype=np.int64)]),
            flat("values", np.float32) if "values" in table.column_names else None,
            table["cell_id"].to_pylist(),
            about["vocabulary_name"],
            about["vocabulary_sha256"],
            about["pad_id"],
            about["report"],
        )

    @classmethod
    def _load_folder(cls, folder: Path) -> TokenizedCells:
        manifest = folder / "manifest.json"
        if not manifest.exists():
            raise FileNotFoundError(f"{folder} has no manifest.json, so it was not written by scfm.files.tokenize_file")
        content = json.loads(manifest.read_text(encoding="utf-8"))
        if not content["complete"]:
            raise ValueError(
                f"{folder} is unfinished: call tokenize_file again with the same arguments, it goes on there"
            )
        parts = [cls.load(folder / name) for name in content["shards"]]
        offsets = np.zeros(1 + sum(len(part) for part in parts), np.int64)
        np.cumsum(np.concatenate([part.lengths for part in parts]), out=offsets[1:])
        first = parts[0]
        return cls(
            np.concatenate([part.tokens for part in parts]),
            offsets,
            None
            if first.values is None
            else np.concatenate([part.values for part in parts if part.values is not None]),
            np.concatenate([part.cell_ids for part in parts]),
            first.vocabulary_name,
            first.vocabulary_sha256,
            first.pad_id,
            content["report"],
        )


def _list_of(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return pa.list_(pa.field("element", kind, nullable=False))


def read_about(path: Path) -> dict[str, Any]:
    """What `TokenizedCells.save` wrote into a Parquet file's metadata, with its number of cells as ``n_rows``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file; it may be cut off ({error})") from error
    about = (footer.metadata or {}).get(b"scfm")
    if about is None:
        raise ValueError(
            f"{path} is a Parquet file, but not of tokenized cells: it was not written by TokenizedCells.save"
        )
    return json.loads(about) | {"n_rows": footer.num_rows}


def cut_by_budget(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Positions 0..n-1, the longest first, in runs of at most ``max_tokens`` tokens together; one cell at least in each."""
    order = np.argsort(-lengths, kind="stable")
    runs: list[list[int]] = [[]]
    filled = 0
    for i, n in zip(order.tolist(), lengths[order].tolist(), strict=True):
        if runs[-1] and filled + n > max_tokens:
            runs.append([])
            filled = 0
        runs[-1].append(i)
        filled += n
    return [np.array(run) for run in runs if run]
