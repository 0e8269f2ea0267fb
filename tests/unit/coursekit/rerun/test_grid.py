"""What a grid asks for, what makes a run current, and what one run leaves: all without Snakemake."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
from pathlib import Path

import pytest
import yaml
from scored_course import make_scored_course

from coursekit.course import CourseError, lessons
from coursekit.files import alone, file_hash
from coursekit.lesson.params import files_from
from coursekit.machine.facts import LOCK
from coursekit.rerun import grid, gridrun, watchdog
from coursekit.run import card as cards
from coursekit.run import runkey


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_scored_course(tmp_path / "course")


def plan_of(root: Path, text: str, words: tuple[str, ...] = (), name: str = "g") -> grid.Plan:
    file = root / f"{name}.yaml"
    file.write_text(text)
    return grid.plan(root, file, words)


def values(root: Path, **changed: object) -> dict[str, object]:
    known = {"profile": "quick", "dataset": "tiny", "seed": 0, "n_cells": None, "share": 0.5, "mode": "well"}
    return known | changed


def test_the_cheat_sheet_shows_every_key() -> None:
    text = (Path(__file__).parents[4] / "site" / "cheat-sheet.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1])  # type: ignore[index]
    assert set(shown) == grid.FIELDS


# --- the plan ---------------------------------------------------------------------------------------------


def test_every_combination_but_what_is_excluded(root: Path) -> None:
    text = """
lessons: ["01"]
datasets: [tiny, hard]
seeds: [0, 1, 2]
axes: {share: [0.25, 0.5]}
exclude: [{dataset: hard, seed: 2}]
parameters: {n_cells: 7}
"""
    found = plan_of(root, text)
    assert len(found.runs) == 2 * 3 * 2 - 2
    assert len({run.key for run in found.runs}) == len(found.runs)
    assert {run.parameters["n_cells"] for run in found.runs} == {7}
    assert not [run for run in found.runs if run.parameters["dataset"] == "hard" and run.parameters["seed"] == 2]
    assert set(found.titles().values()) >= {"tiny, seed 0, share 0.25", "hard, seed 1, share 0.5"}
    assert found.missing() == list(found.runs)
    assert gridrun.preview(found).endswith("10 runs: 0 current, 10 to run.")


def test_a_word_of_the_command_line_goes_before_the_grid(root: Path) -> None:
    found = plan_of(root, "lessons: ['01']\ndatasets: [tiny, hard]\nseeds: [0, 1]\n", ("dataset=other", "share=1"))
    assert [run.parameters["dataset"] for run in found.runs] == ["other", "other"]  # two points became one
    assert {run.parameters["share"] for run in found.runs} == {1.0}


def test_a_plan_is_read_as_it_was_written(root: Path) -> None:
    found = plan_of(root, "lessons: ['01']\nseeds: [0, 1]\nthreads: 2\nresources: {mem_mb: 100}\n")
    assert grid.Plan.read(found.write()) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds: [1]", "names no lessons"),
        ("lessons: ['01']\nseed: [1]", "unknown field seed"),
        ("lessons: ['01']\nseeds: 3", "seeds must be a list"),
        ("lessons: ['09']", "no lesson '09'"),
        ("lessons: ['01']\nparameters: {sed: 3}", "no parameter 'sed'. Did you mean 'seed'"),
        ("lessons: ['01']\nseeds: [one]", "The parameter seed is int"),
        ("lessons: ['01']\nmodels: [m]", "no parameter 'model'"),
        ("lessons: ['01']\ndatasets: [mine.h5ad]", "There is no file mine.h5ad"),
        ("lessons: ['01']\nseeds: [1]\nexclude: [{seed: 1}]", "leaves out all"),
        ("lessons: [", "no valid YAML"),
        ("lessons: '01'", "lessons must be a list"),
        ("lessons: ['01']\naxes: [1]", "axes must be name: list of values"),
        ("lessons: ['01']\naxes: {share: 5}", "axes must be name: list of values"),
        ("lessons: ['01']\naxes: {share: []}", "axes must be name: list of values"),
        ("lessons: ['01']\nparameters: [a]", "parameters must be name: value"),
        ("lessons: ['01']\nthreads: two", "threads must be a whole number"),
        ("lessons: ['01']\nresources: 5", "resources must be name: value"),
        ("lessons: ['01']\nexclude: ['04']", "exclude must be a list of rules"),
        ("lessons: ['01']\nexclude: [{1: 2}]", "exclude must be a list of rules"),
        ("lessons: ['01']\nexclude: [{sead: 1}]", "no lesson has the parameters of the rule .*sead"),
        ("lessons: ['01']\nexclude: [{lesson: 9}]", "no lesson '9'"),
        ("lessons: ['01']\nexclude: [{seed: one}]", "The parameter seed is int"),
    ],
)
def test_what_is_no_grid_is_refused_in_words(root: Path, text: str, words: str) -> None:
    with pytest.raises(CourseError, match=words):
        plan_of(root, text)


@pytest.mark.parametrize("lesson", ["1", "01", "'01'", "01_tiny"])
def test_a_rule_names_its_lesson_as_the_command_line_does(root: Path, lesson: str) -> None:
    found = plan_of(root, f"lessons: [1]\nseeds: [0, 1]\nexclude: [{{lesson: {lesson}, seed: 1}}]\n")
    assert [run.parameters["seed"] for run in found.runs] == [0]


@pytest.mark.parametrize("rule", ["share: 1", "share: '1.0'", "dataset: mine.h5ad", "share: 1.0, lesson: 1"])
def test_a_rule_is_read_in_the_types_of_the_lesson(root: Path, rule: str) -> None:
    (root / "mine.h5ad").write_bytes(b"cells")
    text = f"lessons: [1]\ndatasets: [mine.h5ad]\naxes: {{share: [1]}}\nexclude: [{{{rule}}}]\n"
    with pytest.raises(CourseError, match="leaves out all"):
        plan_of(root, text)


def test_a_field_with_nothing_behind_it_is_not_there(root: Path) -> None:
    assert len(plan_of(root, "lessons: [1]\nparameters:\naxes:\n").runs) == 1


def test_label_and_batch_are_left_out_where_a_lesson_has_no_use_for_them(root: Path) -> None:
    (root / "mine.h5ad").write_bytes(b"cells")
    found = plan_of(root, "lessons: ['01']\ndatasets: [{dataset: mine.h5ad, label: kind, batch: donor}]\n")
    assert found.notes == (
        "01_tiny has no parameter label; it runs without.", "01_tiny has no parameter batch; it runs without.",
    )  # fmt: skip
    assert "label" not in found.runs[0].parameters


# --- files of one's own -------------------------------------------------------------------------------------


def test_own_files_are_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    for name in ("data/mine.h5ad", "data/CD4+_cells.h5ad", "pbmc68k"):
        (tmp_path / name).write_text("x")
    (tmp_path / "my10x").mkdir()
    plus = str(tmp_path / "data" / "CD4+_cells.h5ad")
    full = str(tmp_path / "data" / "mine.h5ad")
    cases = {
        "data/mine.h5ad": full,
        full: full,
        "pbmc68k+data/mine.h5ad": f"pbmc68k+{full}",
        "kang": "kang",
        "pbmc68k": "pbmc68k",  # a name of the list, also where a file happens to be called so
        "my10x": str(tmp_path / "my10x"),
        "kang+my10x": f"kang+{tmp_path / 'my10x'}",
        "data/CD4+_cells.h5ad": plus,  # a + of its own
        "pbmc68k+data/CD4+_cells.h5ad+data/mine.h5ad": f"pbmc68k+{plus}+{full}",
        "": "",
    }
    for given, expected in cases.items():
        assert files_from({"dataset": given, "seed": 1}, tmp_path) == {"dataset": expected, "seed": 1}
    assert files_from({"model": "hub/name"}, tmp_path) == {"model": "hub/name"}  # a model of the hub has a slash too
    assert files_from({"model": "data/mine.h5ad"}, tmp_path) == {"model": full}
    assert files_from({"model": "my10x"}, tmp_path) == {"model": str(tmp_path / "my10x")}
    (tmp_path / "geneformer-mini").mkdir()
    for listed in ("geneformer-mini", "Geneformer_mini"):
        assert files_from({"model": listed}, tmp_path) == {"model": listed}
    assert files_from({"dataset": None}, tmp_path) == {"dataset": None}
    with pytest.raises(CourseError, match=r"no file data/lost.h5ad \(seen from"):
        files_from({"dataset": "data/lost.h5ad"}, tmp_path)


def test_a_grids_files_are_seen_from_the_grid_and_words_from_here(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a.h5ad").write_bytes(b"a")
    here = tmp_path / "here"
    here.mkdir()
    (here / "b.h5ad").write_bytes(b"b")
    monkeypatch.chdir(here)
    (of_grid,) = plan_of(root, "lessons: ['01']\ndatasets: [a.h5ad]\n").runs
    (of_words,) = plan_of(root, "lessons: ['01']\n", ("dataset=b.h5ad",)).runs
    assert of_grid.parameters["dataset"] == str(root / "a.h5ad")
    assert of_words.parameters["dataset"] == str(here / "b.h5ad")


# --- what makes a run current -------------------------------------------------------------------------------


def key(root: Path, **changed: object) -> str:
    runkey.content_hash.cache_clear()
    runkey._list.cache_clear()
    return runkey.key_of(lessons(root)[0], values(root, **changed))[0]


def test_the_key_is_made_of_files_that_are_there() -> None:
    kit = Path(runkey.__file__).parents[1]
    assert [name for name in runkey.MACHINERY if not (kit / name).is_file()] == []
    assert (kit.parents[1] / "data" / "genes.tsv.gz").is_file()


def test_the_key_follows_content(root: Path) -> None:
    lesson = lessons(root)[0]
    first = key(root)
    assert key(root) == first
    for path in (lesson.source, lesson.checks):  # a time of change says nothing
        os.utime(path, (1, 1))
    assert key(root) == first
    assert key(root, seed=1) != first
    assert key(root, dataset="other") != first
    (root / LOCK).write_text("numpy==2.0\n")
    locked = key(root)
    assert locked != first
    text = lesson.source.read_text()
    lesson.source.write_text(text.replace("2.0 * seed", "3.0 * seed"))
    changed = key(root)
    assert changed not in (first, locked)
    lesson.source.write_text(text)
    assert key(root) == locked  # back again is current again


def test_a_file_counts_by_its_bytes_wherever_it_lies(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.h5ad"
    file.write_bytes(b"one")
    first = key(root, dataset=str(file))
    moved = tmp_path / "elsewhere" / "mine.h5ad"
    moved.parent.mkdir()
    shutil.move(file, moved)
    assert key(root, dataset=str(moved)) == first
    moved.write_bytes(b"two")
    assert key(root, dataset=str(moved)) != first


def test_a_plus_in_a_files_name_hides_nothing_from_the_key(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "CD4+_cells.h5ad"
    file.write_bytes(b"one")
    for dataset in (str(file), f"tiny+{file}"):
        first = key(root, dataset=dataset)
        file.write_bytes(file.read_bytes() + b"more")
        assert key(root, dataset=dataset) != first


def test_a_listed_set_counts_by_its_entry_and_those_it_is_made_from(root: Path) -> None:
    (root / "data").mkdir()
    file = root / "data" / "datasets.toml"
    entry = "[{}]\nsha256 = '{}'\n{}\n"
    lists = [entry.format("tiny", "a", "of = 'base'"), entry.format("base", "b", ""), entry.format("stranger", "c", "")]
    file.write_text("".join(lists))
    first = key(root)
    file.write_text("".join(lists).replace("'c'", "'changed'"))
    assert key(root) == first
    file.write_text("".join(lists).replace("'b'", "'changed'"))
    assert key(root) != first


def test_a_set_that_the_lesson_names_counts_too(root: Path) -> None:
    (root / "data").mkdir()
    file = root / "data" / "datasets.toml"
    file.write_text("[numpy]\nsha256 = 'a'\n")  # the word stands in the lesson's source
    first = key(root)
    file.write_text("[numpy]\nsha256 = 'b'\n")
    assert key(root) != first


def test_stored_results_that_the_lesson_reads_count_and_no_others(root: Path) -> None:
    lesson = lessons(root)[0]
    lesson.source.write_text(lesson.source.read_text() + '# %%\nstored = "heads.parquet"\n')
    (root / "data" / "results").mkdir(parents=True)
    (root / "data" / "datasets.toml").write_text("")
    seen = [key(root, model="scgpt-mini")]
    for name in ("heads.parquet", "scgpt_mini.parquet"):  # the second by the name of the model
        for content in (b"one", b"two"):
            (root / "data" / "results" / name).write_bytes(content)
            seen.append(key(root, model="scgpt-mini"))
    assert len(set(seen)) == len(seen)
    (root / "data" / "results" / "moreheads.parquet").write_bytes(b"x")
    assert key(root, model="scgpt-mini") == seen[-1]


# --- one run ------------------------------------------------------------------------------------------------


def test_a_run_goes_to_its_place_whole_and_only_once(root: Path) -> None:
    found = plan_of(root, "lessons: ['01']\nseeds: [3]\n")
    (entry,) = found.runs
    file = found.write()
    assert grid.run_one(file, entry.key)
    place = entry.folder(found.store)
    assert {path.name for path in place.iterdir()} == {"card.json", "notebook.ipynb", "notebook.html", "scores.parquet"}
    card = cards.read(place)
    assert card["grid"] == {"key": entry.key, "parts": entry.parts}
    assert card["scores"] == file_hash(place / "scores.parquet")
    assert card["results"]["double"]["value"] == 6.0
    assert list((found.folder / "scratch").iterdir()) == []
    before = (place / "card.json").stat().st_mtime_ns
    assert grid.run_one(file, entry.key)
    assert (place / "card.json").stat().st_mtime_ns == before
    with pytest.raises(CourseError, match="has no run nothing"):
        grid.run_one(file, "nothing")


def test_a_failed_run_has_no_card_and_the_next_attempt_clears_it(root: Path) -> None:
    found = plan_of(root, "lessons: ['01']\nparameters: {mode: fail}\n")
    (entry,) = found.runs
    assert not grid.run_one(found.write(), entry.key)
    place = entry.folder(found.store)
    assert (place / grid.FAILED).is_file()
    assert "asked to fail" in (place / "traceback.txt").read_text()
    assert found.missing() == [entry]
    made = root / "made"
    made.mkdir()
    (made / "card.json").write_text("{}")
    grid.publish(made, place, passed=True)
    assert [path.name for path in place.iterdir()] == ["card.json"]


def test_a_grid_that_broke_does_not_lock_the_next_one_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan_of(root, "lessons: ['01']\n")
    with monkeypatch.context() as broken:
        broken.setattr(gridrun.snakemake, "snakemake", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError) as kept:  # as Jupyter keeps the last traceback
            gridrun.make(found)
    assert kept.value
    monkeypatch.setattr(gridrun.snakemake, "snakemake", lambda *_: 0)
    assert gridrun.make(found).lost == list(found.runs)
    with alone(found.folder / "lock", ""), pytest.raises(CourseError, match="run by another process"):
        gridrun.make(found)


def test_a_second_publisher_changes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "place"
    for text in ("first", "second"):
        made = tmp_path / text
        made.mkdir()
        cards.write(made / "card.json", {"card": cards.VERSION, "by": text})
        (made / "notebook.ipynb").write_text(text)
        grid.publish(made, place, passed=True)
    assert cards.read(place)["by"] == (place / "notebook.ipynb").read_text() == "first"


def test_a_run_whose_scores_are_gone_is_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan_of(root, "lessons: ['01']\n")
    (entry,) = found.runs
    place = entry.folder(found.store)
    place.mkdir(parents=True)
    (place / "scores.parquet").write_bytes(b"x")
    cards.write(place / "card.json", {"card": cards.VERSION, "scores": "ab" * 32})
    assert found.missing() == []
    (place / "scores.parquet").unlink()
    assert found.missing() == [entry]

    def snakemake(*_: object) -> None:  # takes what is there for current
        assert not (place / "card.json").exists()

    monkeypatch.setattr(gridrun.snakemake, "snakemake", snakemake)
    assert gridrun.make(found).lost == [entry]


def test_only_what_dead_runs_of_this_host_left_is_removed(tmp_path: Path) -> None:
    host = socket.gethostname()
    (own, dead, far) = (f"{host}~{os.getpid()}~1", f"{host}~{2**22 + 1}~1", "elsewhere~1~1")
    for name in (own, dead, far):
        (tmp_path / name).mkdir()
    gridrun.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {own, far}


def test_the_watchdog_watches_only_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    started: list[object] = []
    monkeypatch.setattr(threading.Thread, "start", lambda self: started.append(self))
    for driver in (None, "", "elsewhere:1", "nonsense"):
        watchdog.end_with(driver)
    assert started == []
    watchdog.end_with(watchdog.me())
    assert len(started) == 1
    with pytest.raises(KeyboardInterrupt):
        watchdog.end_with(f"{socket.gethostname()}:{2**22 + 1}")
    assert len(started) == 1


def test_the_watchdog_says_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Exception):
        """Ends the loop that only the end of the process ends."""

    said: list[int] = []

    def kill(pid: int, number: int) -> None:
        said.append(number)
        if len(said) == 2:
            raise Gone

    class Driver:
        def is_running(self) -> bool:
            return False

    monkeypatch.setattr(watchdog.os, "kill", kill)
    with pytest.raises(Gone):
        watchdog._watch(Driver(), 0.0, again=0.0)
    assert said == [signal.SIGTERM] * 2
