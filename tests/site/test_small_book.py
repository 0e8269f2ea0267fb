"""A book of one tiny lesson: launch buttons, mathematics, and what stops a build."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bookshelf import ROOT, need
from tiny_course import LESSON, make_course
from tiny_run import finished

from coursekit.book import site
from coursekit.course import CourseError, Lesson, lessons
from coursekit.lesson import build

MATHS = r"""# %% [markdown]
# Inline $\frac{a}{b} \le \sum_i x_i^2$ and on its own:
#
# $$
# \text{softmax}(z)_i = \frac{e^{z_i}}{\sum_j e^{z_j}}
# $$

# %% [markdown]
# ## Key points
"""


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """The tiny course with the real book's settings."""
    need("sphinx", "myst_nb", "sphinx_book_theme", "latex2mathml")
    root = make_course(tmp_path, LESSON.replace("# %% [markdown]\n# ## Key points\n", MATHS))
    shutil.copytree(ROOT / "site", root / "site", ignore=shutil.ignore_patterns("_build"))
    (root / "pyproject.toml").write_text('[project]\nversion = "0.0.1"\n\n[tool.coursekit]\n')
    build.build(lessons(root)[0])
    return root


def built(course: Path) -> tuple[Lesson, str]:
    lesson = lessons(course)[0]
    folder = site.build(course, [lesson])
    return lesson, (folder / "lessons" / f"{lesson.name}.html").read_text(encoding="utf-8")


def test_buttons_come_with_the_address(course: Path) -> None:
    finished(lessons(course)[0])
    _, text = built(course)
    assert "Open in Colab" not in text
    with (course / "pyproject.toml").open("a") as settings:
        settings.write('repository = "https://github.com/someone/some-course"\n')
    lesson, text = built(course)
    assert (
        f"https://colab.research.google.com/github/someone/some-course/blob/main/notebooks/{lesson.name}.ipynb" in text
    )
    assert "https://mybinder.org/v2/gh/someone/some-course/main" in text
    assert "git clone https://github.com/someone/some-course" in text
    assert '<script src="https' not in text


def test_mathematics_is_rendered_while_building(course: Path) -> None:
    finished(lessons(course)[0])
    _, text = built(course)
    assert text.count("<math") == 2
    assert "<mfrac>" in text
    assert "softmax" in text
    assert "MathJax" not in text


def test_a_figure_without_words_or_a_broken_link_stops_the_build_and_keeps_the_old_book(course: Path) -> None:
    lesson = lessons(course)[0]
    finished(lesson)
    built(course)
    finished(lesson, "silent", alt="")
    with pytest.raises(CourseError, match="no alternative text"):
        built(course)
    shutil.rmtree(lesson.runs / "silent")
    (course / "site" / "cheat-sheet.md").write_text("# Cheat-sheet\n\n[nowhere](nowhere.md)\n")
    with pytest.raises(CourseError, match="nowhere"):
        built(course)
    assert (course / "site" / "_build" / "html" / "index.html").is_file()
    assert [path.name for path in (course / "site" / "_build").iterdir()] == ["html"]  # nothing half-made is left


def test_a_formula_that_cannot_be_rendered_stops_the_build(course: Path) -> None:
    lesson = lessons(course)[0]
    lesson.source.write_text(lesson.source.read_text().replace(r"\frac{a}{b}", r"\nosuchcommand{a}{b}"))
    build.build(lesson)
    finished(lesson)
    with pytest.raises(CourseError, match="MathML has no word"):
        built(course)


def test_the_board_is_a_page_where_there_is_one(course: Path) -> None:
    finished(lessons(course)[0])
    (course / "runs" / "board").mkdir(parents=True)
    (course / "runs" / "board" / "index.md").write_text("---\norphan: true\n---\n\n# Does it beat the baseline?\n")
    built(course)
    html = (course / "site" / "_build" / "html" / "index.html").read_text(encoding="utf-8")
    assert "board/index.html" in html
