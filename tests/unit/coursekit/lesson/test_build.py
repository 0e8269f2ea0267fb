"""Source to notebooks and back; the form of a lesson; what a learner must not see."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from tiny_course import LESSON, make_course

from coursekit.__main__ import main
from coursekit.book import readme
from coursekit.course import CourseError, choose, find_root, lessons
from coursekit.lesson import build, notebook, quiz
from coursekit.lesson.lint import lint


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_course(tmp_path)


def problems_of(tmp_path: Path, old: str, new: str) -> str:
    assert old in LESSON
    root = make_course(tmp_path, LESSON.replace(old, new))
    return "\n".join(lint(lessons(root)[0]))


def test_built_notebooks_are_in_step_and_stable(root: Path) -> None:
    lesson = lessons(root)[0]
    assert len(build.build(lesson)) == 2
    assert build.check(lesson) == []
    before = [lesson.notebook(name).read_bytes() for name in notebook.EDITIONS]
    assert build.build(lesson) == []
    assert [lesson.notebook(name).read_bytes() for name in notebook.EDITIONS] == before


def test_a_notebook_that_somebody_solved_is_kept(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lesson = lessons(root)[0]
    path = lesson.notebook("learner")
    build.build(lesson)
    solved = nbformat.read(path, as_version=4)
    cell = next(cell for cell in solved.cells if "exercise" in cell.metadata.get("tags", []))
    cell.source = cell.source.replace("...", "a or b")
    nbformat.write(solved, path)
    with_answer = path.read_text()
    assert main(["--root", str(root), "build"]) == 0
    kept = root / "runs" / "yours" / f"{path.stem}-1.ipynb"
    assert kept.read_text() == with_answer
    assert f"your own work is kept in runs/yours/{path.stem}-1.ipynb" in capsys.readouterr().out
    assert "a or b" not in path.read_text()

    only_run = nbformat.read(path, as_version=4)
    first = next(cell for cell in only_run.cells if cell.cell_type == "code")
    first.outputs = [nbformat.v4.new_output("stream", text="1")]
    only_run.cells.append(nbformat.v4.new_code_cell(""))
    nbformat.write(only_run, path)
    build.build(lesson)
    assert len(list(kept.parent.iterdir())) == 1  # nobody wrote anything


def test_editions_hold_what_they_should(root: Path) -> None:
    lesson = lessons(root)[0]
    build.build(lesson)
    learner, solution = (lesson.notebook(name).read_text() for name in ("learner", "solution"))
    assert "your line" in learner
    assert "return a if a > b" not in learner
    assert "your line" not in solution
    assert "return a if a > b" in solution
    for text in (learner, solution):
        assert "Ask before running" not in text
        parsed = nbformat.reads(text, as_version=4)
        nbformat.validate(parsed)
        assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in parsed.cells)
        assert parsed.metadata.kernelspec.name == "python3"
        assert str(root) not in text
        ids = [cell.id for cell in parsed.cells]
        assert len(ids) == len(set(ids))


def test_round_trip_is_exact(root: Path) -> None:
    lesson = lessons(root)[0]
    text = lesson.source.read_text()
    full = notebook.parse(text)
    assert notebook.unparse(full) == text
    build.build(lesson)
    back = notebook.unparse(notebook.restore(notebook.from_json(lesson.notebook("learner"))))
    for part in text.split("\n# %%"):  # each kept cell stands in the text that comes back, letter for letter
        dropped = '"solution"' in part.split("\n")[0] or '"instructor"' in part.split("\n")[0]
        assert (part.strip() in back) != dropped, part


def test_an_edit_changes_the_id_of_its_own_cell_only(root: Path) -> None:
    full = notebook.parse(LESSON)
    ids = [cell.id for cell in notebook.edition(full, "learner", "01_tiny").cells]
    edited = notebook.parse(LESSON.replace("share = 0.5", "share = 0.6"))
    again = [cell.id for cell in notebook.edition(edited, "learner", "01_tiny").cells]
    assert sum(a != b for a, b in zip(ids, again, strict=True)) == 1


def test_two_equal_cells_get_different_ids() -> None:
    full = notebook.parse(LESSON + "\n# %%\nx = 1\n\n# %%\nx = 1\n")
    ids = [cell.id for cell in notebook.edition(full, "learner", "01_tiny").cells]
    assert len(ids) == len(set(ids))


def test_quiz_hides_the_answer_and_unfolds_again() -> None:
    source = "**Quiz.** Which?\n- [ ] `a < b` & *c* -> no **way**\n- [x] b -> yes: 2 > 1"
    folded = quiz.fold_quiz(source)
    assert folded.count("<details>") == 2
    assert "[x]" not in folded
    assert "<code>a &lt; b</code>" in folded
    assert quiz.unfold_quiz(folded) == source


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('# %% tags=["parameters"]', "# %%", "one cell with the tag parameters"),
        ("seed = 0\n", "", "does not set `seed`"),
        ('profile = "quick"', 'profile = "gpu"', 'must say `profile = "quick"`'),
        ("share = 0.5\n", "share = 1 / 2\n", "plain value"),
        ("# # 01 · Is two more than one?", "# # 01 · Two is more", "A question?"),
        ("# # 01 ·", "# # 02 ·", "the title `# 01"),
        ("You will be able to", "Objectives", "no objectives"),
        ("5 min", "a while", "no time estimate"),
        ("## Key points", "## Summary", "no key points"),
        ("https://doi.org/10.1038/s41586-023-06139-9", "somewhere", "no further reading"),
        ("- [x] yes", "- [ ] yes", "at least one of them"),
        ('tags=["quiz"]', "", "no quiz cell"),
        ('tags=["exercise"]', 'tags=["exercize"]', "unknown tag exercize"),  # codespell:ignore
        ('# %% tags=["solution"]', "# %%", "no solution cell right behind"),
        ("    return a if a > b else b\n\n\ncheck.exercise(\"01.1\"", '    return a if a > b else b\n\n\ncheck.exercise("01.2"', "no solution cell"),
        ('check.exercise("01.1", larger)\n\n# %% tags=["solution"]', 'larger\n\n# %% tags=["solution"]', "0 times"),
        ("import os\n", "%matplotlib inline\nimport os\n", "changes line"),
        ("share = 0.5\n", f"share = 0.5  # {'long ' * 25}\n", "a line of code has 140 characters, and 120 fit a page: share"),
        ("import check, record\n", "import check, record\nfrom coursekit.run import card\n", "run import card is not made for lessons; import what"),
    ],
)  # fmt: skip
def test_lint_names_what_is_missing(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert expected in problems_of(tmp_path, old, new)


def test_missing_and_foreign_checkers(tmp_path: Path) -> None:
    root = make_course(
        tmp_path,
        checks="from coursekit.check import checker\n\n\n@checker('01.7', hints=['h'])\ndef f(a):\n    return\n",
    )
    found = "\n".join(lint(lessons(root)[0]))
    assert "exercise 01.1 has no checker" in found
    assert "checks 01.7" in found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    ...  # your line", "    # return a if a > b else b\n    ...  # your line"),  # commented out in the stub
        ("Which of two numbers is larger?", "Use `return a if a>b else b`."),  # quoted in the text
        ("    ...  # your line", "    return a if a > b else b  # your line"),  # the stub is the solution
    ],
)
def test_a_leaking_solution_is_found(tmp_path: Path, old: str, new: str) -> None:
    found = problems_of(tmp_path, old, new)
    assert "line of the solution of 01.1 readable" in found


def test_lines_that_stand_in_ordinary_code_are_no_leak(tmp_path: Path) -> None:
    both = '    smaller, bigger = sorted((a, b))\n    return bigger\n\n\ncheck.exercise("01.1", larger)\n\n# %% [markdown] tags=["instructor"]'
    text = LESSON.replace(
        '    return a if a > b else b\n\n\ncheck.exercise("01.1", larger)\n\n# %% [markdown] tags=["instructor"]', both
    )
    text = text.replace('if mode == "fail":', 'a, b = 1, 2\nsmaller, bigger = sorted((a, b))\nif mode == "fail":')
    root = make_course(tmp_path, text)
    assert lint(lessons(root)[0]) == []


def test_check_finds_notebooks_changed_by_hand(root: Path) -> None:
    lesson = lessons(root)[0]
    build.build(lesson)
    path = lesson.notebook("learner")
    content = json.loads(path.read_text())
    exercise = next(cell for cell in content["cells"] if cell["metadata"].get("tags") == ["exercise"])
    exercise["source"] = [
        line.replace("    ...  # your line", "    return a if a > b else b") for line in exercise["source"]
    ]
    path.write_text(json.dumps(content))
    found = "\n".join(build.check(lesson))
    assert "out of step" in found
    assert re.search(r"solution of 01\.1 survives: return a if a > b else b", found)


def test_check_finds_outputs_missing_and_forgotten_notebooks(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lesson = lessons(root)[0]
    build.build(lesson)
    path = lesson.notebook("solution")
    content = json.loads(path.read_text())
    code = next(cell for cell in content["cells"] if cell["cell_type"] == "code")
    code["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["x"]}]
    path.write_text(json.dumps(content))
    lesson.notebook("learner").rename(lesson.notebook("learner").with_name("09_gone.ipynb"))
    assert main(["--root", str(root), "build", "--check"]) == 1
    said = capsys.readouterr().err
    assert "it holds outputs" in said
    assert "01_tiny.ipynb is missing" in said
    assert "09_gone.ipynb has no source" in said


def test_readme_table_is_made_and_compared(root: Path) -> None:
    page = root / "README.md"
    page.write_text("# Course\n<!-- lessons -->\nold\n<!-- /lessons -->\nend\n")
    assert readme.refresh(root, write=False) != []
    assert readme.refresh(root, write=True) == []
    assert readme.refresh(root, write=False) == []
    text = page.read_text()
    assert "[01 · Is two more than one?](notebooks/01_tiny.ipynb)" in text
    assert text.startswith("# Course\n")
    assert text.endswith("end\n")


def test_lessons_are_found_and_chosen(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [lesson.name for lesson in choose(root, ["1"])] == ["01_tiny"]
    assert choose(root, ["notebooks/01_tiny.ipynb"])[0].number == "01"
    with pytest.raises(CourseError, match=r"no lesson '07'.*01_tiny"):
        choose(root, ["07"])
    copies = {
        "mine.ipynb": {"coursekit": {"lesson": "01_tiny"}},
        "01_tiny-Copy1.ipynb": {},
        "9.ipynb": {"coursekit": 1},
    }
    for name, metadata in copies.items():
        (root / name).write_text(json.dumps({"cells": [], "metadata": metadata}))
    (root / "01_damaged.ipynb").write_text("{")
    for name in ("mine.ipynb", "01_tiny-Copy1.ipynb", "01_damaged.ipynb"):
        assert [lesson.name for lesson in choose(root, [str(root / name)])] == ["01_tiny"]
    for name in ("9.ipynb", "01_tiny-Copy2.ipynb"):
        with pytest.raises(CourseError, match="no lesson"):
            choose(root, [str(root / name)])
    monkeypatch.delenv("COURSEKIT_ROOT", raising=False)
    assert find_root(root / "notebooks" / "source") == root
    monkeypatch.setenv("COURSEKIT_ROOT", str(root / "typo"))
    with pytest.raises(CourseError, match="typo, which is no folder of the course"):
        find_root()
    (root / "notebooks" / "source" / "01_other.py").write_text("# %%\n")
    with pytest.raises(CourseError, match="Two lessons have the number 01"):
        lessons(root)
