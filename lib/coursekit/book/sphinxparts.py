"""What the book needs of Sphinx beyond MyST-NB: alt text of figures, links into the glossary, mathematics without scripts.

A Sphinx extension; ``site/conf.py`` names it. It reads ``coursekit_alternatives`` (hash of a figure -> alt text) from the
configuration, which ``coursekit site`` writes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging

from coursekit.book import glossary
from coursekit.run.maths import mathml

logger = logging.getLogger(__name__)
NOT_IN = (nodes.reference, nodes.literal, nodes.title, nodes.raw, addnodes.pending_xref, nodes.literal_block)
PARTS = (nodes.paragraph, nodes.list_item, nodes.entry)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_config_value("coursekit_alternatives", "", "env", str)
    app.add_config_value("coursekit_glossary", "glossary", "env", str)
    app.connect("doctree-read", _figures)
    app.connect("doctree-read", _glossary_links)
    app.connect("doctree-read", _heads_of_rows)
    if "sphinx.ext.autodoc" in app.extensions:
        app.connect("autodoc-process-docstring", _as_written)
    app.add_html_math_renderer("mathml", (_inline_math, None), (_display_math, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _figures(app: Sphinx, tree: nodes.document) -> None:
    """Give every figure of a lesson its alt text (MyST-NB hands on only width and height of an output)."""
    path = Path(app.config.coursekit_alternatives) if app.config.coursekit_alternatives else None
    known = json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}
    for image in list(tree.findall(nodes.image)):
        alt = known.get(Path(image["uri"]).stem)
        if alt:
            image["alt"] = alt
        if not image.get("alt"):
            logger.warning("a figure has no alternative text: %s", image["uri"], location=image)
        box = nodes.container(classes=["scroll", "picture"])  # so that a phone can scroll it
        image.parent.replace(image, box)
        box += image


def _glossary_links(app: Sphinx, tree: nodes.document) -> None:
    """Link the first mention of each term in a lesson to the glossary."""
    name = app.env.docname if hasattr(app.env, "docname") else ""
    if not name.startswith("lessons/"):
        return
    path = Path(app.srcdir) / f"{app.config.coursekit_glossary}.md"
    known = glossary.terms(path) if path.is_file() else []
    if not known:
        return
    wanted, by_name = glossary.finder(known)
    linked: set[str] = set()
    for text in list(tree.findall(nodes.Text)):
        above = []
        parent = text.parent
        while parent is not None and parent is not tree:
            above.append(parent)
            parent = parent.parent
        if any(isinstance(node, NOT_IN) for node in above) or not any(isinstance(node, PARTS) for node in above):
            continue
        pieces = _pieces(str(text), wanted, by_name, linked, name)
        if len(pieces) > 1:
            text.parent.replace(text, pieces)


def _pieces(text: str, wanted: Any, by_name: Any, linked: set[str], docname: str) -> list[nodes.Node]:
    pieces: list[nodes.Node] = []
    end = 0
    for match in wanted.finditer(text):
        term = glossary.term_of(match[0], by_name).names[0]
        if term in linked:
            continue
        linked.add(term)
        to = {"refdomain": "std", "reftype": "term", "reftarget": term, "refdoc": docname}
        link = addnodes.pending_xref("", refexplicit=True, refwarn=True, **to)
        link += nodes.inline(match[0], match[0], classes=["xref", "std", "std-term"])
        pieces += [nodes.Text(text[end : match.start()]), link]
        end = match.end()
    return [*pieces, nodes.Text(text[end:])]


def _heads_of_rows(app: Sphinx, tree: nodes.document) -> None:
    """A Markdown table whose first head is empty has row heads in its first column: mark the cell as decoration."""
    for head in tree.findall(nodes.thead):
        for entry in head.findall(nodes.entry):
            if not entry.astext().strip():
                entry["classes"].append("corner")


def _as_written(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """In the docstring of a module an indented block is code or a drawing: it stays as it is written."""
    if what == "module":
        inside = [line.startswith("    ") or not line.strip() for line in lines]
        starts = [i for i in range(2, len(lines)) if lines[i].strip() and inside[i] and not lines[i - 1].strip()]
        for i in reversed(starts):
            if not inside[i - 2] and not lines[i - 2].endswith("::"):
                lines[i:i] = ["::", ""]


def _mathml(latex: str, display: str) -> str:
    made = mathml(latex, display)
    if "\\" in made:
        logger.warning("this formula holds a command that MathML has no word for: %s", latex)
    return made


def _inline_math(self: Any, node: nodes.math) -> None:
    self.body.append(f'<span class="math">{_mathml(node.astext(), "inline")}</span>')
    raise nodes.SkipNode


def _display_math(self: Any, node: nodes.math_block) -> None:
    label = f' id="{node["ids"][0]}"' if node.get("ids") else ""
    self.body.append(f'<div class="math scroll" tabindex="0"{label}>{_mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode
