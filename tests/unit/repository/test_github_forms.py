"""The forms for issues are such as GitHub accepts: one that it cannot read, it leaves out without a word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

GITHUB = Path(__file__).resolve().parents[3] / ".github"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
KEYS = {  # of attributes, by type (docs.github.com: syntax for GitHub's form schema)
    "input": {"label", "description", "placeholder", "value"},
    "textarea": {"label", "description", "placeholder", "value", "render"},
    "dropdown": {"label", "description", "multiple", "options", "default"},
    "checkboxes": {"label", "description", "options"},
}


def test_there_is_a_form_for_each_kind() -> None:
    assert [path.stem for path in FORMS] == ["dataset", "lesson_unclear", "model", "wrong_number"]
    assert yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / "config.yml").read_text()) == {"blank_issues_enabled": True}
    assert (GITHUB / "PULL_REQUEST_TEMPLATE.md").is_file()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_the_parts_that_github_wants(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert set(form) == {"name", "description", "body"}
    assert all(form.values())
    fields = form["body"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert len({field["attributes"]["label"] for field in fields}) == len(fields)
    assert any(field.get("validations", {}).get("required") for field in fields)
    for field in fields:
        assert set(field) <= {"type", "id", "attributes", "validations"}
        assert re.fullmatch(r"[\w-]+", field["id"])
        assert set(field["attributes"]) <= KEYS[field["type"]]
        options = field["attributes"].get("options", ["one"])
        assert options
        assert all(set(option) <= {"label", "required"} for option in options if isinstance(option, dict))


def test_updates_come_grouped_once_a_week() -> None:
    found = yaml.safe_load((GITHUB / "dependabot.yml").read_text())
    assert found["version"] == 2
    assert [update["package-ecosystem"] for update in found["updates"]] == ["pip", "github-actions"]
    for update in found["updates"]:
        assert update["schedule"] == {"interval": "weekly"}
        assert [group["patterns"] for group in update["groups"].values()] == [["*"]]
