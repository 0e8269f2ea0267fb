"""Is this machine ready for the course? One line per question, and for each trouble the command that ends it.

Only the standard library is imported, so that it works when half of the packages are missing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coursekit.machine import facts

OK, WARN, FAIL = "OK", "WARN", "FAIL"
PYTHONS = ((3, 11), (3, 14))  # from, and below
NEED_DISK, NEED_MEMORY = 6, 4  # GiB: the environment with its caches; a quick lesson with room to spare
HUB = "https://huggingface.co"
GITHUB = "https://raw.githubusercontent.com"  # most sets are made from its files
SETUP = "make setup FORCE=1"


@dataclass(frozen=True)
class Finding:
    """One answer: ``level`` (OK, WARN, FAIL), ``words``, and the ``fix``, a command where there is one."""

    level: str
    words: str
    fix: str = ""

    def text(self) -> str:
        """The finding as it is printed."""
        tail = f"\n         -> {self.fix}" if self.fix else ""
        return f"{f'[{self.level}]':<7} {self.words}{tail}"


def examine(root: Path, network: bool = True) -> Iterator[Finding]:
    """All findings in order; a question that breaks is itself a warning, and the others are still asked."""
    for question in (
        _python,
        _packages,
        _disk,
        _memory,
        _cpu,
        _gpu,
        _caches,
        _course,
        *([_hub, _carriers] if network else []),
    ):
        try:
            yield from question(root)
        except Exception as error:
            about = question.__name__.strip("_")
            yield Finding(WARN, f"{about} could not be examined: {type(error).__name__}: {error}")


def _python(root: Path) -> Iterator[Finding]:
    low, high = PYTHONS
    version = platform.python_version()
    if low <= sys.version_info[:2] < high:
        yield Finding(OK, f"Python {version}")
    else:
        wanted = f"{low[0]}.{low[1]} to {high[0]}.{high[1] - 1}"
        fix = "make clean-env; make setup PYTHON=python3.12"
        yield Finding(FAIL, f"Python {version}; the course needs {wanted}", fix)
    if not _writes_pages():  # before 3.11.5, as on Debian 12, with a soupsieve of later ones (cpython 108004)
        words = f"this soupsieve does not work with Python {version}: a lesson would leave no page and no card"
        yield Finding(FAIL, words, f"{SETUP} (the lock has one that does)")
    if (platform.system(), platform.machine()) == ("Darwin", "x86_64"):
        words = "an Intel Mac (or an Intel Python): there is no PyTorch of the course's version for it"
        yield Finding(FAIL, words, "on Apple silicon a Python for arm64; else use Colab, Binder or a Linux machine")
    foreign = [word for word in os.environ.get("PYTHONPATH", "").split(os.pathsep) if word and not _within(word, root)]
    if foreign:
        words = f"PYTHONPATH is set ({_some(foreign)}): packages there go before the tested ones"
        yield Finding(WARN, words, "unset PYTHONPATH (a cluster's module may set it: module purge)")
    if sys.prefix == sys.base_prefix and not os.environ.get("CONDA_PREFIX"):
        yield Finding(WARN, "this Python is not in an environment of its own", "make setup, then: . .venv/bin/activate")


def _writes_pages() -> bool:
    """Whether a selector of nbconvert's can be read; True where soupsieve is not there, which is another finding."""
    try:
        import soupsieve

        soupsieve.compile("img:not([alt])")
    except ImportError:
        return True
    except Exception:
        return False
    return True


def _within(folder: str, root: Path) -> bool:
    return Path(folder).resolve().is_relative_to(root.resolve())


def _packages(root: Path) -> Iterator[Finding]:
    wanted = facts.locked(root)
    if not wanted:
        words = f"{facts.LOCK} is missing, so the tested versions are not known"
        yield Finding(FAIL, words, f"git checkout {facts.LOCK}")
        return
    here = facts.installed()
    missing = [name for name in wanted if name not in here]
    both = [(name, here[name], version) for name, version in wanted.items() if name in here]
    other = [f"{name} {own} (tested {version})" for name, own, version in both if own.split("+")[0] != version]
    if missing:
        yield Finding(FAIL, f"{len(missing)} packages are missing: {_some(missing)}", SETUP)
    if other:
        yield Finding(WARN, f"{len(other)} packages are not in the tested version: {_some(other)}", SETUP)
    if not missing and not other:
        yield Finding(OK, f"{len(wanted)} packages as in {facts.LOCK}")
    for name in ("scfm", "coursekit"):
        if importlib.util.find_spec(name) is None:
            yield Finding(FAIL, f"the course's own package {name} is not installed", SETUP)


def _disk(root: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(root).free / 2**30
    level = OK if free >= NEED_DISK else WARN
    fix = "" if level == OK else "make clean (the runs of lessons), pip cache purge, or set SCFM_CACHE to a larger disk"
    yield Finding(level, f"{free:.0f} GiB of disk are free (the environment and caches take up to {NEED_DISK})", fix)


def _memory(root: Path) -> Iterator[Finding]:
    total, free = _memory_gib()
    if total is None:
        yield Finding(WARN, "the size of the memory could not be read")
        return
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # a container's limit, which the machine's own size hides
            limit = int(Path(path).read_text(encoding="utf-8")) / 2**30
            total, free = (limit, min(free or limit, limit)) if limit < total else (total, free)
    words = f"{total:.0f} GiB of memory" + (f", {free:.0f} free" if free is not None else "")
    enough = (free if free is not None else total) >= NEED_MEMORY
    yield Finding(OK, words) if enough else Finding(WARN, words, "close other programs; make course JOBS=1")


def _memory_gib() -> tuple[float | None, float | None]:
    """All memory, and what is free of it."""
    info = Path("/proc/meminfo")
    if info.is_file():
        found = dict(re.findall(r"^(\w+):\s+(\d+) kB", info.read_text(encoding="utf-8"), re.M))
        return int(found["MemTotal"]) / 2**20, int(found["MemAvailable"]) / 2**20
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, None
    return None, None


def _cpu(root: Path) -> Iterator[Finding]:
    flags = _cpu_flags()
    named = {"AVX2": "avx2", "AVX512": "avx512f", "AVX512-BF16": "avx512_bf16", "AMX-BF16": "amx_bf16"}
    named |= {"NEON": "neon", "BF16": "bf16"}
    have = [name for name, flag in named.items() if flag in flags]
    words = f"{facts.cpu_name()}, {facts.cores()} cores; {', '.join(have) or 'no vector extensions found'}"
    slow = platform.machine().lower() in ("x86_64", "amd64") and flags and "avx2" not in flags
    slowly = Finding(WARN, f"{words}: without AVX2 everything is several times slower", "another machine")
    yield slowly if slow else Finding(OK, words)
    fast = {"amx_bf16", "avx512_bf16"} & flags  # what scfm.embed.choose_dtype asks for
    other = "embeddings use float32 (bfloat16 only with AMX or AVX512-BF16, and on GPUs that have it)"
    yield Finding(OK, "bfloat16 in hardware: embeddings use it" if fast else other)


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info.read_text(errors="replace", encoding="utf-8"), re.M)
        flags = set(match[1].split()) if match else set()
        return flags | ({"neon"} if "asimd" in flags else set())
    if platform.system() == "Darwin":
        said = facts.said(["sysctl", "-a"]) or ""
        arm = {"neon"} if platform.machine() == "arm64" else set()
        return arm | ({"bf16"} if "FEAT_BF16: 1" in said else set()) | ({"avx2"} if "AVX2" in said else set())
    return set()


def _gpu(root: Path) -> Iterator[Finding]:
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader"]
    rows = (facts.said(asked) or "").splitlines()
    if not rows:
        yield Finding(OK, "no NVIDIA GPU: profiles quick and cpu run here; gpu needs another machine")
        return
    for row in rows:
        yield Finding(OK, f"GPU {row.strip()} (name, memory, free)")
    if importlib.util.find_spec("torch") is None:
        return  # the missing package has been named above
    asked = [sys.executable, "-c", "import torch; print(torch.cuda.is_available(), torch.version.cuda)"]
    said = facts.said(asked, 120) or ""
    if said.startswith("True"):
        yield Finding(OK, f"PyTorch sees the GPU (CUDA {said.split()[-1]})")
    else:
        yield Finding(WARN, f"PyTorch does not see the GPU ({said or 'it was not asked'})", f"{SETUP} TORCH=default")


def _caches(root: Path) -> Iterator[Finding]:
    given = [word for word in os.environ.get("SCFM_CACHE", "").split(os.pathsep) if word]
    for word in given:
        there = Path(word).is_dir()
        words = f"SCFM_CACHE: {word}" + ("" if there else " is not there")
        yield Finding(OK if there else WARN, words, "" if there else "unset SCFM_CACHE, or create the folder")
    from scfm.store import cache  # of the standard library alone, like this module

    yield _writable("downloads", cache.downloads(), FAIL, "export SCFM_CACHE=<a folder that you can write to>")
    yield _writable("numba cache", Path(os.environ.get("NUMBA_CACHE_DIR", root / ".cache" / "numba")), FAIL)
    yield _writable("runs", root / "runs", FAIL)
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))  # the course's files do not go there
    yield _writable("Hugging Face cache", home, WARN)


def _writable(name: str, folder: Path, level: str, fix: str = "") -> Finding:
    """Whether a folder can be written, or made; ``level`` is for one that cannot."""
    at = folder
    while not at.exists():
        at = at.parent
    if os.access(at, os.W_OK):
        return Finding(OK, f"{name}: {folder}" + ("" if folder.exists() else " (will be created)"))
    return Finding(level, f"{name}: {folder} cannot be written", fix or f'chmod u+w "{at}"')


def _course(root: Path) -> Iterator[Finding]:
    count = len(list((root / "notebooks" / "source").glob("[0-9][0-9]_*.py")))
    none = Finding(FAIL, f"no lessons in {root}", "git checkout notebooks")
    yield Finding(OK, f"{count} lessons in {root}") if count else none


def _hub(root: Path) -> Iterator[Finding]:
    address = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        yield Finding(OK, "HF_HUB_OFFLINE is set: only the bundled and the cached models are used")
        return
    yield _reached(address, "quick needs no network", "export HF_HUB_OFFLINE=1 or HF_ENDPOINT=<a mirror>")


def _carriers(root: Path) -> Iterator[Finding]:
    address = (os.environ.get("SCFM_MIRROR") or GITHUB).rstrip("/")
    yield _reached(address, "quick needs none of its data", "export SCFM_MIRROR=<a mirror>; README, Data and models")


def _reached(address: str, without: str, fix: str) -> Finding:
    """Does a server answer, whatever it says?"""
    try:
        request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "coursekit-doctor"})
        with urllib.request.urlopen(request, timeout=8):
            pass
    except urllib.error.HTTPError as error:
        if error.code >= 500 and error.code != 501:  # 501: it does not know HEAD
            return Finding(WARN, f"{address} answers with error {error.code}; {without}", "try again later")
    except (OSError, ValueError) as error:
        return Finding(WARN, f"{address} cannot be reached ({getattr(error, 'reason', error)}); {without}", fix)
    return Finding(OK, f"{address} can be reached")


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
