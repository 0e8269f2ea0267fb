"""papermill's engine with three things added: it watches the kernel's memory, saves whole files only, and dies well."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.log import logger

from .course import atomic_write

NAME = "coursekit"
SAVE_EVERY = 10.0  # seconds; the notebook of a killed run is at most this old


class MemoryWatch:
    """Peak resident memory in bytes of a process and all its children, sampled in a thread."""

    def __init__(self, pid: int, every: float = 0.05) -> None:
        self.pid, self.every, self.peak = pid, every, 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Stop watching; returns the peak."""
        self._done.set()
        self._thread.join()
        return self.peak

    def _watch(self) -> None:
        import psutil

        while True:
            with contextlib.suppress(psutil.Error):
                root = psutil.Process(self.pid)
                total = 0
                for process in (root, *root.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        total += process.memory_info().rss
                self.peak = max(self.peak, total, self._high_water())
            if self._done.wait(self.every):
                return

    def _high_water(self) -> int:
        """The kernel process's own peak as Linux keeps it: catches what falls between two samples."""
        try:
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        return 0


class Watch:
    """What a run leaves behind, also when it ends badly: the notebook so far, peak memory, whether it was stopped."""

    def __init__(self, save_to: Path, progress: Callable[[int, int], None] | None = None) -> None:
        self.save_to = save_to
        self.progress = progress
        self.notebook: Any = None
        self.peak_memory = 0  # bytes
        self.stopped = False


class _Client(PapermillNotebookClient):
    """Executes the cells; Ctrl-C and SIGTERM kill the kernel with its children instead of waiting for it."""

    def __init__(self, nb_man: Any, watch: Watch, **kw: Any) -> None:
        super().__init__(nb_man, **kw)
        self.watch = watch
        self.memory: MemoryWatch | None = None

    async def async_start_new_kernel(self, **kwargs: Any) -> None:
        """Start the kernel, watch its memory, and put our signal handlers over nbclient's (which wait for the cell)."""
        with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):  # not in the main thread
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._stop)
        await super().async_start_new_kernel(**kwargs)
        pid = self._kernel()
        if pid:
            self.memory = MemoryWatch(pid)
        if self.watch.stopped:  # asked to stop while the kernel was starting
            self._stop()

    def _kernel(self) -> int | None:
        return getattr(getattr(self.km, "provisioner", None), "pid", None)

    def _stop(self) -> None:
        import psutil

        self.watch.stopped = True
        with contextlib.suppress(psutil.Error, ValueError, TypeError):
            kernel = psutil.Process(self._kernel() or -1)
            for process in (*kernel.children(recursive=True), kernel):
                with contextlib.suppress(psutil.Error):
                    process.kill()


class _Engine(NBClientEngine):
    """Registered under ``NAME``; takes the keyword ``watch`` and ``env`` (the kernel's environment)."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, watch: Watch | None = None, env: Any = None, **kw: Any
    ) -> None:  # type: ignore[override]
        assert watch is not None
        _whole_files(nb_man, watch)
        client = _Client(
            nb_man,
            watch,
            kernel_name=kernel_name,
            log=logger,
            startup_timeout=kw.get("start_timeout", 120),
            timeout=None,
            shutdown_kernel="immediate",
        )
        try:
            client.execute(env=env)
        except Exception:
            if not watch.stopped:
                raise
        finally:
            if client.memory:
                watch.peak_memory = client.memory.stop()
        if watch.stopped:
            raise KeyboardInterrupt


def _whole_files(nb_man: Any, watch: Watch) -> None:
    """Save through a temporary name, and not after each of a hundred quick cells; report progress per cell."""
    watch.notebook = nb_man.nb
    last = 0.0
    complete = nb_man.cell_complete

    def save(force: bool = False, **_: Any) -> None:
        nonlocal last
        if force or time.monotonic() - last > SAVE_EVERY:
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

    with atomic_write(path) as handle:
        handle.write(nbformat.writes(notebook))


papermill_engines.register(NAME, _Engine)
