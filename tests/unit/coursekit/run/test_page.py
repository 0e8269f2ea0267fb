"""The page of a run: formulas are drawn without a script, and code keeps its dollars."""

from __future__ import annotations

import html
from pathlib import Path

import nbformat
import pytest
from offline import outside_references

from coursekit.run.maths import with_formulas
from coursekit.run.page import write_page


def test_formulas_of_a_page_are_mathml_and_code_is_as_written(tmp_path: Path) -> None:
    cells = [
        nbformat.v4.new_markdown_cell(r"A loss $L_\text{GEP}$ and *more*:" + "\n\n" + r"$$\frac{\sum_j m_j}{2}$$"),
        nbformat.v4.new_code_cell('print("$a$ and $$b$$")'),
    ]
    write_page(tmp_path / "page.html", nbformat.v4.new_notebook(cells=cells), "a page")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("<math") == 2
    assert "<em>more</em>" in text
    assert "L_\\text" not in text
    assert "$a$" in text
    assert outside_references(text) == []


def test_what_is_no_formula_stays() -> None:
    for plain in ("5 $ and 6 $", r"a \$5 note", "cost: $5 or $6"):
        assert with_formulas(plain, str) == plain
    assert 'display="block"' in with_formulas("$$x$$", str)


def test_code_keeps_its_dollars() -> None:
    for plain in ("`$A:$B`", "``a ` $A:$B``", "```\n$x$\n```", "~~~sh\n$x$ $$y$$\n~~~", "```\n$x$", "`a\nb $x$`"):
        assert with_formulas(plain, str) == plain
    assert with_formulas("a ` alone\n\n$x$ and `", str).count("<math") == 1
    assert with_formulas("`$a$` $x$ `$b$`", str).count("<math") == 1
    assert with_formulas("⟦7⟧ $x$", str).startswith("⟦7⟧ <math")


@pytest.mark.parametrize("broken", [r"$\left( x$", "$x_$", "$x<y^$", r"$$\left( x$$"])
def test_a_formula_that_is_none_is_shown_as_it_was_written(broken: str, tmp_path: Path) -> None:
    cells = [nbformat.v4.new_markdown_cell(f"Mine: {broken}, and $x$")]
    write_page(tmp_path / "page.html", nbformat.v4.new_notebook(cells=cells), "a page")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<math" in text
    assert f"<code>{html.escape(broken)}</code>" in text
