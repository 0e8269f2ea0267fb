"""Whoever fell behind goes on as if the solution had been run; whatever was changed or is of another version is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_course import CHECKS, EXERCISE, make_course
from tiny_geneformer import config

from coursekit.course import CourseError, choose
from coursekit.files import alone
from coursekit.run.execute import prepare
from coursekit.workshop import checkpoint, keep, pieces
from scfm.models.geneformer_files import random_network

LESSON = (
    """\
# %% [markdown]
# # 01 · Where did we leave?
#
# | You will be able to | Time | Needs |
# |---|---|---|
# | go on | 5 min | nothing |

# %% tags=["parameters"]
profile = "quick"  # quick | cpu | gpu
seed = 3

# %%
import numpy as np
import torch

from coursekit import check, record

numbers = np.arange(40_000.0)
network = torch.nn.Linear(200, 200)
torch.manual_seed(seed)
SCALE = 2.0


def scaled(x, by=SCALE):
    return by * x + seed


# %% [markdown]
# ## The first section
# Numbers are drawn.

# %%
drawn = torch.rand(3)
owner = {"network": network, "rule": lambda x: x + 1}
stream = (i for i in range(3))
import matplotlib.pyplot as plt

figure, panels = plt.subplots(1, 2)

"""
    + EXERCISE
    + """\
# %% [markdown]
# ## The end of it
# What comes out depends on everything above.

# %%
numbers[0] = 5.0
after = torch.rand(2)
record("after", [round(float(v), 6) for v in after])
record("sum", float(scaled(numbers).sum()) + larger(1, 2) + owner["rule"](1))
record("same", owner["network"] is network)

# %% [markdown]
# ## Key points
# - One can go on.
#
# ## Further reading
# - A paper, https://doi.org/10.1038/s41586-023-06139-9
"""
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_course(tmp_path_factory.mktemp("course"), LESSON, CHECKS)
    line = keep.make(choose(root, ["01"])[0])
    assert "4 checkpoints" in line, line
    assert keep.LACKS not in line, "nothing below reads the figure and the stream, which cannot be kept"
    return root


@pytest.fixture
def course(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to break."""
    root = tmp_path / "course"
    shutil.copytree(made, root)
    monkeypatch.setenv("COURSEKIT_ROOT", str(root))
    return root


def whole(root: Path) -> dict[str, Any]:
    """The names after all cells of the solution, run in this process."""
    lesson = choose(root, ["01"])[0]
    names: dict[str, Any] = {}
    for source in checkpoint.code_above(prepare(lesson)):
        exec(source, names)
    return names


def rest(root: Path, names: dict[str, Any], cell: int) -> None:
    """The solution's cells from ``cell`` on, in ``names``."""
    lesson = choose(root, ["01"])[0]
    for c in prepare(lesson)["cells"][cell:]:
        if c["cell_type"] == "code":
            exec(c["source"], names)


@pytest.mark.parametrize("where", [("01.1", ""), ("01", "The first section"), ("1", "the end"), ("01", "Key points")])
def test_what_follows_is_as_if_all_above_had_been_run(course: Path, where: tuple[str, str]) -> None:
    full, names = whole(course), {}
    checkpoint.resume(*where, namespace=names)
    stored = checkpoint.manifest(choose(course, ["01"])[0])["points"]
    chosen = checkpoint._chosen(stored, *where)
    rest(course, names, chosen["cell"])
    np.testing.assert_array_equal(names["numbers"], full["numbers"])
    assert torch.equal(names["after"], full["after"])
    assert torch.equal(names["drawn"], full["drawn"])
    assert names["owner"]["network"] is names["network"]
    assert names["owner"]["rule"](1) == 2
    assert names["network"].weight.requires_grad
    assert (names["scaled"](1), names["seed"], names["larger"](1, 2)) == (5, 3, 2)
    names["SCALE"] = names["seed"] = 0.0
    assert names["scaled"](1) == 2.0, "a function's globals are those of the notebook it was brought into"


def test_what_cannot_be_kept_is_named_with_the_reason(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    checkpoint.resume("01.1", namespace=names)
    said = capsys.readouterr().out
    assert "exercise 01.1" in said
    assert "profile=quick, seed=3" in said
    assert "figure (a figure), panels (a figure)" in said
    assert "stream (generator" in said
    assert not {"figure", "panels", "stream"} & set(names)


def test_equal_arrays_of_several_checkpoints_are_stored_once(course: Path) -> None:
    entries = checkpoint.manifest(choose(course, ["01"])[0])["points"]
    assert set(entries[0]["buffers"]) & set(entries[1]["buffers"]), "the network has not changed between the two"
    files = {path.name for path in (course / checkpoint.FOLDER / "objects").glob("*/*")}
    assert files == {name for e in entries for name in (e["pickle"], *e["buffers"])}


def test_a_changed_piece_is_refused_and_nothing_is_touched(course: Path) -> None:
    entry = checkpoint._chosen(checkpoint.manifest(choose(course, ["01"])[0])["points"], "01.1", "")
    for name, verb in ((entry["pickle"], "changed"), (entry["buffers"][0], "changed"), (entry["pickle"], "missing")):
        path = pieces.place(course / checkpoint.FOLDER, name)
        before = path.read_bytes()
        if verb == "changed":
            path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        else:
            path.unlink()
        names = {"numbers": "mine"}
        with pytest.raises(CourseError, match=verb):
            checkpoint.resume("01.1", namespace=names)
        assert names == {"numbers": "mine"}
        path.write_bytes(before)


def test_a_damaged_piece_is_mended_by_storing_it_again(tmp_path: Path) -> None:
    name = pieces.put(tmp_path, b"content")
    path = pieces.place(tmp_path, name)
    before = path.stat().st_ino
    assert pieces.put(tmp_path, memoryview(b"content")) == name
    assert path.stat().st_ino == before  # an intact one is not written again
    path.write_bytes(b"cont")
    assert pieces.put(tmp_path, b"content") == name
    assert pieces.take(tmp_path, name) == b"content"


def test_what_the_rest_reads_and_could_not_be_kept_is_said(made: Path) -> None:
    lesson = choose(made, ["01"])[0]
    entry = checkpoint.manifest(lesson)["points"][0] | {"left_out": {"numbers": "too strange", "figure": "a figure"}}
    (line,) = keep._lacking(lesson, [entry])
    assert "not kept at “The first section”: numbers (too strange)" in line
    cells = [
        "import os\nx = 1\nfor i in y:\n    x += os.cpu_count()",
        "%magic",
        "def f(): return x + z\n[k for k in f()]",
    ]
    assert checkpoint.read_first(cells) == {"y", "z"}


def test_a_network_whose_hidden_states_were_asked_for_can_be_kept(tmp_path: Path) -> None:
    """transformers hooks into a network when they are; what the hooks look into is the process's own."""
    network = random_network(config(), seed=0).eval()
    ids = torch.arange(5)[None]
    with torch.inference_mode():
        before = network(input_ids=ids, output_hidden_states=True)
        stream, buffers, left_out = pieces.freeze({"network": network}, tmp_path)
        assert left_out == {}
        back = pieces.thaw(tmp_path, stream, buffers)["names"]["network"]
        after = back(input_ids=ids, output_hidden_states=True)
    assert len(after.hidden_states) == len(before.hidden_states) == 4
    for ours, theirs in zip(after.hidden_states, before.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_two_at_once_are_refused(course: Path) -> None:
    """The second one's sweep would delete the pieces of the first, which no file names before its end."""
    lesson = choose(course, ["01"])[0]
    before = keep.fresh(course, [lesson])
    with alone(course / checkpoint.FOLDER / "lock", ""), pytest.raises(CourseError, match="made by another process"):
        keep.make(lesson)
    assert keep.fresh(course, [lesson]) == before


def test_checkpoints_of_another_text_or_library_are_refused(course: Path) -> None:
    source = course / "notebooks" / "source" / "01_tiny.py"
    source.write_text(LESSON.replace("SCALE = 2.0", "SCALE = 3.0"), encoding="utf-8")
    with pytest.raises(CourseError, match="another text"):
        checkpoint.resume("01.1", namespace={})
    source.write_text(LESSON.replace("Numbers are drawn.", "Some numbers are drawn."), encoding="utf-8")
    checkpoint.resume("01.1", namespace={})  # prose alone changes nothing that was computed
    path = course / checkpoint.FOLDER / "01_tiny.json"
    source.write_text(LESSON + "# %% [markdown]\n# A table: `heads.parquet`.\n", encoding="utf-8")
    for folder in (course / "data", course / "data" / "results"):
        folder.mkdir()
    for file in ("datasets.toml", "results/heads.parquet"):
        (course / "data" / file).write_text("")
    with pytest.raises(CourseError, match="other tables in data/results"):
        checkpoint.resume("01.1", namespace={})
    path.write_text(json.dumps(json.loads(path.read_text()) | {"library": "other"}), encoding="utf-8")
    with pytest.raises(CourseError, match="other code in lib/"):
        checkpoint.resume("01.1", namespace={})
    path.unlink()
    with pytest.raises(CourseError, match="make checkpoints NB=01"):
        checkpoint.resume("01.1", namespace={})


def test_a_place_that_is_not_there_is_answered_with_those_that_are(
    course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in (("01.9", ""), ("01", ""), ("01", "The")):
        with pytest.raises(CourseError) as told:
            checkpoint.resume(*wrong, namespace={})
        assert 'checkpoint.resume("01", "The end of it")' in str(told.value)
    checkpoint.points("01")
    assert 'checkpoint.resume("01.1")' in capsys.readouterr().out


@pytest.mark.slow
def test_making_them_anew_removes_what_nobody_needs(course: Path) -> None:
    source = course / "notebooks" / "source" / "01_tiny.py"
    source.write_text(LESSON.replace("40_000.0", "50_000.0"), encoding="utf-8")
    lesson = choose(course, ["01"])[0]
    assert keep.fresh(course, [lesson]) == ({}, ["01"])
    keep.make(lesson)
    files, without = keep.fresh(course, [lesson])
    assert without == []
    assert {path.name for path in (course / checkpoint.FOLDER / "objects").glob("*/*")} <= {
        p.name for p in files.values()
    }
    source.write_text(LESSON.replace("numbers[0] = 5.0", "raise OSError"), encoding="utf-8")
    with pytest.raises(CourseError, match="no new checkpoints"):
        keep.make(lesson)
