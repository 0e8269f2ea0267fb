"""The set-up cell: nothing where the course is installed, and elsewhere exactly what is missing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from tiny_course import make_course

from coursekit.course import CourseError, lessons
from coursekit.lesson import bootstrap, build, notebook

ROOT = Path(__file__).resolve().parents[4]
# A pip that only writes down what it was asked for; the test's Python cannot be asked to install into itself
PIP = "import json, os, sys; open(os.environ['ASKED'], 'w').write(json.dumps(sys.argv[1:]))"


def bare_python() -> list[str]:
    """A Python that has neither the course nor its packages."""
    return [getattr(sys, "_base_executable", sys.executable), "-S"]


def test_learner_and_solution_notebooks_begin_with_it_and_sources_do_not(tmp_path: Path) -> None:
    lesson = lessons(make_course(tmp_path))[0]
    build.build(lesson)
    for name in notebook.EDITIONS:
        written = notebook.from_json(lesson.notebook(name))
        assert notebook.tags(written["cells"][1]) == ["setup"]
        assert "@title" in written["cells"][1]["source"]
        assert not [cell for cell in notebook.restore(written)["cells"] if "setup" in notebook.tags(cell)]
    assert "setup" not in lesson.source.read_text()


def test_it_does_nothing_here() -> None:
    exec(compile(bootstrap.cell(ROOT), "cell", "exec"), {})  # would raise: this Python cannot be asked to install
    assert bootstrap.missing(["pytest>=8", "torch==0.0.1"]) == []  # a pin is met by any version


def test_missing_and_too_old() -> None:
    assert bootstrap.missing(["no-such-package-here>=1", "pytest>=9999", "pytest"]) == [
        "no-such-package-here>=1",
        "pytest>=9999",
    ]


@pytest.mark.skipif(
    sys.prefix == sys.base_prefix, reason="needs a virtual environment, to have a Python without packages: make setup"
)
def test_a_bare_python_finds_the_course_above_the_notebook_and_installs_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").write_text("")
    (tmp_path / "pip" / "__main__.py").write_text(PIP)
    asked = tmp_path / "asked.json"
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "ASKED": str(asked), "PYTHONDONTWRITEBYTECODE": "1"}
    code = bootstrap.cell(ROOT) + "\nimport coursekit.check"
    done = subprocess.run([*bare_python(), "-c", code], cwd=ROOT / "notebooks", env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    options, wanted = json.loads(asked.read_text())[:2], json.loads(asked.read_text())[2:]
    assert options == ["install", "-q"]
    assert {"torch==2.13.0", "jupyterlab>=4.3"} <= set(wanted)  # nothing is there, so the pin is asked for as well


def test_colab_keeps_its_own_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "missing", list)
    monkeypatch.setattr(bootstrap.subprocess, "run", lambda *_, **__: None)
    everywhere = {bootstrap._name(text) for text in bootstrap.install()}
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    colab = ModuleType("google.colab")
    colab.__spec__ = ModuleSpec("google.colab", None)
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    there = {bootstrap._name(text) for text in bootstrap.install()}
    assert everywhere - there == bootstrap.RUNNING
    imported = "|".join(bootstrap.RUNNING)
    sources = [*(ROOT / "lib" / "scfm").rglob("*.py"), *(ROOT / "notebooks" / "source").glob("*.py")]
    for path in sources:
        assert not re.search(rf"^\s*(?:import|from) (?:{imported})\b", path.read_text(), re.M), path


def test_a_package_that_was_in_use_asks_for_a_new_session_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    assert yaml  # of the distribution PyYAML
    versions = iter(
        [{"pyyaml": "1", "pytest": "1", "old": "1"}, {"pyyaml": "2", "pytest": "1", "old": "2", "new": "1"}]
    )
    monkeypatch.setattr(bootstrap, "installed", lambda: next(versions))
    monkeypatch.setattr(bootstrap, "missing", lambda _: ["pyyaml>=2"])
    monkeypatch.setattr(bootstrap.subprocess, "run", lambda *_, **__: None)
    bootstrap.install()
    assert "menu Runtime or Kernel): pyyaml was in use" in capsys.readouterr().out


@pytest.mark.skipif(
    sys.prefix == sys.base_prefix, reason="needs a virtual environment, to have a Python without packages: make setup"
)
def test_away_from_the_course_it_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "course").mkdir()
    (tmp_path / "course" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    code = bootstrap.cell(tmp_path / "course")
    done = subprocess.run(
        [*bare_python(), "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "Open this notebook inside the folder of the course" in done.stderr


def settings(tmp_path: Path, text: str) -> Path:
    (tmp_path / "pyproject.toml").write_text(f"[tool.coursekit]\n{text}\n")
    return tmp_path


def test_the_address_is_one_setting(tmp_path: Path) -> None:
    assert bootstrap.address(settings(tmp_path, "")) is None
    root = settings(tmp_path, 'repository = "https://github.com/someone/some-course.git"\nbranch = "dev"')
    assert bootstrap.address(root) == ("https://github.com/someone/some-course", "dev")
    cell = bootstrap.cell(root)
    assert '"--branch", "dev", "https://github.com/someone/some-course"' in cell
    assert 'here / "some-course"' in cell
    compile(cell, "cell", "exec")
    with pytest.raises(CourseError, match="expected https://github"):
        bootstrap.address(settings(tmp_path, 'repository = "git@github.com:someone/x"'))


@pytest.mark.skipif(
    sys.prefix == sys.base_prefix, reason="needs a virtual environment, to have a Python without packages: make setup"
)
def test_with_an_address_it_fetches_the_course(tmp_path: Path) -> None:
    work = tmp_path / "work"
    origin = tmp_path / "origin"
    origin.mkdir()
    (origin / "pyproject.toml").write_text("[project]\nname = 'x'\ndependencies = []\n")
    git = ["git", "-C", str(origin), "-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q", "-b", "main"], ["add", "pyproject.toml"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    work.mkdir()
    root = settings(tmp_path, 'repository = "https://github.com/someone/some-course"')
    code = bootstrap.cell(root).replace("https://github.com/someone/some-course", origin.as_uri())
    code = code.replace(
        "sys.path.insert", "assert (course / 'pyproject.toml').is_file(); raise SystemExit(7)\n    sys.path.insert"
    )
    done = subprocess.run(
        [*bare_python(), "-c", code], cwd=work, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True
    )
    assert done.returncode == 7, done.stderr
    assert (work / "some-course" / "pyproject.toml").is_file()
