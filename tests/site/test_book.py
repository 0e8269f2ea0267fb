"""The book in a browser: every page, its search, quizzes, hints, dark mode, on a phone, for someone with a keyboard."""

from __future__ import annotations

import html.parser
import json
import re
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from bookshelf import ROOT, Book, Tab, need, new_tab
from offline import outside_references

from coursekit.course import lessons
from coursekit.lesson.facts import facts_of
from coursekit.lesson.notebook import read_source, tags

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
# What reaches beyond the screen and is not cut or scrolled by a box around it
WIDE = """() => [...document.querySelectorAll("article *")].filter(e => {
  if (e.getBoundingClientRect().right <= innerWidth + 1 || !e.getClientRects().length) return false;
  for (let p = e.parentElement; p; p = p.parentElement) if (getComputedStyle(p).overflowX !== "visible" && p !== document.body && p !== document.documentElement) return false;
  return true;
}).slice(0, 5).map(e => e.tagName + "." + e.className + ": " + e.textContent.trim().slice(0, 60))"""


def shown(book: Book) -> list[Any]:
    """The lessons that this book has."""
    return [lesson for lesson in lessons(ROOT) if (book.folder / "lessons" / f"{lesson.name}.html").is_file()]


def test_it_was_built_without_a_network(book: Book) -> None:
    if not book.offline:
        pytest.skip("needs a network namespace (Linux, unshare and ip): built with the network that is there")
    assert (book.folder / "index.html").is_file()
    assert shown(book)


def test_every_page_is_quiet_and_stays_at_home(book: Book, tab: Tab) -> None:
    for name in book.pages():
        page = tab.open(name)
        assert page.title(), name
        assert page.locator("h1").count() >= 1, name
        for image in page.locator("main img").all():
            assert len(image.get_attribute("alt") or "") >= 30, f"{name}: a figure without words"
        assert tab.faults == [], name


def test_no_file_refers_to_another_server(book: Book) -> None:
    for name in book.pages():
        assert outside_references((book.folder / name).read_text(encoding="utf-8")) == [], name
    for path in book.folder.rglob("*.css"):
        found = re.findall(r"url\(\s*[\"']?(?:https?:)?//[^)]+\)|@import[^;]+//[^;]+", path.read_text(encoding="utf-8"))
        assert not found, path


def test_every_link_leads_somewhere(book: Book) -> None:
    ids, links = {}, []
    for name in book.pages():
        found = _Links()
        found.feed((book.folder / name).read_text(encoding="utf-8"))
        ids[name] = found.ids
        links += [(name, link) for link in found.links]
    missing = []
    for name, link in links:
        parts = urlsplit(link)
        if parts.scheme or link.startswith("//"):
            continue
        target = (
            (book.folder / name).parent.joinpath(unquote(parts.path)).resolve() if parts.path else book.folder / name
        )
        page = target.relative_to(book.folder.resolve()).as_posix() if target.is_file() else ""
        if not target.is_file() or (parts.fragment and page in ids and unquote(parts.fragment) not in ids[page]):
            missing.append(f"{name}: {link}")
    assert missing == []
    assert len(links) > 500


class _Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = {"", "search"}
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("id", "name") and value:
                self.ids.add(value)
            if name in ("href", "src") and value:
                self.links.append(value)


def test_all_that_was_promised_is_there(book: Book) -> None:
    pages = set(book.pages())
    assert {
        "index.html",
        "map.html",
        "cheat-sheet.html",
        "own-cells.html",
        "glossary.html",
        "papers.html",
        "results.html",
        "search.html",
    } <= pages
    assert {f"data/{path.stem}.html" for path in (ROOT / "data" / "cards").glob("*.md")} <= pages
    assert {f"models/{path.parent.name}.html" for path in (ROOT / "data" / "models").glob("*/README.md")} <= pages
    index = (book.folder / "index.html").read_text(encoding="utf-8")
    results = (book.folder / "results.html").read_text(encoding="utf-8")
    for lesson in shown(book):
        text = (book.folder / "lessons" / f"{lesson.name}.html").read_text(encoding="utf-8")
        card = json.loads((book.folder / "downloads" / f"{lesson.name}.card.json").read_text(encoding="utf-8"))
        for name in card["results"]:
            assert f">{name}<" in results, name
        assert f"lessons/{lesson.name}.html" in index
        for name in (f"{lesson.name}.ipynb", f"{lesson.name}.solution.ipynb"):
            assert f"../downloads/{name}" in text
            json.loads((book.folder / "downloads" / name).read_text(encoding="utf-8"))
        assert "../glossary.html#term-" in text
        assert facts_of(lesson)["question"] in html.unescape(text)
        assert "colab.research.google.com" not in text  # the repository has no address in pyproject.toml yet


def test_the_reference_says_what_a_function_takes_and_gives(book: Book) -> None:
    text = html.unescape((book.folder / "reference" / "tokenize.html").read_text(encoding="utf-8"))
    entry = text.split('id="scfm.tokenize.rank_encode"')[1].split("</dl>")[0]
    assert "Parameters" in entry
    assert "TokenizedCells" in text


def test_what_is_for_instructors_is_not_in_the_book(book: Book) -> None:
    seen = 0
    for lesson in shown(book):
        text = _words((book.folder / "lessons" / f"{lesson.name}.html").read_text(encoding="utf-8"))
        for cell in read_source(lesson)["cells"]:
            if "instructor" in tags(cell):
                for line in cell["source"].splitlines():
                    if len(_words(line)) > 40:
                        seen += 1
                        assert _words(line) not in text, line
    assert seen


def _words(text: str) -> str:
    return re.sub(r"[\W_]+", "", re.sub(r"<[^>]+>", "", html.unescape(text))).lower()


def test_search_finds_rank_value(tab: Tab) -> None:
    page = tab.open("index.html")
    page.keyboard.press("Control+k")
    page.locator("#pst-search-dialog input[type=search]").fill("rank value")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=rank+value*")
    first = page.locator("#search-results ul.search li a")
    first.first.wait_for()
    addresses = [link.get_attribute("href") or "" for link in first.all()]
    assert any("lessons/02" in address or "glossary" in address for address in addresses), addresses
    page.goto(tab.address + "search.html?q=zzqqyy")
    page.get_by_text("did not match any documents").wait_for()
    assert tab.faults == []


def test_a_quiz_answers_wrong_and_right(tab: Tab, book: Book) -> None:
    page = tab.open(f"lessons/{shown(book)[0].name}.html")
    quiz = page.locator(".quiz").first
    wrong, right = quiz.locator("details.wrong").first, quiz.locator("details.right").first
    assert not wrong.locator("p").is_visible()
    wrong.locator("summary").click()
    wrong.locator("p", has_text=re.compile(r"^\s*✗ Not this one\.")).wait_for()
    quiz.locator(
        ".tally", has_text=re.compile(r"^Not yet\. Try another one\.$")
    ).wait_for()  # said after the toggle event
    assert not right.locator("p").is_visible()
    right.locator("summary").focus()
    page.keyboard.press("Enter")  # without a mouse
    right.locator("p", has_text=re.compile(r"^\s*✓ Right\.")).wait_for()
    quiz.locator(".tally", has_text=re.compile(r"^Answered, after 2 tries\.$")).wait_for()
    assert tab.faults == []


def test_hints_open_one_step_at_a_time_and_the_solution_last(tab: Tab, book: Book) -> None:
    lesson = shown(book)[0]
    page = tab.open(f"lessons/{lesson.name}.html")
    hints = page.locator(".hints").first
    steps = hints.locator("summary")
    assert steps.count() >= 2
    assert not steps.nth(1).is_visible()
    steps.nth(0).click()
    assert steps.nth(1).is_visible()
    assert hints.locator("p").nth(0).is_visible()
    assert not hints.locator("p").nth(1).is_visible()
    steps.nth(1).click()
    assert hints.locator("p").nth(1).is_visible()
    solution = page.locator(".tag_solution").first
    assert not solution.locator("pre").first.is_visible()
    solution.locator("summary").click()
    assert solution.locator("pre").first.is_visible()
    assert "Exercise" in solution.inner_text()  # the check's own words, from the executed notebook
    assert page.locator(".tag_exercise pre").first.is_visible()


def test_quizzes_and_hints_need_no_script(chromium: Any, book: Book) -> None:
    tab = new_tab(chromium, book.address, java_script_enabled=False)
    page = tab.open(f"lessons/{shown(book)[0].name}.html")
    page.locator(".quiz details.right summary").first.click()
    assert page.locator(".quiz details.right p").first.is_visible()
    page.locator(".hints summary").first.click()
    assert page.locator(".hints p").first.is_visible()
    tab.page.context.close()


def test_dark_mode_is_chosen_and_kept(tab: Tab) -> None:
    page = tab.open("index.html")
    colour = "() => getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(colour) == "rgb(255, 255, 255)"
    page.get_by_label("Color mode").first.click()
    page.locator(".theme-change-button[data-mode=dark]").first.click()
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    dark = page.evaluate(colour)
    assert max(map(int, re.findall(r"\d+", dark)[:3])) < 60
    page = tab.open("results.html")
    assert page.evaluate(colour) == dark
    assert tab.faults == []


def test_a_reader_whose_system_is_dark_gets_dark_pages(chromium: Any, book: Book) -> None:
    tab = new_tab(chromium, book.address, color_scheme="dark")
    assert tab.open("index.html").evaluate("document.documentElement.dataset.theme") == "dark"
    tab.page.context.close()


def test_on_a_phone_nothing_scrolls_sideways(chromium: Any, book: Book) -> None:
    tab = new_tab(chromium, book.address, **PHONE)
    for name in book.pages():
        page = tab.open(name)
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        assert page.evaluate(WIDE) == [], name
        page.evaluate("window.scrollTo(200, 0)")
        assert page.evaluate("window.scrollX") == 0, name
    tab.page.context.close()


def test_the_keyboard_reaches_everything_that_scrolls(tab: Tab, book: Book) -> None:
    page = tab.open(f"lessons/{shown(book)[0].name}.html")
    stuck = page.evaluate(
        """() => [...document.querySelectorAll("main *")].filter(e =>
             ["auto", "scroll"].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth + 1 && e.clientWidth
             && e.tabIndex < 0 && !e.querySelector("a, button, [tabindex='0']")).map(e => e.outerHTML.slice(0, 120))"""
    )
    assert stuck == []
    page.keyboard.press("Tab")
    assert "Skip" in page.evaluate("document.activeElement.textContent")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(chromium: Any, book: Book, scheme: str) -> None:
    need("axe_playwright_python")
    from axe_playwright_python.sync_playwright import Axe

    tab = new_tab(chromium, book.address, color_scheme=scheme)
    cards = [name for name in book.pages() if name.startswith("data/") and name != "data/index.html"]
    found = []
    for name in book.pages():
        if name in cards[3:]:  # made by one template: three of them speak for all
            continue
        page = tab.open(name)
        # what fades in is judged when it is there: on a busy machine axe came while a box was half transparent
        page.add_style_tag(content="* { animation: none !important; transition: none !important }")
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        for fault in Axe().run(page).response["violations"]:
            if fault["impact"] in ("serious", "critical"):
                where = [
                    node["html"][:160] + " " + node["any"][0]["message"][:160] if node["any"] else node["html"][:160]
                    for node in fault["nodes"][:3]
                ]
                found.append(f"{name}: {fault['id']} ({len(fault['nodes'])}): {where}")
    tab.page.context.close()
    assert found == []


def run_page(name: str) -> dict[str, Any]:
    """The Python code of a page of the book, run from top to bottom."""
    import matplotlib as mpl

    mpl.use("Agg")
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "site" / name).read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) >= 5
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, name, "exec"), names)
    return names


def test_the_page_on_own_cells_runs() -> None:
    names = run_page("own-cells.md")
    assert names["again"].predict(names["cells"]).tolist() == names["types"].tolist()
    assert names["adata"].obsm["X_model"].shape[0] == names["adata"].n_obs
    assert set(names["across"]["group"]) == {"d1", "d2", "d3", "d4"}


def test_the_cheat_sheet_runs() -> None:
    names = run_page("cheat-sheet.md")
    assert names["emb"].shape[0] == names["adata"].n_obs
    assert {"pretrained", "random twin", "HVG + PCA"} == set(names["table"]["method"])
