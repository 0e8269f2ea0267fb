"""Values as files that bear their SHA-256 as their name: equal ones are stored once, changed ones are refused.

A pickle of protocol 5 holds the small parts; the memory of arrays and tensors lies beside it as pieces of their own. Thus
ten checkpoints of one lesson hold its network once.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import pickle
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coursekit.course import CourseError
from coursekit.files import atomic_write

CAPTURING = "transformers.utils.output_capturing"
LARGE = 1 << 16  # bytes from which a buffer is a piece of its own


def place(folder: Path, name: str) -> Path:
    """Where a piece lies."""
    return folder / "objects" / name[:2] / name


def digest(content: bytes | bytearray | memoryview) -> str:
    """The SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def put(folder: Path, content: bytes | memoryview) -> str:
    """Store bytes once under their SHA-256; returns it. A piece that has changed since is written anew."""
    name = digest(content)
    path = place(folder, name)
    if not (path.is_file() and digest(path.read_bytes()) == name):
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    return name


def take(folder: Path, name: str) -> bytearray:
    """A stored piece. Raises CourseError where it is missing or where its bytes have changed."""
    path = place(folder, name)
    try:
        content = bytearray(path.read_bytes())
    except OSError as error:
        raise CourseError(
            f"A piece of this checkpoint is missing ({path.name[:12]}…). Make it anew: make checkpoints"
        ) from error
    if digest(content) != name:
        raise CourseError(
            f"A piece of this checkpoint has changed since it was stored ({path.name[:12]}…: its SHA-256 is not its name). "
            "Nothing of it was used. Make it anew: make checkpoints"
        )
    return content


def _tensor(values: Any, dtype: str, shape: tuple[int, ...], requires_grad: bool) -> Any:
    import torch

    return torch.from_numpy(values).view(getattr(torch, dtype)).reshape(shape).requires_grad_(requires_grad)


def _of_module(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def pickler(stream: Any, keep: Any = None) -> Any:
    """A pickler of protocol 5 that also knows lambdas (cloudpickle) and hands the memory of tensors to ``keep`` as buffers.

    What transformers keeps once for all networks (the hooks that a network gets when its hidden states are first asked for look
    into it) goes as its name: the hooks would look into a copy in vain, and it cannot be copied.
    """
    import cloudpickle

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            torch = sys.modules.get("torch")
            if torch is not None and type(obj) is torch.Tensor and obj.device.type == "cpu" and not obj.is_sparse:
                values = obj.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
                dtype = str(obj.dtype).removeprefix("torch.")
                return _tensor, (values, dtype, tuple(obj.shape), bool(obj.requires_grad))
            if type(obj).__module__ == CAPTURING:
                for name, value in vars(sys.modules[CAPTURING]).items():
                    if value is obj:
                        return _of_module, (CAPTURING, name)
            return super().reducer_override(obj)

    return Pickler(stream, protocol=5, buffer_callback=keep)


def freeze(values: dict[str, Any], folder: Path, **more: Any) -> tuple[str, list[str], dict[str, str]]:
    """Store ``values`` (and ``more`` beside them) as pieces: (the pickle's name, its buffers' names, what could not be kept → why).

    What is shared between values (a network that two of them hold) is shared again when they come back.
    """
    left_out = {}
    for name, value in values.items():
        reason = _refused(value)
        if reason:
            left_out[name] = reason
    kept = {name: value for name, value in values.items() if name not in left_out}
    buffers: list[str] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < LARGE:
            return True  # into the pickle itself
        buffers.append(put(folder, raw))
        return False

    stream = io.BytesIO()
    pickler(stream, keep).dump({"names": kept, **more})
    return put(folder, stream.getbuffer()), buffers, left_out


def _refused(value: Any) -> str:
    """Why a value cannot be kept; "" where it can."""
    if _is_figure(value) or (
        getattr(getattr(value, "dtype", None), "kind", "") == "O" and any(map(_is_figure, getattr(value, "flat", ())))
    ):
        return "a figure"
    try:
        pickler(io.BytesIO(), lambda buffer: False).dump(value)
    except Exception as error:  # whatever an object's own __reduce__ may raise
        return f"{type(value).__name__}: {(str(error) or type(error).__name__).splitlines()[0]}"[:200]
    return ""


def _is_figure(value: Any) -> bool:
    return type(value).__module__.startswith("matplotlib.")


def thaw(folder: Path, stream: str, buffers: Iterable[str]) -> dict[str, Any]:
    """{"names": the values, and what was stored beside them}, each piece verified. Raises CourseError where one is missing or has changed."""
    pieces = [take(folder, name) for name in buffers]
    content = take(folder, stream)  # all are verified before the first of them is used
    return dict(pickle.loads(content, buffers=pieces))
