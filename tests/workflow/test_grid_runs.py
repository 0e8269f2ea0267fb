"""A grid that is killed, goes on, has a failing run, and goes to a cluster: real kernels through Snakemake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from processes import kill_and_wait, wait_for
from scored_course import make_scored_course

from coursekit.rerun import board, grid

GRID = """
lessons: ["01"]
datasets: {datasets}
seeds: {seeds}
axes: {{mode: [well, fail]}}
exclude: {exclude}
"""


def make_grid(root: Path, datasets: list[str], seeds: list[int]) -> Path:
    """A grid of which one run fails: the first set's first seed."""
    others = [{"mode": "fail", "dataset": d, "seed": s} for d in datasets for s in seeds][1:]
    replaced = [{"mode": "well", "dataset": datasets[0], "seed": seeds[0]}]
    file = root / "tiny.yaml"
    file.write_text(GRID.format(datasets=datasets, seeds=seeds, exclude=others + replaced))
    return file


def start(root: Path, file: Path, log: Path, *words: str, sleep: float = 0.0, **more: str) -> subprocess.Popen[str]:
    env = dict(os.environ, TINY_LOG=str(log), TINY_SLEEP=str(sleep), OMP_NUM_THREADS="1", **more)
    command = [sys.executable, "-m", "coursekit", "--root", str(root), "grid", str(file), *words]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def executed(log: Path) -> Counter[str]:
    return Counter(log.read_text().splitlines()) if log.exists() else Counter()


def cards_of(root: Path) -> list[Path]:
    return sorted((root / "runs" / "grid" / "store").glob("*/*/card.json"))


def killed_half_way(tmp_path: Path, datasets: list[str], seeds: list[int], jobs: int, whole_group: bool) -> None:
    """Kill a grid when half of it is there, start it again, and compare with one that nobody disturbed."""
    n = len(datasets) * len(seeds)
    root = make_scored_course(tmp_path / "killed")
    file, log = make_grid(root, datasets, seeds), tmp_path / "killed.log"
    begun = start(root, file, log, "--jobs", str(jobs), sleep=1.0)
    wait_for(lambda: len(cards_of(root)) >= n // 2 or begun.poll() is not None)
    assert begun.poll() is None, begun.communicate()[0]
    kill_and_wait(begun, whole_group)
    kept = {path: path.stat().st_mtime_ns for path in cards_of(root)}
    assert n // 2 <= len(kept) < n - 1
    before = executed(log)
    log.unlink()

    again = start(root, file, log, "--jobs", str(jobs))
    said = again.communicate()[0]
    assert again.returncode == 1, said  # one run fails, and the command says so
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert sum(executed(log).values()) == n - len(kept)  # the missing ones, each once
    assert set(executed(log).values()) == {1}
    assert len(before | executed(log)) == n
    assert f"{n} runs: {len(kept)} current before, {n - 1 - len(kept)} made now, 1 failed, 0 not ended." in said
    assert "ValueError: asked to fail" in said
    assert len(cards_of(root)) == n - 1  # the rest stands

    calm = make_scored_course(tmp_path / "calm")
    process = start(calm, make_grid(calm, datasets, seeds), tmp_path / "calm.log", "--jobs", str(jobs))
    process.communicate()
    tables = [pd.read_parquet(r / "runs" / "grid" / "tiny" / "results.parquet") for r in (root, calm)]
    one, other = (table.drop(columns=[*board.COSTS[1:3]]) for table in tables)  # seconds and memory are a clock's
    pd.testing.assert_frame_equal(one, other)
    boards = [board.compare(table).drop(columns=list(board.COSTS[1:3])) for table in tables]
    pd.testing.assert_frame_equal(*boards)
    assert len(boards[0]) == len(datasets) * 3
    assert set(boards[0].loc[boards[0]["strongest"], "verdict"]) == {"better", "worse"}

    # and once more: only the run that failed is tried again
    log.unlink()
    last = start(root, file, log)
    last.communicate()
    assert list(executed(log)) == [f"{datasets[0]} {seeds[0]} fail"]


def test_killed_half_way_only_the_missing_runs_execute(tmp_path: Path) -> None:
    killed_half_way(tmp_path, ["tiny", "hard"], [0, 1], jobs=1, whole_group=False)


@pytest.mark.slow
def test_killed_half_way_with_24_runs_in_parallel(tmp_path: Path) -> None:
    killed_half_way(tmp_path, ["tiny", "hard", "third"], list(range(8)), jobs=2, whole_group=True)


def test_two_at_once_on_the_same_grid_is_refused(tmp_path: Path) -> None:
    root = make_scored_course(tmp_path)
    file = root / "tiny.yaml"
    file.write_text("lessons: ['01']\n")
    first = start(root, file, tmp_path / "log", sleep=600)  # it is interrupted long before, on a slow machine too
    try:
        wait_for(lambda: (tmp_path / "log").exists() or first.poll() is not None)
        second = start(root, file, tmp_path / "other")
        said = second.communicate()[0]
        assert second.returncode == 2
        assert "is being run by another process" in said
        first.send_signal(signal.SIGINT)  # Ctrl-C
        assert first.wait(60) == 130
        assert cards_of(root) == []
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)


# --- clusters -----------------------------------------------------------------------------------------------


def test_dry_run_of_the_slurm_profile(tmp_path: Path) -> None:
    root = make_scored_course(tmp_path)
    file = root / "tiny.yaml"
    file.write_text("lessons: ['01']\nseeds: [0, 1]\nthreads: 2\nresources: {mem_mb: 1234, runtime: 17}\n")
    found = grid.plan(root, file)
    from coursekit.rerun import snakemake

    status = snakemake.snakemake(found.write(), on="slurm", more=["--dry-run"])
    said = (found.folder / "snakemake.log").read_text()
    assert status == 0, said
    assert said.count("rule lesson:") == 2
    assert "mem_mb=1234" in said
    assert "runtime=17" in said
    assert "threads: 2" in said
    assert cards_of(root) == []


@pytest.mark.parametrize("on", [None, "slurm"])
def test_the_users_own_profiles_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: str | None) -> None:
    from coursekit.rerun import snakemake

    root = make_scored_course(tmp_path)
    file = root / "tiny.yaml"
    file.write_text("lessons: ['01']\n")
    plan = grid.plan(root, file)
    own = tmp_path / "profiles" / "default"  # what Snakemake takes by itself from the folder that it is started in
    monkeypatch.chdir(tmp_path)
    own.mkdir(parents=True)
    (own / "config.yaml").write_text("executor: of-the-user\n")
    monkeypatch.setenv("SNAKEMAKE_PROFILE", str(own))
    status = snakemake.snakemake(plan.write(), on=on, more=["--dry-run"])
    assert status == 0, (plan.folder / "snakemake.log").read_text()


KUBECTL = """\
#!{python}
# stands for a cluster of one node: runs the job's command at once, as its container would
import json, os, subprocess, sys
words = sys.argv[1:]
assert words[:2] == ["--namespace", "lab"], words
store = os.environ["FAKE_CLUSTER"]
if words[2] == "create":
    job = json.load(sys.stdin)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    done = subprocess.run(container["command"], cwd=container["workingDir"], stdout=sys.stderr)
    job["status"] = {{"conditions": [{{"type": "Failed" if done.returncode else "Complete", "status": "True"}}]}}
    json.dump(job, open(os.path.join(store, job["metadata"]["name"]), "w"))
elif words[2:4] == ["get", "job"]:
    print(open(os.path.join(store, words[4])).read())
"""


def test_the_kubernetes_profile_runs_each_run_as_a_job(tmp_path: Path) -> None:
    root = make_scored_course(tmp_path / "course")
    tools, jobs = tmp_path / "bin", tmp_path / "jobs"
    tools.mkdir()
    jobs.mkdir()
    (tools / "kubectl").write_text(KUBECTL.format(python=sys.executable))
    (tools / "kubectl").chmod(0o755)
    file = root / "tiny.yaml"
    file.write_text("lessons: ['01']\naxes: {mode: [well, fail]}\nresources: {mem_mb: 2000, runtime: 5}\n")
    settings = {"COURSE_IMAGE": "python:3.12", "COURSE_CLAIM": "claim", "COURSE_MOUNT": "/course"}
    env = {"PATH": f"{tools}:{os.environ['PATH']}", "FAKE_CLUSTER": str(jobs), "COURSE_NAMESPACE": "lab", **settings}
    process = start(root, file, tmp_path / "log", "--on", "kubernetes", **env)
    said = process.communicate()[0]
    assert "2 runs: 0 current before, 1 made now, 1 failed, 0 not ended." in said, said
    import json

    made = [json.loads(path.read_text()) for path in jobs.iterdir()]
    assert len(made) == 2
    spec = made[0]["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"]["requests"] == {"cpu": "1", "memory": "2000Mi"}
    assert spec["volumes"][0]["persistentVolumeClaim"] == {"claimName": "claim"}
    assert spec["activeDeadlineSeconds"] == 300


def test_a_cluster_that_is_not_there_is_told(tmp_path: Path) -> None:
    root = make_scored_course(tmp_path)
    file = root / "tiny.yaml"
    file.write_text("lessons: ['01']\n")
    process = start(root, file, tmp_path / "log", "--on", "kubernetes", COURSE_IMAGE="")
    said = process.communicate()[0]
    assert process.returncode == 1
    assert "1 runs did not come to an end" in said
    assert "Set COURSE_IMAGE" in said
    process = start(root, file, tmp_path / "log", "--on", "moon")
    assert "There is no profile 'moon'. There are: kubernetes, slurm" in process.communicate()[0]
