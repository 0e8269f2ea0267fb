"""What the Kubernetes profile asks of kubectl, and what it makes of the answers; a stand-in answers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[4] / "workflow" / "profiles" / "kubernetes" / "job.py"


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("IMAGE", "CLAIM", "MOUNT"):
        monkeypatch.setenv(f"COURSE_{name}", "x")
    spec = importlib.util.spec_from_file_location("kubernetes_job", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_deadline_does_not_count_the_wait_for_a_node(job: ModuleType) -> None:
    spec = job.manifest("run.sh", 1, 100, 5, 0)["spec"]
    assert "activeDeadlineSeconds" not in spec
    assert spec["template"]["spec"]["activeDeadlineSeconds"] == 300


def condition(kind: str) -> str:
    return json.dumps({"status": {"conditions": [{"type": kind, "status": "True"}]}})


NOT_FOUND = 'Error from server (NotFound): jobs.batch "scfm-1" not found'


@pytest.mark.parametrize(
    ("answer", "expected", "said"),
    [
        (condition("Complete"), "success", ""),
        (condition("Failed"), "failed", ""),
        (condition("Suspended"), "running", ""),
        ("{}", "running", ""),
        (subprocess.CalledProcessError(1, "kubectl", stderr="Too Many Requests"), "running", "Too Many Requests"),
        (subprocess.CalledProcessError(1, "kubectl", stderr=NOT_FOUND), "failed", "not found"),
        (subprocess.TimeoutExpired("kubectl", 60), "running", "60"),
    ],
)
def test_only_an_answer_ends_a_job(
    job: ModuleType,
    answer: str | Exception,
    expected: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        if isinstance(answer, Exception):
            raise answer
        return subprocess.CompletedProcess([], 0, stdout=answer)

    monkeypatch.setattr(job.subprocess, "run", run)
    monkeypatch.setattr("sys.argv", ["job.py", "status", "scfm-1"])
    job.main()
    printed = capsys.readouterr()
    assert printed.out == f"{expected}\n"
    assert said in printed.err
