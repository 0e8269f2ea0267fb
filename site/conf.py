"""Sphinx's settings of the book. `make site` runs the lessons, writes all pages and then calls Sphinx with this file.

Where the pages lie, html_extra_path and coursekit_alternatives are given on its command line.
"""

import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
SETTINGS = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))

project = "Single-cell foundation models, learned by running"
author = "the scfm-course authors"
copyright = f"{author}. Lessons: CC BY 4.0, code: Apache-2.0"
version = release = SETTINGS["project"]["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "coursekit.book.sphinxparts"]
exclude_patterns = ["extra"]
# a lesson may go from a title to an exercise; two classes of the library may have one name (Settings)
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header", "ref.python"]
nitpicky = False

# The reference, from the library's docstrings
napoleon_use_ivar = True  # an attribute that is also a property is described once
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
add_module_names = False

# Lessons come executed; nothing is run here, and no output may load a script
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_merge_streams = True
nb_output_stderr = "remove"
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_update_mathjax = False
html_math_renderer = "mathml"  # rendered while building, read by the browser itself

html_context = {"default_mode": "auto"}
html_favicon = "_static/favicon.svg"
html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_js_files = [("course.js", {"defer": "defer"})]
html_copy_source = False
html_use_index = False
html_domain_indices = False
html_show_sourcelink = False
html_show_sphinx = False
html_permalinks_icon = "#"
html_last_updated_fmt = None
pygments_style = "a11y-high-contrast-light"
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "max_navbar_depth": 1,  # the forty datasets are listed on their own page
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
