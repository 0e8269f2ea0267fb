"""The workflows parse, name only what exists, and have a budget; they can be tried nowhere but at their host."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from coursekit.__main__ import _parser

ROOT = Path(__file__).resolve().parents[4]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SHELL = {"names=$(PYTHONPATH=lib", "echo", "mkdir"}


def jobs() -> list[Any]:
    found = []
    for path in FILES:
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            found.append(pytest.param(path.name, name, job, id=f"{path.stem}-{name}"))
    return found


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z-]+):", text, re.M))


def commands() -> set[str]:
    actions = [a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return set(actions[0].choices)


def what_make_says(*words: str) -> argparse.Namespace:
    """What `make WORDS` hands to coursekit, as coursekit reads it."""
    python = f"{sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[3:]))'"
    done = subprocess.run(["make", "-s", *words, f"PY={python}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return _parser().parse_args(json.loads(done.stdout))


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make: install it with the system's packages")
def test_make_hands_on_values_with_spaces() -> None:
    said = "label='cell type' seed=1"
    for target in ("run", "rerun", "course", "grid"):
        assert what_make_says(target, "NB=03", f"P={said}").words == ["label=cell type", "seed=1"]
        assert what_make_says(target, "NB=03").words == []
    assert what_make_says("course", "NB=01 03", "P=seed=1").lessons == ["01", "03"]
    assert what_make_says("verify", "CARD=my runs/card.json").card == Path("my runs/card.json")
    found = what_make_says("atlas", "FILE=~/a b.h5ad", "MODEL=my model", "ON=my slurm")
    assert (found.file, found.model, found.on) == (Path.home() / "a b.h5ad", "my model", "my slurm")
    assert what_make_says("grid", "GRID=my grids/a.yaml").grid == Path("my grids/a.yaml")
    assert what_make_says("new", "WHAT=dataset mine 'a b.h5ad' --label 'cell type'").label == "cell type"


def test_there_are_both() -> None:
    assert [path.name for path in FILES] == ["cpu.yml", "gpu.yml"]


@pytest.mark.parametrize(("file", "name", "job"), jobs())
def test_a_job_has_a_budget_and_calls_only_what_exists(file: str, name: str, job: dict[str, Any]) -> None:
    assert 0 < job["timeout-minutes"] <= 120
    siblings = yaml.safe_load((ROOT / ".github" / "workflows" / file).read_text())["jobs"]
    needed = job.get("needs", [])
    assert {needed} <= set(siblings) if isinstance(needed, str) else set(needed) <= set(siblings)
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
        for line in step.get("run", "").splitlines():
            words = line.split()
            assert words[0] == "make" or words[0] in SHELL, line
            if words[0] == "make":
                assert words[1] in make_targets(), line
            called = re.search(r"-m coursekit (\S+)", line)
            assert called is None or called[1] in commands(), line
            for path in re.findall(r"tests/[\w/]+\.py", line):
                assert (ROOT / path).is_file(), path


def test_every_action_is_one_commit_with_its_version_beside_it() -> None:
    pins: dict[str, set[str]] = {}
    for path in FILES:
        for line in path.read_text().splitlines():
            if "uses:" in line:
                found = re.fullmatch(r" +- uses: (actions/[\w-]+)@([0-9a-f]{40}  # v\d+\.\d+\.\d+)", line)
                assert found, line
                pins.setdefault(found[1], set()).add(found[2])
    assert [action for action, commits in pins.items() if len(commits) > 1] == []


def test_one_job_lints_two_run_the_course_and_mondays_have_all_tests() -> None:
    cpu = yaml.safe_load((ROOT / ".github" / "workflows" / "cpu.yml").read_text())["jobs"]
    calls = [(name, step) for name, job in cpu.items() for step in job["steps"] if "run" in step]
    assert [name for name, step in calls if step["run"] == "make check"] == ["lint"]
    assert "strategy" not in cpu["lint"]
    (course,) = [step for name, step in calls if step["run"] == "make course"]
    assert course["if"] == "matrix.course"
    matrix = cpu["test"]["strategy"]["matrix"]
    chosen = [entry for entry in matrix["include"] if entry["course"]]
    assert [entry["os"] for entry in chosen] == matrix["os"]  # one on each system
    assert all(entry["python"] in matrix["python"] for entry in chosen)
    assert len(matrix["os"]) * len(matrix["python"]) == 6
    (full,) = [name for name, step in calls if step["run"] == "make test-full"]
    assert cpu[full]["if"] == "github.event_name == 'schedule'"


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_a_workflow_may_only_read(file: Path) -> None:
    whole = yaml.safe_load(file.read_text())
    assert whole["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in whole["jobs"].values())


@pytest.mark.parametrize(("file", "name", "job"), jobs())
def test_the_cache_is_where_the_library_looks_and_named_by_what_it_holds(
    file: str, name: str, job: dict[str, Any]
) -> None:
    whole = yaml.safe_load((ROOT / ".github" / "workflows" / file).read_text())
    caches = [step for step in job["steps"] if step.get("uses", "").startswith("actions/cache@")]
    for step in caches:
        env = {**whole.get("env", {}), **job.get("env", {})}
        assert env["SCFM_CACHE"].endswith(f"/{step['with']['path']}")
        hashed = re.findall(r"'([^']+)'", step["with"]["key"])
        assert "data/models.toml" in hashed
        assert all((ROOT / path).is_file() for path in hashed)
        assert any(other.get("run") == f"mkdir -p {step['with']['path']}" for other in job["steps"])


def test_the_lessons_run_on_a_gpu_runner_one_job_each_found_by_the_course_and_their_cards_are_kept() -> None:
    whole = yaml.safe_load((ROOT / ".github" / "workflows" / "gpu.yml").read_text())
    triggers = whole[True]  # YAML reads the word `on` as true
    assert "pull_request" not in triggers
    job = whole["jobs"]["lesson"]
    assert job["runs-on"] == ["self-hosted", "gpu"]
    source = re.search(r"needs\.(\w+)\.outputs\.(\w+)", job["strategy"]["matrix"]["lesson"])
    assert source
    found = whole["jobs"][source[1]]
    assert found["outputs"][source[2]] == "${{ steps.find.outputs.names }}"
    (step,) = [step for step in found["steps"] if step.get("id") == "find"]
    assert "coursekit changed --since" in step["run"]
    assert found["steps"][0]["with"]["fetch-depth"] == 0  # else the commit before is not there
    kept = [step for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
    assert kept[0]["if"] == "always()"
    assert kept[0]["with"]["path"] == "runs"
    assert [step["timeout-minutes"] for step in job["steps"] if "test-gpu" in step.get("run", "")] == [45]
