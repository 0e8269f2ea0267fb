"""Runs as a person starts them: real kernels, wrong parameters, a failing lesson, Ctrl-C, a result that changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from offline import outside_references
from tiny_course import make_course

from coursekit.__main__ import main
from coursekit.course import CourseError, lessons
from coursekit.lesson.notebook import parse
from coursekit.lesson.params import accept, from_words, parameters_of
from coursekit.machine import facts
from coursekit.run import card as cards
from coursekit.run import courserun
from coursekit.run.courserun import run_all
from coursekit.run.execute import THREADS, Run, _environment, run
from coursekit.run.page import write_page
from coursekit.run.verify import changes, verify


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_course(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def passed(root: Path) -> Run:
    return run(lessons(root)[0], {"seed": 3}, threads=1)


def command(root: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "coursekit", "--root", str(root), *words]


def test_card_of_a_run(passed: Run) -> None:
    card = cards.read(passed.folder)
    assert card == passed.card
    assert passed.passed
    assert card["parameters"] == {
        "profile": "quick", "dataset": "tiny", "seed": 3, "n_cells": None, "share": 0.5, "mode": "well",
    }  # fmt: skip
    assert card["seed"] == 3
    assert card["results"]["double"] == {"value": 6.0, "tolerance": 0.1, "key": True}
    assert card["results"]["counts"]["value"] == {"cells": 3, "nothing": "NaN"}
    assert card["exercises"] == [{"number": "01.1", "passed": True, "open": False}]
    assert card["used"] == [{"kind": "dataset", "name": "tiny", "sha256": "ab" * 32}]
    assert card["peak_memory_bytes"] > 20 * 2**20  # no Python with a kernel is smaller
    assert all(cell["seconds"] >= 0 and cell["status"] == "completed" for cell in card["cells"])
    assert card["python"] == sys.version.split()[0]
    assert card["device"]["cpu"]
    assert card["device"]["cores"] >= 1
    assert card["packages"]["papermill"]


def test_page_needs_nothing_from_outside(passed: Run) -> None:
    page = (passed.folder / "notebook.html").read_text()
    assert "Is two more than one?" in page
    assert outside_references(page) == []
    assert outside_references("require(['https://cdn.example/embed-amd.js'])") != []
    assert outside_references('<script src="https://cdn.example/x.js"></script>') != []
    assert outside_references("@import url('https://fonts.example/x.css')") != []


def test_page_leaves_finished_progress_bars_out(tmp_path: Path) -> None:
    view = "application/vnd.jupyter.widget-view+json"
    bar = nbformat.v4.new_output("display_data", {view: {"model_id": "m", "version_major": 2}, "text/plain": "0%| |"})
    cell = nbformat.v4.new_code_cell("work()", outputs=[bar])
    state = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2, "version_minor": 0}}
    write_page(tmp_path / "page.html", nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": state}), "bars")
    page = (tmp_path / "page.html").read_text()
    assert "work" in page
    assert "0%|" not in page
    assert outside_references(page) == []
    assert len(cell["outputs"]) == 1  # the notebook itself keeps them


def test_wrong_parameters_are_named_before_anything_runs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = list((root / "runs").rglob("*")) if (root / "runs").exists() else []
    for words, expected in [
        (["-p", "sed=3"], "no parameter 'sed'. Did you mean 'seed'?"),
        (["-p", "seed=three"], "seed is int, and 'three' is str"),
        (["-p", "profile=huge"], "one of quick, cpu, gpu, not 'huge'"),
        (["-p", "seed"], "name=value"),
    ]:
        assert main(["--root", str(root), "run", "01", *words]) == 2
        said = capsys.readouterr().err
        assert expected in said
        if expected != "name=value":
            assert "share (float; default 0.5)" in said
    assert (list((root / "runs").rglob("*")) if (root / "runs").exists() else []) == before


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("seed=7", 7),
        ("share=1", 1.0),
        ("n_cells=None", None),
        ("n_cells=20", 20),
        ("dataset=a=b", "a=b"),
        ("dataset=3", "3"),
    ],
)
def test_words_become_values_of_the_parameters_type(root: Path, word: str, value: object) -> None:
    known = parameters_of(parse(lessons(root)[0].source.read_text()))
    (got,) = accept(known, from_words(known, [word])).values()
    assert got == value
    assert type(got) is type(value)


def test_types_that_do_not_fit() -> None:
    known = parameters_of(parse('# %% tags=["parameters"]\nflag = False\nsizes = [1, 2]\nn = 1\nfree = None\n'))
    assert accept(known, from_words(known, ["flag=yes", "sizes=[3]", "n=2", "free=[1, 2]"])) == {
        "flag": True, "sizes": [3], "n": 2, "free": [1, 2],
    }  # fmt: skip
    for name, value in (("flag", 1), ("n", True), ("n", 1.5), ("sizes", "x")):
        with pytest.raises(CourseError, match=f"The parameter {name} is"):
            accept(known, {name: value})


def test_a_failed_lesson_keeps_notebook_and_traceback(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(root), "run", "01", "-p", "mode=fail", "--runs", str(tmp_path)]) == 1
    assert "ValueError: asked to fail" in capsys.readouterr().err
    (folder,) = (tmp_path / "01_tiny").iterdir()
    card = cards.read(folder)
    assert card["status"] == "failed"
    assert card["error"] == "ValueError: asked to fail"
    assert card["results"]["double"]["value"] == 0.0  # what was recorded before the failure
    assert [cell["status"] for cell in card["cells"]].count("failed") == 1
    assert "ValueError: asked to fail" in (folder / "traceback.txt").read_text()
    assert "asked to fail" in (folder / "notebook.ipynb").read_text()
    with pytest.raises(CourseError, match="failed, so there is nothing to compare"):
        verify(root, folder)


def test_a_name_recorded_twice_fails_the_lesson(root: Path, tmp_path: Path) -> None:
    done = run(lessons(root)[0], {"mode": "twice"}, folder=tmp_path)
    assert not done.passed
    assert "recorded before in this run" in done.card["error"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("many", [False, True])
def test_a_stopped_run_leaves_no_card_and_no_kernel(root: Path, tmp_path: Path, number: int, many: bool) -> None:
    verb = "course" if many else "run"
    child = subprocess.Popen(
        command(root, verb, "01", "-p", "mode=slow", "--runs", str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # tests that run in the background or under nohup inherit that signals are ignored; a person at a terminal does not
        preexec_fn=lambda: [signal.signal(one, signal.SIG_DFL) for one in (signal.SIGINT, signal.SIGHUP)],
    )
    kernels: list[psutil.Process] = []
    deadline = time.monotonic() + 120
    while not (kernels and list(tmp_path.rglob("notebook.ipynb"))) and time.monotonic() < deadline:
        assert child.poll() is None, child.communicate()
        time.sleep(0.2)
        kernels = [p for p in psutil.Process(child.pid).children(recursive=True) if _is_kernel(p)]
    assert kernels
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "what was finished is kept" in said
    _, alive = psutil.wait_procs(kernels, timeout=20)
    assert alive == []
    assert list(tmp_path.rglob("card.json")) == []
    assert list(tmp_path.rglob("*.tmp")) == []
    for path in tmp_path.rglob("*.ipynb"):
        json.loads(path.read_text())


def _is_kernel(process: psutil.Process) -> bool:
    try:
        return "ipykernel_launcher" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def test_verify_agrees_and_then_differs(
    root: Path, passed: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = str(passed.folder / "card.json")
    assert main(["--root", str(root), "verify", card]) == 0
    assert "All results agree." in capsys.readouterr().out
    monkeypatch.setenv("TINY_DRIFT", "1.001")
    assert main(["--root", str(root), "verify", card]) == 1
    said = capsys.readouterr().out
    assert "expected 1, came 1.001" in said
    assert "Some results differ." in said
    assert [line.split()[-1] for line in said.splitlines() if line.startswith(("double", "drift", "counts"))] == [
        "same",
        "DIFFERS",
        "same",
    ]


def test_verify_warns_about_other_code_data_and_machine(passed: Run) -> None:
    old: dict[str, Any] = json.loads(json.dumps(passed.card))
    assert changes(passed.card, passed.card) == []
    old["git"] = {"commit": "aaa", "dirty": True}
    old["lock_sha256"] = "bbb"
    old["used"][0]["sha256"] = "ccc"
    old["device"]["cpu"] = "abacus"
    found = "\n".join(changes(old, passed.card))
    for words in (
        "uncommitted changes then",
        "commit differs",
        "lock differs",
        "the dataset tiny is not the same",
        "abacus",
    ):
        assert words in found


def test_course_runs_all_and_fails_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_course(tmp_path)
    source = root / "notebooks" / "source"
    text = (source / "01_tiny.py").read_text()
    (source / "00_broken.py").write_text(text.replace('mode = "well"', 'mode = "fail"').replace("01", "00"))
    assert main(["--root", str(root), "course", "--jobs", "2"]) == 1
    said = capsys.readouterr().out
    assert "1 of 2 lessons ran. Failed: 00_broken" in said
    assert "FAILED" in said
    assert "double = 0" in said
    assert "notebook.html" in said
    assert "traceback.txt" in said


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Lessons' processes run ``code`` instead of a lesson; ``commands`` are those that would have been started."""
    seen: dict[str, Any] = {"code": "", "commands": [], "made": []}
    real = subprocess.Popen

    def start(command: list[str], **more: Any) -> Any:
        seen["commands"].append(command)
        if seen["code"] is None:
            raise OSError("no more processes")
        seen["made"].append(real([sys.executable, "-c", seen["code"]], **more))
        return seen["made"][-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return seen


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.write(1, b'caf\\xff'); raise SystemExit(1)", "caf\ufffd"),  # codespell:ignore
        ("print('@progress [1, warning: 2]')", "@progress [1, warning: 2]"),
        ("print('@progress 3')", "@progress 3"),
        ("import sys; print('@folder', sys.prefix + '/none')", ""),
        (None, "OSError: no more processes"),
    ],
)
def test_no_lesson_is_lost_whatever_its_process_says(
    root: Path, children: dict[str, Any], code: str | None, words: str
) -> None:
    children["code"] = code
    lesson = lessons(root)[0]
    outcomes = run_all([lesson, lesson], [], jobs=2)
    assert [(outcome.lesson, outcome.card, outcome.words) for outcome in outcomes] == [(lesson, None, words)] * 2
    assert all(child.returncode is not None for child in children["made"])
    assert main(["--root", str(root), "course", "01"]) == 1


def test_a_card_that_cannot_be_read_is_a_failure_with_words(root: Path, children: dict, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{")
    children["code"] = f"print('@folder {tmp_path}')"
    (outcome,) = run_all(lessons(root), [])
    assert "is no run card" in outcome.words


def test_threads_are_those_that_were_asked_for(
    root: Path, children: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = lessons(root) * 2
    for name in THREADS:
        monkeypatch.setenv(name, "7")
    monkeypatch.setattr(courserun, "cores", lambda: 8)
    run_all(two, [], jobs=2)
    run_all(two, ["--threads", "3"], jobs=2)
    monkeypatch.delenv("OMP_NUM_THREADS")
    run_all(two, ["--threads", "3"], jobs=2)
    run_all(two, [], jobs=2)
    asked = [command[command.index("--threads") + 1 :] for command in children["commands"] if "--threads" in command]
    assert [words[0] for words in asked] == ["3"] * 4 + ["4"] * 2
    assert all("--threads" not in words for words in asked)
    env = _environment(root, tmp_path / "trail", 2, tmp_path)
    assert {name: env[name] for name in THREADS} == dict.fromkeys(THREADS, "2")
    assert _environment(root, tmp_path / "trail", None, tmp_path)["MKL_NUM_THREADS"] == "7"


def test_learner_edition_runs_with_open_exercises(root: Path, tmp_path: Path) -> None:
    done = run(lessons(root)[0], edition="learner", folder=tmp_path)
    assert done.passed
    assert done.card["exercises"] == [{"number": "01.1", "passed": False, "open": True}]


def test_a_checkout_of_another_user_has_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    commit = facts.git_state(tmp_path)["commit"]
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to test it
    refused = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True)
    assert "dubious ownership" in refused.stderr
    assert facts.git_state(tmp_path) == {"commit": commit, "dirty": False}


def test_git_state_and_cards_that_are_none(tmp_path: Path) -> None:
    assert facts.git_state(tmp_path) == {"commit": None, "dirty": None}
    env = dict(
        os.environ, GIT_AUTHOR_NAME="a", GIT_AUTHOR_EMAIL="a@b", GIT_COMMITTER_NAME="a", GIT_COMMITTER_EMAIL="a@b"
    )
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, env=env)
    assert facts.git_state(tmp_path)["dirty"] is False
    (tmp_path / "card.json").write_text("{")
    assert facts.git_state(tmp_path)["dirty"] is True
    (tmp_path / "course-main").mkdir()  # an archive unpacked inside another repository
    assert facts.git_state(tmp_path / "course-main") == {"commit": None, "dirty": None}
    with pytest.raises(CourseError, match="is no run card"):
        cards.read(tmp_path)
    with pytest.raises(CourseError, match="no run card at"):
        cards.read(tmp_path / "elsewhere.json")
