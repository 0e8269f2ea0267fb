"""A finished run of the tiny course, written by hand: no kernel is needed to test what is done with runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat

from coursekit.course import Lesson
from coursekit.lesson.notebook import edition, read_source

PARAMETERS = {"profile": "quick", "dataset": "tiny", "seed": 0, "n_cells": None, "share": 0.5, "mode": "well"}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def finished(
    lesson: Lesson,
    name: str = "a",
    status: str = "passed",
    alt: str = "A figure of one dot, for tests.",
    **parameters: Any,
) -> Path:
    """A run as coursekit leaves it, in the lesson's folder of runs."""
    folder = lesson.runs / name
    folder.mkdir(parents=True)
    notebook = edition(read_source(lesson), "solution", lesson.name)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and 'record("double", 2.0' in cell["source"]:
            data = {"application/vnd.coursekit.record+json": {}, "text/plain": "recorded  double = <0>"}
            cell["outputs"] = [
                nbformat.v4.new_output("display_data", data=data),
                nbformat.v4.new_output("stream", name="stderr", text="a progress bar"),
                nbformat.v4.new_output("display_data", data={"image/png": PNG}, metadata={"image/png": {"alt": alt}}),
            ]
    notebook["cells"].insert(
        2, nbformat.v4.new_code_cell("profile = 'quick'", metadata={"tags": ["injected-parameters"]})
    )
    nbformat.write(notebook, folder / "notebook.ipynb")
    results = {
        "double": {"value": 0.5, "key": True, "tolerance": 0.1},
        "both": {"value": {"mean": 1.0, "low": 0.5, "high": 2.0}},
    }
    results["odd_name"] = {"value": {"a|b": "NaN", "*c*": [1, 2]}, "tolerance": "any"}
    card = {
        **{"card": 1, "lesson": lesson.name, "edition": "solution", "status": status, "started": "2026-11-20T10:00:00"},
        **{"seconds": 61.0, "peak_memory_bytes": 2**30, "parameters": {**PARAMETERS, **parameters}, "results": results},
        **{"used": [{"kind": "dataset", "name": "tiny", "sha256": "ab" * 32}], "git": {"commit": None, "dirty": None}},
        **{"python": "3.11", "os": "Linux", "device": {"cpu": "A CPU", "cores": 1, "gpus": []}},
    }
    (folder / "card.json").write_text(json.dumps(card))
    return folder
