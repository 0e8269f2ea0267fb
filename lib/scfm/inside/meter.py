"""What did it cost? Seconds, peak memory, and energy where the machine tells it."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")


@dataclass
class Cost:
    """seconds of wall time, peak memory in bytes (of the process; of the GPU where one was used), joules or None."""

    seconds: float = 0.0
    peak_memory: int = 0
    peak_memory_gpu: int | None = None
    joules: float | None = None
    joules_from: str = ""


class Meter:
    """``with Meter(device) as meter: ...`` and then ``meter.cost``."""

    def __init__(self, device: Any = "cpu") -> None:
        self.device = str(device)
        self.cost = Cost()

    def __enter__(self) -> Meter:
        import torch

        _forget_peak()
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self.device)
        self._energy = _energy_counters(self.device)
        self._start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        self.cost.seconds = time.monotonic() - self._start
        self.cost.peak_memory = peak_memory()
        if self.device.startswith("cuda"):
            self.cost.peak_memory_gpu = torch.cuda.max_memory_allocated(self.device)
        self.cost.joules, self.cost.joules_from = _joules(self._energy, _energy_counters(self.device))


# --- memory ---------------------------------------------------------------------------------------------


def _forget_peak() -> None:
    """Linux keeps the largest memory since the process began; writing 5 here makes it count from now."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return


def peak_memory() -> int:
    """Largest resident memory of this process in bytes: on Linux since the meter began, elsewhere since the process did."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if platform.system() == "Darwin" else used * 1024
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().rss


# --- energy ---------------------------------------------------------------------------------------------


def _energy_counters(device: str) -> dict[str, tuple[int, int]]:
    """Counter → (microjoules so far, the value at which it starts again at 0): the processors' RAPL, the GPU's own."""
    found: dict[str, tuple[int, int]] = {}
    for zone in sorted(POWERCAP.glob("intel-rapl:*")) if POWERCAP.is_dir() else []:
        if zone.name.count(":") != 1:
            continue  # a part of a package is contained in the package
        try:
            wraps = int((zone / "max_energy_range_uj").read_text(encoding="utf-8"))
            found[f"RAPL {zone.name}"] = (int((zone / "energy_uj").read_text(encoding="utf-8")), wraps)
        except OSError:
            continue  # readable by root only on many machines
    if device.startswith("cuda"):
        try:
            import pynvml
            import torch

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode())
            found["NVML"] = (int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * 1000, 0)
        except Exception:  # no NVML, or a GPU without the counter: then there is nothing to tell
            pass
    return found


def _joules(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> tuple[float | None, str]:
    shared = before.keys() & after.keys()
    if not shared:
        return None, "this machine shows no energy counter (RAPL in /sys/class/powercap, or NVML)"
    total = 0
    for name in shared:
        used, wraps = after[name][0] - before[name][0], after[name][1]
        total += used + wraps if used < 0 else used
    return total / 1e6, ", ".join(sorted(shared))


def machine(device: Any = "cpu") -> str:
    """One line about the hardware: processor, cores in use, GPU, torch."""
    import torch

    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    gpu = f", {torch.cuda.get_device_name(device)}" if str(device).startswith("cuda") else ""
    return f"{name}, {torch.get_num_threads()} threads{gpu}, {platform.system()}, torch {torch.__version__}"
