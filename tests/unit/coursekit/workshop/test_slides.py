"""What a slide says of a section: whole sentences, and enough of them; the rest is told by the notes."""

from __future__ import annotations

import nbformat

from coursekit.workshop import slides

TEXT = """\
## So?

**Who said so?** A score can be no better than its labels. A third sentence.

Three habits. Never show a model without its twin.

A first sentence that is long enough to stand on its own, as most of them are. Another.

- a list
"""


def test_sentences_are_whole_and_short_ones_not_alone() -> None:
    cells = [nbformat.v4.new_markdown_cell(TEXT), nbformat.v4.new_code_cell("1")]
    assert slides.key_sentences(cells) == [
        "**Who said so?** A score can be no better than its labels.",
        "Three habits. Never show a model without its twin.",
        "A first sentence that is long enough to stand on its own, as most of them are.",
    ]
    assert slides._paragraphs(cells)[0].endswith("A third sentence.")
    assert len(slides._paragraphs(cells)) == 3


def test_solutions_and_exercises_are_on_no_slide() -> None:
    solution = nbformat.v4.new_markdown_cell("The answer is 42, as everybody knows.", metadata={"tags": ["solution"]})
    exercise = nbformat.v4.new_markdown_cell("Before it.\n\n### Exercise 01.1\nFind the answer to everything.")
    assert slides.key_sentences([solution, exercise]) == ["Before it."]
