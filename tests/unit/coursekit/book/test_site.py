"""The book's parts without Sphinx and without a browser: pages from runs, the glossary, the map, the papers, the buttons."""

from __future__ import annotations

import html.parser
import inspect
import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_course import LESSON, make_course
from tiny_run import PNG, finished

import scfm
from coursekit.book import conceptmap, glossary, lessonpage, reference, site
from coursekit.book import pages as sitepages
from coursekit.check import load
from coursekit.course import CourseError, Lesson, lessons
from coursekit.lesson import build
from coursekit.lesson.facts import needed
from coursekit.lesson.notebook import edition, read_source, tags
from coursekit.lesson.quiz import quiz_options
from coursekit.run.last import last_run

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def lesson(tmp_path: Path) -> Lesson:
    return lessons(make_course(tmp_path))[0]


# --- which run -----------------------------------------------------------------------------------


def test_the_newest_fitting_run_is_taken(lesson: Lesson) -> None:
    assert last_run(lesson) is None
    old, new = finished(lesson, "old"), finished(lesson, "new")
    os.utime(old / "card.json", (1, 1))
    assert last_run(lesson) == new
    for name, more in (("failed", {"status": "failed"}), ("seeded", {"seed": 1}), ("large", {"profile": "cpu"})):
        finished(lesson, name, **more)
    (finished(lesson, "headless") / "notebook.ipynb").unlink()
    (finished(lesson, "broken") / "card.json").write_text("{")
    assert last_run(lesson) == new
    assert last_run(lesson, "cpu") == lesson.runs / "large"


def test_a_run_of_an_older_text_is_not_taken(lesson: Lesson) -> None:
    finished(lesson)
    lesson.source.write_text(LESSON.replace("share = 0.5", "share = 0.25"))
    assert last_run(lesson) is None


def test_gathering_runs_only_what_is_missing(lesson: Lesson, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("nothing had to be run")

    folder = finished(lesson)
    monkeypatch.setattr("coursekit.run.courserun.run_all", never)
    assert site.gather([lesson], "quick") == {lesson.name: folder}


# --- where the book goes -------------------------------------------------------------------------


def book(at: Path, word: str) -> Path:
    at.mkdir(parents=True)
    (at / site.BOOK_MARK).write_text(word)
    return at


def test_a_folder_of_other_files_is_refused_before_anything_runs(
    lesson: Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "NEEDED", {})
    monkeypatch.setattr(site, "gather", lambda *_: pytest.fail("nothing may run"))
    mine = tmp_path / "mine" / "thesis.tex"
    mine.parent.mkdir()
    mine.write_text("years of work")
    for place in (mine.parent, mine, lesson.root):
        with pytest.raises(CourseError, match="holds other files; name a new or empty folder"):
            site.build(lesson.root, [lesson], output=place)
    assert mine.read_text() == "years of work"
    assert lesson.source.is_file()


def test_a_book_takes_the_place_of_a_book(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    book(tmp_path / "shelf" / "book", "old")
    for place in (tmp_path / "empty", tmp_path / "new" / "folder", tmp_path / "shelf" / "book"):
        site.replace_book(book(tmp_path / "made", "new"), place)
        assert (place / site.BOOK_MARK).read_text() == "new"
        assert [path.name for path in place.parent.iterdir() if path.name.startswith(".")] == []


def test_a_book_that_cannot_be_moved_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, made, real = book(tmp_path / "book", "old"), book(tmp_path / "made", "new"), os.replace

    def full(start: Path, end: Path) -> None:
        if Path(start).name == "new":
            raise OSError("no space left")
        real(start, end)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        site.replace_book(made, old)
    assert (old / site.BOOK_MARK).read_text() == "old"


def test_every_module_and_room_has_a_page_of_reference(tmp_path: Path) -> None:
    assert reference.pages(tmp_path) == {}
    made = reference.pages(ROOT)
    shown = {name.split("/")[1] for name in made} - {"index"}
    assert shown >= {name for name in scfm.__all__ if inspect.ismodule(getattr(scfm, name))} - {*reference.NOT_SHOWN}
    assert "- [scfm.tokenize](tokenize.md): From counts to tokens" in made["reference/index"]
    assert ".. automodule:: scfm.adaptation.adapting\n   :members:" in made["reference/adaptation"]
    files = {path.stem for path in (ROOT / "lib" / "scfm" / "store").glob("*.py")} - {"__init__"}
    assert all(f"## scfm.store.{name}\n" in made["reference/store"] for name in files)


# --- a lesson as a page ----------------------------------------------------------------------------


def test_a_page_has_stub_hints_solution_quiz_and_nothing_for_instructors(lesson: Lesson) -> None:
    page = lessonpage.page(lesson, finished(lesson), bar="<p>bar</p>")
    nbformat.validate(page)
    sources = [cell["source"] for cell in page["cells"]]
    text = "\n".join(sources)
    assert sources[1] == "<p>bar</p>"
    assert "Ask before running" not in text
    assert not any("injected-parameters" in tags(cell) for cell in page["cells"])
    stub = next(i for i, cell in enumerate(page["cells"]) if "exercise" in tags(cell))
    assert "your line" in sources[stub]
    assert "Think of if." in sources[stub + 1]
    assert "return a if a > b" in sources[stub + 2]
    assert "hide-cell" in tags(page["cells"][stub + 2])
    assert "[x]" not in text
    assert "https://doi.org/10.1038/s41586-023-06139-9>" in text  # a bare address becomes a link
    outputs = [output for cell in page["cells"] for output in cell.get("outputs", [])]
    assert [list(output["data"]) for output in outputs] == [["image/png"]]  # no progress bar, nothing that was recorded
    assert lessonpage.alternatives(page) == [(PNG, "A figure of one dot, for tests.")]


def test_what_only_draws_is_folded(tmp_path: Path) -> None:
    drawn = '# %% tags=["figure"]\nprint("drawn")\n\n# %% tags=["solution", "figure"]\nprint("twice")\n\n'
    lesson = lessons(
        make_course(
            tmp_path / "drawing", LESSON.replace("# %% [markdown]\n# ## Key", f"{drawn}# %% [markdown]\n# ## Key")
        )
    )[0]
    page = lessonpage.page(lesson, finished(lesson))
    folded = {cell["source"]: cell["metadata"] for cell in page["cells"] if "figure" in tags(cell)}
    assert folded['print("drawn")']["tags"] == ["figure", "hide-input"]
    assert folded['print("drawn")']["mystnb"]["code_prompt_show"] == "Show code"
    assert "hide-cell" in folded['print("twice")']["tags"]
    hidden = [
        cell for cell in edition(read_source(lesson), "learner", lesson.name)["cells"] if "jupyter" in cell["metadata"]
    ]
    assert [cell["source"] for cell in hidden] == ['print("drawn")']
    assert hidden[0]["metadata"]["jupyter"] == {"source_hidden": True}


class _Depth(html.parser.HTMLParser):
    """How deep fold-outs lie in each other, and that every one is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.now += tag == "details"
        self.most = max(self.most, self.now)

    def handle_endtag(self, tag: str) -> None:
        self.now -= tag == "details"


def test_hints_lie_in_each_other_in_order(lesson: Lesson) -> None:
    text = lessonpage.hints_html("01.1", load(lesson.checks)["01.1"])
    found = _Depth()
    found.feed(text)
    assert (found.now, found.most) == (0, 2)
    assert text.index("Think of if.") < text.index("Hint 2 of 2") < text.index("Compare a with b.")


def test_a_quiz_says_for_each_option_whether_it_is_right(lesson: Lesson) -> None:
    source = next(cell["source"] for cell in read_source(lesson)["cells"] if "quiz" in tags(cell))
    text = lessonpage.quiz_html(source, "quiz-1")
    assert text.count('class="option right"') == sum(right for right, _, _ in quiz_options(source)) == 1
    assert text.count('class="option wrong"') == 1
    assert "<code>1 &gt; 2</code> &amp; more" in text
    assert "✗ Not this one.</strong> Count <em>again</em>." in text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("lessons 01 and 02", ["01", "02"]),
        ("lesson 07", ["07"]),
        ("lessons 01-03, 05", ["01", "02", "03", "05"]),
        ("some Python; what a cell is", []),
        ("lessons 01 to 04", ["01", "02", "03"]),
    ],
)
def test_needs_in_words_are_lesson_numbers(text: str, found: list[str]) -> None:
    assert needed(text, "04") == found


# --- buttons, results, papers ------------------------------------------------------------------------


def test_launch_buttons_only_with_an_address(lesson: Lesson) -> None:
    card = json.loads((finished(lesson) / "card.json").read_text())
    without = site.lesson_bar(lesson, card, None)
    assert "colab" not in without
    assert "binder" not in without.lower()
    assert "downloads/01_tiny.ipynb" in without
    bar = site.lesson_bar(lesson, card, ("https://github.com/me/course", "dev"))
    assert 'href="https://colab.research.google.com/github/me/course/blob/dev/notebooks/01_tiny.ipynb"' in bar
    assert 'href="https://mybinder.org/v2/gh/me/course/dev?labpath=notebooks/01_tiny.ipynb"' in bar
    assert "git clone https://github.com/me/course\ncd course\nmake setup" in bar


def test_results_come_from_the_card_and_fit_into_a_table(lesson: Lesson) -> None:
    card = json.loads((finished(lesson) / "card.json").read_text())
    text = sitepages.results([lesson], {lesson.name: card})
    assert "double: 0.5" in text
    assert "1 [0.5, 2]" in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == 3
    assert all(line.replace("\\|", "").count("|") == 4 for line in rows)
    assert "not a number" in rows[2]
    assert "\\*c\\*" in rows[2]
    assert "not run" in sitepages.results([lesson], {})
    assert "1.0 min" in sitepages.lessons_table([lesson], {lesson.name: card})


def test_citations_keep_each_doi_with_its_own_words() -> None:
    line = "GREmLN, https://doi.org/10.1101/2025.07.03.663009, and OmniPert (new, https://doi.org/10.1101/2025.07.02.662744)."
    assert sitepages.citations(line) == [
        ("GREmLN", "10.1101/2025.07.03.663009"),
        ("OmniPert (new)", "10.1101/2025.07.02.662744"),
    ]
    assert sitepages.citations("no paper here") == []
    old = "- French 1999, forgetting: https://doi.org/10.1016/S1364-6613(99)01294-2"
    assert [doi for _, doi in sitepages.citations(old)] == ["10.1016/S1364-6613(99)01294-2"]


def test_every_paper_of_the_course_stands_once_and_with_words() -> None:
    lines = [line for line in sitepages.bibliography(ROOT, lessons(ROOT)).splitlines() if line.startswith("- ")]
    dois = [line.split("[doi:")[1].split("]")[0].lower() for line in lines]
    assert len(dois) == len(set(dois)) >= 20
    assert all(len(line.split(". [doi:")[0]) > 6 for line in lines)
    assert all(line.count("(") == line.count(")") for line in lines)


def test_every_dataset_and_model_has_its_page() -> None:
    pages = sitepages.data_pages(ROOT) | sitepages.model_pages(ROOT)
    for path in (ROOT / "data" / "cards").glob("*.md"):
        assert f"data/{path.stem}" in pages
        assert f"[{path.stem}]({path.name})" in pages["data/index"]
    assert pages["models/geneformer-mini"].startswith("# ")  # without the hub's front matter
    assert "geneformer-v1-10m" in pages["models/index"]


def test_sources_are_written_whole(lesson: Lesson) -> None:
    build.build(lesson)
    runs = {lesson.name: finished(lesson)}
    (lesson.root / "site").mkdir()
    (lesson.root / "site" / "index.md").write_text("# Home\n\n<!-- lessons -->\n")
    (lesson.root / "runs" / "board").mkdir()
    (lesson.root / "runs" / "board" / "index.md").write_text("# The board\n")
    source = lesson.root / "site" / "_build" / "source"
    site.write_source(lesson.root, [lesson], runs, source)
    assert "01 · Is two more than one?" in (source / "index.md").read_text()
    assert (source / "board" / "index.md").is_file()
    for name in ("01_tiny.ipynb", "01_tiny.solution.ipynb", "01_tiny.card.json"):
        assert (source / "extra" / "downloads" / name).is_file()
    [(_, alt)] = json.loads((source / "alternatives.json").read_text()).items()
    assert alt == "A figure of one dot, for tests."
    site.write_source(lesson.root, [lesson], runs, source, board=False)  # as a bundle has it
    assert not (source / "board").exists()
    lesson.notebook("learner").unlink()
    with pytest.raises(CourseError, match="make build"):
        site.write_source(lesson.root, [lesson], runs, source)


# --- the glossary ------------------------------------------------------------------------------------


def test_the_course_s_own_glossary_is_in_form() -> None:
    known = glossary.terms(ROOT / "site" / "glossary.md")
    assert len(known) >= 60
    assert all(term.definition.endswith((".", ")")) for term in known)
    wanted, by_name = glossary.finder(known)
    for term in known:
        for name in term.names:
            for text in (name, name.capitalize() if name.islower() else name, f"{name}s"):
                match = wanted.search(f"the {text}, here")
                assert match, text
                assert glossary.term_of(match[0], by_name) == term, text
    met = glossary.first_met(known, lessons(ROOT))
    assert met["01_foundation_model"]
    brought = [term.names[0] for found in met.values() for term in found]
    assert len(brought) == len(set(brought))


def test_words_are_found_whole_and_abbreviations_as_written() -> None:
    found = glossary.pattern(["bin", "rank encoding", "ARI"])
    text = "A bin, bins; robin binary; Rank-encoding, rank  encodings; ARI, ari, safari, the ARIs"
    assert found.findall(text) == ["bin", "bins", "Rank-encoding", "rank  encodings", "ARI", "ARIs"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# no block", "holds no"),
        ("```{glossary}\none\n\n  two\n```\n", "has no definition"),
        ("```{glossary}\none\n  x.\n\nOne\n  y.\n```\n", "more than once: one"),
    ],
)
def test_a_broken_glossary_is_told(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "glossary.md").write_text(text)
    with pytest.raises(CourseError, match=words):
        glossary.terms(tmp_path / "glossary.md")


def test_the_glossary_names_the_lesson_that_brings_a_word(tmp_path: Path, lesson: Lesson) -> None:
    text = "# G\n\n```{glossary}\n:sorted:\n\nnumber\nnumeral\n  A thing to\n  count with.\n\nletter\n  Not here.\n```\nend\n"
    (tmp_path / "g.md").write_text(text)
    known = glossary.terms(tmp_path / "g.md")
    met = glossary.first_met(known, [lesson])
    assert [term.names[0] for term in met[lesson.name]] == ["number"]
    out = glossary.with_lessons(text, known, met, {lesson.name: "[Lesson 01.](x)"})
    assert ":sorted:\n\nnumber\nnumeral\n  A thing to count with. [Lesson 01.](x)\n" in out
    assert "letter\n  Not here.\n" in out
    assert out.endswith("```\nend\n")
    token = [glossary.Term(("<cls>",), "A token.")]
    assert "\n\\<cls>\n  A token." in glossary.with_lessons(
        text, token, {}, {}
    )  # not a tag, which would be nothing to see


# --- the map -----------------------------------------------------------------------------------------


@st.composite
def courses(draw: st.DrawFn) -> list[conceptmap.Stop]:
    count = draw(st.integers(1, 8))
    return [
        conceptmap.Stop(
            f"{k:02d}",
            f"Is <{k}> right?",
            f"l{k}.html",
            draw(st.lists(st.sampled_from([f"{i:02d}" for i in range(1, k)]), unique=True)) if k > 1 else [],
        )
        for k in range(1, count + 1)
    ]


def reach(arrows: list[tuple[str, str]], end: str) -> set[str]:
    return {n for a, b in arrows if b == end for n in (a, *reach(arrows, a))}


@given(courses())
def test_each_stop_lies_below_what_it_needs_and_no_arrow_is_one_too_many(stops: list[conceptmap.Stop]) -> None:
    row = {stop.number: k for k, stops_ in enumerate(conceptmap.levels(stops)) for stop in stops_}
    assert sorted(row) == [stop.number for stop in stops]
    everything = [(a, stop.number) for stop in stops for a in stop.after]
    few = conceptmap.direct(stops)
    assert set(few) <= set(everything)
    for stop in stops:
        assert all(row[a] < row[stop.number] for a in stop.after)
        assert reach(few, stop.number) == reach(everything, stop.number)
    for arrow in few:
        assert reach([other for other in few if other != arrow], arrow[1]) != reach(everything, arrow[1])
    drawing = conceptmap.svg(stops)
    assert drawing.count("<rect") == len(stops)
    assert drawing.count('class="arrow"') == len(few)
    assert "<1>" not in drawing


def test_the_map_says_in_words_what_it_shows() -> None:
    stops = [
        conceptmap.Stop("01", "What?", "lessons/01.html", words=["token"], needs="some Python"),
        conceptmap.Stop("02", "How?", "lessons/02.html", ["01", "09"]),  # 09 is not there yet
    ]
    text = conceptmap.page(stops)
    assert "Needs some Python. Brings: {term}`token`." in text
    assert "Needs 01, 09." in text
    assert "lessons/02.ipynb" in text
    assert conceptmap.direct(stops) == [("01", "02")]
