"""Training that is killed, or runs into a full disk, goes on from its last checkpoint to the same numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_task
import torch

import scfm
from scfm.adaptation import loop
from scfm.inside import meter

SETTINGS = {"epochs": 12, "minibatch": 10, "learning_rate": 1e-3, "dtype": "float32", "checkpoint_every": 5}
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, scfm, tiny_task, torch
torch.set_num_threads(1)
cells, types = tiny_task.cells(n_cells=100)
fit = scfm.adapt(tiny_task.model(), cells, types, sys.argv[2], work=sys.argv[3], progress=False, validation=0.2, patience=None,
                 **{settings})
np.save(sys.argv[4], fit.predict_proba(cells, progress=False))
print(fit.report.resumed_from, fit.report.steps, fit.report.best_step)
"""


def start(method: str, work: Path, out: Path) -> subprocess.Popen:
    program = PROGRAM.replace("{settings}", repr(SETTINGS))
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        program,
        str(Path(__file__).resolve().parents[4] / "tests" / "helpers"),
        method,
        str(work),
        str(out),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_a_killed_run_ends_at_the_numbers_of_an_undisturbed_one(tmp_path: Path) -> None:
    method = "full"
    killed = start(method, tmp_path / "b", tmp_path / "b.npy")
    for _ in range(1200):
        if (tmp_path / "b" / "checkpoint.pt").exists() or killed.poll() is not None:
            break
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (tmp_path / "b.npy").exists()
    again = start(method, tmp_path / "b", tmp_path / "b.npy")
    said = again.communicate(timeout=300)[0].split()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other process
    cells, types = tiny_task.cells(n_cells=100)
    whole = scfm.adapt(
        tiny_task.model(), cells, types, method, progress=False, validation=0.2, patience=None, **SETTINGS
    )
    torch.set_num_threads(threads)
    assert 5 <= int(said[0]) < 96
    assert int(said[0]) % 5 == 0
    assert said[1:] == [str(whole.report.steps), str(whole.report.best_step)]
    expected = whole.predict_proba(cells, progress=False)
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), expected, atol=1e-5)
    leftovers = {p.name for p in (tmp_path / "b").iterdir()} - {"checkpoint.pt"}
    assert all(name.endswith(".part") for name in leftovers)  # a kill in the middle of writing leaves a temporary file


def fit(work: Path | None, method: str = "full", **more):
    cells, types = tiny_task.cells(n_cells=60)
    how = SETTINGS | {"epochs": 4} | more
    return scfm.adapt(tiny_task.model(), cells, types, method, work=work, progress=False, **how), cells


@pytest.mark.parametrize("method", ["lora", "partial", "full", "head"])
def test_every_stop_leads_to_the_same_weights(method: str, tmp_path: Path, monkeypatch) -> None:
    """Stopped by an error at some step, with gradual unfreezing and early stopping on: the sum of all that must be kept."""
    more = {"gradual": True, "layer_decay": 0.8} if method in ("partial", "full") else {}
    more |= {"head": "mlp"} if method == "head" else {}
    whole, cells = fit(None, method, **more)
    step, calls = loop._step, iter(range(1000))

    def breaks(*given):
        if next(calls) == 13:
            raise KeyboardInterrupt
        return step(*given)

    monkeypatch.setattr(loop, "_step", breaks)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, method, **more)
    monkeypatch.setattr(loop, "_step", step)
    resumed, _ = fit(tmp_path, method, **more)
    assert resumed.report.resumed_from == 10
    np.testing.assert_array_equal(
        resumed.predict_proba(cells, progress=False), whole.predict_proba(cells, progress=False)
    )
    without = [{k: v for k, v in row.items() if k != "seconds"} for row in whole.report.curve]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.report.curve] == without
    third, _ = fit(tmp_path, method, **more)  # a finished run is only read
    assert third.report.resumed_from == third.report.steps == whole.report.steps


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    fit(tmp_path)
    for other in ({"learning_rate": 2e-3}, {"method": "lora"}, {"seed": 1}):
        with pytest.raises(ValueError, match="belongs to a run with another model"):
            fit(tmp_path, **({"method": "full"} | other))
    cells, types = tiny_task.cells(n_cells=60)
    with pytest.raises(ValueError, match="Delete"):
        scfm.adapt(
            tiny_task.model(), cells, types[::-1], "full", work=tmp_path, progress=False, **SETTINGS | {"epochs": 4}
        )
    with pytest.raises(ValueError, match="Delete"):
        scfm.adapt(
            tiny_task.model(seed=1), cells, types, "full", work=tmp_path, progress=False, **SETTINGS | {"epochs": 4}
        )
    head = {"method": "head", "head": "mlp", "embeddings": np.eye(60, 16, dtype=np.float32)}
    fit(tmp_path / "head", **head)
    assert fit(tmp_path / "head", **head)[0].report.resumed_from > 0
    with pytest.raises(ValueError, match="Delete"):
        fit(tmp_path / "head", **head | {"embeddings": np.eye(60, 16, 1, dtype=np.float32)})
    fit(tmp_path, max_tokens=100, checkpoint_every=7)  # these change no number, so they may change


def test_a_full_disk_leaves_the_last_checkpoint_whole_and_training_goes_on(tmp_path: Path) -> None:
    """A real limit on the size of files stands for the full disk: the write fails in the middle."""
    program = """
import resource, signal, sys, warnings
sys.path.insert(0, sys.argv[1])
import pathlib, scfm, tiny_task, torch
from scfm.adaptation import loop
torch.set_num_threads(1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
cells, types = tiny_task.cells(n_cells=60)
work = pathlib.Path(sys.argv[2])
write, n = loop._write_checkpoint, iter(range(100))
def limited(*given):
    if next(n) == 2:  # from the third checkpoint on, nothing longer than 8 kB can be written
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
    write(*given)
loop._write_checkpoint = limited
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    fit = scfm.adapt(tiny_task.model(), cells, types, "full", work=work, progress=False, epochs=4, minibatch=10, checkpoint_every=5,
                     dtype="float32", validation=0)
print(fit.report.steps, len(fit.report.notes), sum("could not be written" in str(w.message) for w in said))
print(fit.report.notes[0])
print(sorted(p.name for p in work.iterdir()))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(Path(__file__).resolve().parents[4] / "tests" / "helpers"), str(tmp_path)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts, note, files = done.stdout.splitlines()
    assert counts == "24 3 3"  # checkpoints of steps 15, 20 and 24 failed
    assert note.startswith("step 15: ")
    assert files == "['checkpoint.pt']"
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert '"steps": 10' in state["run"]


# --- the price ------------------------------------------------------------------------------------------------


def test_the_report_tells_the_price(tmp_path: Path) -> None:
    found, _ = fit(None)
    report = found.report
    assert report.seconds > 0
    assert report.peak_memory > 50 * 2**20
    assert report.steps == 4 * -(-report.n_cells // 10)
    assert list(report.table()["step"]) == sorted(report.table()["step"])
    assert "trained" in str(report)
    assert f"{report.trained_parameters:,}" in str(report)
    assert (report.joules is None) == ("no energy counter" in report.joules_from)


def test_energy_is_the_difference_of_the_counters_also_when_they_wrap(tmp_path: Path, monkeypatch) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of the package: counted already
    (zone / "max_energy_range_uj").write_text("10000000\n")
    monkeypatch.setattr(meter, "POWERCAP", tmp_path)
    for before, after, joules in ((1_000_000, 4_500_000, 3.5), (9_000_000, 500_000, 1.5)):
        (zone / "energy_uj").write_text(str(before))
        with meter.Meter() as measured:
            (zone / "energy_uj").write_text(str(after))
        assert measured.cost.joules == pytest.approx(joules)
        assert measured.cost.joules_from == "RAPL intel-rapl:0"
    monkeypatch.setattr(meter, "POWERCAP", tmp_path / "none")
    with meter.Meter() as measured:
        pass
    assert measured.cost.joules is None
    assert "no energy counter" in measured.cost.joules_from


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(),
    reason="needs /proc/self/clear_refs: only Linux lets a process forget its peak",
)
def test_peak_memory_is_of_the_measured_part() -> None:
    big = np.ones(60_000_000)
    del big
    with meter.Meter() as small:
        pass
    with meter.Meter() as large:
        np.ones(40_000_000).sum()
    assert large.cost.peak_memory - small.cost.peak_memory > 250e6
