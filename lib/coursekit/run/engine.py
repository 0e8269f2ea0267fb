"""papermill's engine with three things added: it watches the kernel's memory, saves whole files only, and dies well."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.log import logger

from coursekit.files import write_text

NAME = "coursekit"
SAVE_EVERY = 10.0  # seconds; the notebook of a killed run is at most this old


class KernelWatch:
    """Samples, in a thread, the resident memory of a process and all its children; remembers them, to end them."""

    def __init__(self, pid: int, every: float = 0.05) -> None:
        self.every, self.peak = every, 0  # seconds, bytes
        self._root = psutil.Process(pid)
        self._seen: set[Any] = {self._root}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Stop watching and end what is left of the process and its children; returns the peak in bytes."""
        self._done.set()
        self._thread.join()
        for process in self._seen:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return self.peak

    def _watch(self) -> None:
        while True:
            total = 0
            with contextlib.suppress(psutil.Error):
                self._seen.update(self._root.children(recursive=True))
            for process in list(self._seen):
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    self._seen.discard(process)
            self.peak = max(self.peak, total, self._high_water())
            if self._done.wait(self.every):
                return

    def _high_water(self) -> int:
        """The kernel process's own peak as Linux keeps it: catches what falls between two samples."""
        try:
            for line in Path(f"/proc/{self._root.pid}/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        return 0


class Watch:
    """What a run leaves behind, also when it ends badly: the notebook so far and the peak memory in bytes."""

    def __init__(self, save_to: Path, progress: Callable[[int, int], None] | None = None) -> None:
        self.save_to = save_to
        self.progress = progress
        self.notebook: Any = None
        self.peak_memory = 0


class _Client(PapermillNotebookClient):
    """Executes the cells under a KernelWatch; however it ends, nothing of the kernel is left running."""

    kernel: KernelWatch | None = None

    def start_new_kernel(self, **kwargs: Any) -> None:
        """Start the kernel and watch it."""
        super().start_new_kernel(**kwargs)
        pid = self._pid()
        self.kernel = KernelWatch(pid) if pid else None

    def execute(self, **kwargs: Any) -> Any:
        """Execute all cells; see PapermillNotebookClient."""
        try:
            return super().execute(**kwargs)
        except BaseException:
            pid = self._pid()
            if self.kernel is None and pid:  # stopped while the kernel was starting
                KernelWatch(pid).stop()
            raise
        finally:
            if self.kernel:
                self.kernel.stop()

    def _pid(self) -> int | None:
        return getattr(getattr(self.km, "provisioner", None), "pid", None)


class _Engine(NBClientEngine):
    """Registered under ``NAME``; takes the keywords ``watch`` and ``env`` (the kernel's environment)."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kw: Any) -> None:
        watch: Watch = kw["watch"]
        _whole_files(nb_man, watch)
        client = _Client(
            nb_man,
            kernel_name=kernel_name,
            log=logger,
            startup_timeout=kw["start_timeout"],
            timeout=None,
            shutdown_kernel="immediate",
            extra_arguments=["--log-level=40"],  # errors only: the kernel greets with a warning about TCP
        )
        try:
            client.execute(env=kw["env"])
        finally:
            if client.kernel:
                watch.peak_memory = client.kernel.peak


def _whole_files(nb_man: Any, watch: Watch) -> None:
    """Save through a temporary name, and not after each of a hundred quick cells; report progress per cell."""
    watch.notebook = nb_man.nb
    last = 0.0
    complete = nb_man.cell_complete

    def save(**_: Any) -> None:
        nonlocal last
        if time.monotonic() - last > SAVE_EVERY:
            write_notebook(watch.save_to, nb_man.nb)
            last = time.monotonic()

    def cell_complete(cell: Any, cell_index: int = 0, **kw: Any) -> None:
        complete(cell, cell_index=cell_index, **kw)
        if watch.progress:
            watch.progress(cell_index + 1, len(nb_man.nb.cells))

    nb_man.save, nb_man.cell_complete = save, cell_complete


def write_notebook(path: Path, notebook: Any) -> None:
    """Write an executed notebook under its name only when it is complete."""
    import nbformat

    write_text(path, nbformat.writes(notebook))


papermill_engines.register(NAME, _Engine)
