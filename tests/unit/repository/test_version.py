"""One version: pyproject.toml's. What else names it says the same."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import scfm
from scfm.inside.version import version

ROOT = Path(__file__).resolve().parents[3]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
CHANGES = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", CHANGES, re.M)


def test_the_library_has_the_version_of_pyproject() -> None:
    assert scfm.__version__ == VERSION, "an older version is installed; make setup FORCE=1"


def test_where_nothing_is_installed_the_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert version.__wrapped__() == VERSION  # the first answer is kept


def test_the_citation_names_it() -> None:
    assert CITATION["version"] == VERSION


def test_the_changelog_keeps_a_place_for_what_comes_and_dates_what_was_released() -> None:
    assert HEADINGS[0] == ("Unreleased", "")
    assert HEADINGS[1] == (VERSION, str(CITATION["date-released"]))
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for _, date in HEADINGS[1:])
    kinds = set(re.findall(r"^### (.+)$", CHANGES, re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
