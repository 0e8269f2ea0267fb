"""The slides in a browser: nothing from outside, nothing off the slide, notes for the speaker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bookshelf import ROOT, new_tab, served

from coursekit.course import CourseError, lessons
from coursekit.workshop import slides

OVER = """() => [...document.querySelectorAll(".slides > section")].flatMap((section, k) => {
  Reveal.slide(k); document.querySelectorAll(".fragment").forEach(f => f.classList.add("visible"));
  const low = Math.max(0, ...[...section.children].filter(e => !e.matches("aside")).map(e => e.offsetTop + e.offsetHeight));
  const said = section.querySelector("h1, h2").textContent;
  const small = [...section.querySelectorAll("p, li, pre, code")].filter(e => !e.closest("aside") && parseFloat(getComputedStyle(e).fontSize) < 17);
  return low > 720 || section.scrollWidth > 1280 || small.length ? [`${k + 1} ${said}: ${low} x ${section.scrollWidth}, ${small.length} small`] : [];
})"""


@pytest.fixture(scope="module")
def decks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for lesson in lessons(ROOT):
        try:
            slides.write(ROOT, [lesson], folder)
        except CourseError:
            continue  # no run of this text here
    if not list(folder.glob("[0-9]*.html")):
        pytest.skip("needs a run of a lesson in runs/: make course")
    return folder


def test_every_slide_fits_and_has_notes(decks: Path, chromium: Any) -> None:
    with served(decks) as address:
        for path in sorted(decks.glob("[0-9]*.html")):
            tab = new_tab(chromium, address, viewport={"width": 1280, "height": 720})
            page = tab.open(path.name)
            page.wait_for_function("Reveal.isReady()")
            assert page.locator(".slides > section").count() >= 10
            assert page.locator(".slides > section").count() == page.locator(".slides > section > aside.notes").count()
            assert page.evaluate("Reveal.hasPlugin('notes')")
            assert page.evaluate(OVER) == [], path.name
            assert tab.faults == []
            page.context.close()
