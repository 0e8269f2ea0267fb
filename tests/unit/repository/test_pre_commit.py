"""What a commit is checked for is what `make check` checks, in the same versions."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
REPOS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
HOOKS = {hook["id"]: hook for repo in REPOS for hook in repo["hooks"]}
CHECK = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)


def test_ruff_is_that_of_the_lock() -> None:
    (rev,) = [repo["rev"] for repo in REPOS if "ruff" in repo["repo"]]
    assert re.search(rf"^ruff=={re.escape(rev.removeprefix('v'))}\b", (ROOT / "requirements.lock").read_text(), re.M)


def test_make_check_calls_what_a_commit_calls() -> None:
    assert CHECK
    called = set(re.findall(r"-m (\w+)", CHECK[1]))
    own = [hook["entry"].split() for hook in HOOKS.values() if "entry" in hook]
    assert {words[0] for words in own} == {".venv/bin/python"}
    assert {words[2] for words in own} | {"ruff"} <= called
    assert all(importlib.util.find_spec(name) for name in called)
    assert {"ruff-check", "ruff-format", "check-added-large-files"} <= set(HOOKS)
