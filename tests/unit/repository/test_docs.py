"""The pages about the house describe the house: its rooms, its functions, its files; and no decision is left out."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import scfm

ROOT = Path(__file__).resolve().parents[3]
HOUSE = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
PAGES = [ROOT / "docs" / "house.md", ROOT / "CONTRIBUTING.md", *DECISIONS]
SECTIONS = "Context", "Decision", "Considered", "Consequences"


@pytest.mark.parametrize("package", ["scfm", "coursekit"])
def test_every_room_is_on_the_plan(package: str) -> None:
    section = HOUSE.split(f"## lib/{package}\n")[1].split("\n## ")[0]
    named = re.findall(r"^\| `(\w+)` \|", section, re.M)
    assert sorted(named) == sorted(path.parent.name for path in (ROOT / "lib" / package).glob("*/__init__.py"))


def test_every_folder_at_the_top_is_on_the_plan() -> None:
    section = HOUSE.split("## The top\n")[1].split("\n## ")[0]
    named = {name.split("/")[0] for name in re.findall(r"`([\w/]+)/`", section)}
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "*/*"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("an unpacked archive: what belongs to the course is known to git")
    assert named == {name.split("/")[0] for name in listed.stdout.splitlines() if not name.startswith(".")}


def test_the_words_that_it_shows_exist() -> None:
    assert [name for name in re.findall(r"scfm\.(\w+)", HOUSE) if not hasattr(scfm, name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_paths_and_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"`((?:lib|tests|data|benchmarks|docs|notebooks|site|workflow)/[\w./-]*)`", text)
    missing = [path for path in paths if "NN" not in path and "NAME" not in path and not (ROOT / path).exists()]
    missing += [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if not (page.parent / link).exists()]
    assert [path for path in missing if not re.search(r"42|my_", path)] == []  # 42: the lesson to be written


def test_contributing_shows_the_order_of_the_contracts() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    shown = " ".join((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("`", "").split())
    orders = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    assert orders
    for layers in orders:
        assert " → ".join(layer.replace(" | ", ", ") for layer in layers) in shown


def test_a_decision_is_one_page_in_one_form_and_listed() -> None:
    for page in DECISIONS:
        text = page.read_text(encoding="utf-8")
        title = re.match(r"# (\d\d) · (.+)\n\n\d{4}-\d\d-\d\d", text)
        assert title, page.name
        assert page.name.startswith(f"{title[1]}_")
        assert tuple(re.findall(r"^## (.+)$", text, re.M)) == SECTIONS
        assert len(text.splitlines()) <= 50
        assert f"| [{title[1]}](decisions/{page.name}) | {title[2]} |" in HOUSE
