"""Every lesson on a GPU, with solutions. Its run, with card and page, stays in runs/ (`make readme` takes the numbers from there).

Profile gpu with its own data where they are on this machine or can be downloaded; else the same profile with the minis on the quick
profile's cells, which come with the course. The test's name says which. LESSONS_GPU=minis asks for the second everywhere.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import pytest

from coursekit.course import Lesson, lessons
from coursekit.lesson.notebook import read_source
from coursekit.lesson.params import parameters_of
from coursekit.run.execute import run
from coursekit.run.expect import judge, load

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.gpu, pytest.mark.slow]
FIRST_OF_QUICK = re.compile(r'"quick":\s*[\[{(]\s*(?:"\w+":\s*[\[(]?\s*)?"([\w-]+)"')


def words_of(full: Any) -> set[str]:
    """All strings of a lesson's code."""
    code = "\n".join(cell["source"] for cell in full["cells"] if cell["cell_type"] == "code")
    return {
        node.value
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def missing(full: Any) -> list[str]:
    """The data sets that a lesson names anywhere and that can neither be downloaded nor replaced, and are in no cache."""
    from scfm import datasets
    from studies import ablation

    named = words_of(full)
    named |= {study.dataset for name, study in ablation.STUDIES.items() if name in named}
    return sorted(name for name in named & set(datasets.entries()) if datasets._replacement(name) is None)


def plan(lesson: Lesson) -> tuple[str, dict[str, Any]]:
    """How a lesson can run here, in words, and its parameters."""
    full = read_source(lesson)
    if not missing(full) and os.environ.get("LESSONS_GPU") != "minis":
        return "gpu", {"profile": "gpu"}
    code = "\n".join(cell["source"] for cell in full["cells"])
    found = FIRST_OF_QUICK.search(code)
    cells = found[1] if found else "pbmc68k"
    given = {"profile": "gpu"} | ({"dataset": cells} if "dataset" in parameters_of(full) else {})
    return f"gpu sizes, minis, {cells}", given


def each() -> list[Any]:
    planned = [(lesson, *plan(lesson)) for lesson in lessons(ROOT)]
    return [pytest.param(lesson, given, id=f"{lesson.name} ({how})") for lesson, how, given in planned]


@pytest.mark.parametrize(("lesson", "given"), each())
def test_a_lesson_runs_on_the_gpu(lesson: Lesson, given: dict[str, Any]) -> None:
    import torch

    done = run(lesson, given)
    assert done.passed, (done.folder / "traceback.txt").read_text()
    assert done.card["device"]["gpus"], f"PyTorch sees {torch.cuda.get_device_name()}, and nvidia-smi named no GPU"
    assert done.card["results"]
    if "dataset" not in given and "[gpu]" in lesson.expected.read_text():
        assert judge(load(lesson, "gpu"), done.card["results"]) == []
