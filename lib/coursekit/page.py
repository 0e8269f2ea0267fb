"""An executed notebook as one HTML file that needs nothing from the network: no scripts, fonts or pictures from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .course import atomic_write

_TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock html_head_js -%}
{%- block html_head_js_mathjax -%}{%- endblock html_head_js_mathjax -%}
{%- block html_head_js_mermaidjs -%}{%- endblock html_head_js_mermaidjs -%}
"""
_OUTSIDE = re.compile(
    r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)\s*=\s*[\"'](?:https?:)?//[^\"']+[\"'][^>]*>", re.I
)
_IMPORT = re.compile(r"(?:@import\s+(?:url\()?|url\(|import\()\s*[\"']?https?://[^\"')]+", re.I)


def outside_references(text: str) -> list[str]:
    """What an HTML page would fetch from the network when it is opened (links to click on are not among them)."""
    return _OUTSIDE.findall(text) + _IMPORT.findall(text)


def write_page(path: Path, notebook: Any, title: str) -> None:
    """Write the notebook as an HTML page called ``title``; pictures are embedded."""
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"coursekit.html.j2": _TEMPLATE})],
        template_file="coursekit.html.j2",
        embed_images=True,
    )
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    with atomic_write(path) as handle:
        handle.write(body)
