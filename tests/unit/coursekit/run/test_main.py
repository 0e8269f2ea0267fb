"""The command line's last words: a sentence for what a person can put right, a traceback for a fault of ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_course import make_course

from coursekit import commands
from coursekit.__main__ import _terminate_as_interrupt, main


def log_normalized(path: Path) -> None:
    import anndata

    anndata.AnnData(np.random.default_rng(0).random((30, 20), dtype=np.float32)).write_h5ad(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["atlas", "notes.txt"], "notes.txt"),
        (["atlas", "lost.h5ad"], "no file lost.h5ad"),
        (["new", "dataset", "x", "normalized.h5ad"], "counts"),
        (["new", "dataset", "x", "lost.h5ad"], "lost.h5ad"),
        (["gain", "a.csv", "b.csv"], "No such file or directory: "),
    ],
)
def test_what_a_person_can_put_right_is_one_sentence(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_course(tmp_path / "course")
    monkeypatch.chdir(tmp_path)
    (root / "data").mkdir()
    (root / "data" / "datasets.toml").write_text("")
    Path("notes.txt").write_text("no cells")
    log_normalized(Path("normalized.h5ad"))
    assert main(["--root", str(root), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("coursekit: ")
    assert said in error
    assert "Traceback" not in error


def test_a_fault_of_ours_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(commands.COMMANDS, "table", (lambda *_: {}["lost"], "", ()))
    with pytest.raises(KeyError):
        main(["--root", str(make_course(tmp_path)), "table"])


def test_a_terminal_that_knows_no_tick(tmp_path: Path) -> None:
    root = make_course(tmp_path)
    env = dict(os.environ, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    command = [sys.executable, "-m", "coursekit", "--root", str(root), "progress"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "? 01.1" in done.stdout


def test_a_closed_terminal_stops_a_command_and_nohup_does_not() -> None:
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    before = signal.getsignal(signal.SIGHUP)
    with pytest.raises(KeyboardInterrupt), _terminate_as_interrupt():
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _terminate_as_interrupt():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, inherited)
