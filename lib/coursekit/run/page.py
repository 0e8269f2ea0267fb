"""An executed notebook as one HTML file that needs nothing from the network: no scripts, fonts or pictures from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coursekit.files import write_text
from coursekit.run.maths import with_formulas

_TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock html_head_js -%}
{%- block html_head_js_mathjax -%}{%- endblock html_head_js_mathjax -%}
{%- block html_head_js_mermaidjs -%}{%- endblock html_head_js_mermaidjs -%}
{%- block jupyter_widgets -%}{%- endblock jupyter_widgets -%}
"""
_WIDGET = "application/vnd.jupyter.widget-view+json"


def write_page(path: Path, notebook: Any, title: str) -> None:
    """Write the notebook as an HTML page called ``title``; pictures are embedded.

    Widgets are left out: they would need scripts from the network, and those of a run are finished progress bars.
    """
    import copy

    from jinja2 import DictLoader, pass_context
    from nbconvert import HTMLExporter

    class Exporter(HTMLExporter):
        @pass_context
        def markdown2html(self, context: Any, source: str) -> str:
            """Markdown whose formulas become MathML: the template's way is a script from the network."""
            plain = super().markdown2html
            return with_formulas(source, lambda text: str(plain(context, text)))

    notebook = copy.deepcopy(notebook)
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if _WIDGET not in output.get("data", {})]
    exporter = Exporter(
        extra_loaders=[DictLoader({"coursekit.html.j2": _TEMPLATE})],
        template_file="coursekit.html.j2",
        embed_images=True,
    )
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    write_text(path, body)
