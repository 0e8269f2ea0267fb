"""What `coursekit new` writes, and what it refuses; CONTRIBUTING.md as a whole is followed in tests/workflow."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from scipy.io import mmwrite
from tiny_course import make_course

import scfm
from coursekit.course import CourseError, lessons
from coursekit.lesson import build, new
from scfm.models import registry

PYPROJECT = Path(__file__).resolve().parents[4] / "pyproject.toml"


def test_a_new_lesson_is_in_form(tmp_path: Path) -> None:
    root = make_course(tmp_path)
    paths = new.lesson(root, "42_my_question")
    assert [path.relative_to(root).as_posix() for path in paths] == [
        "notebooks/source/42_my_question.py",
        "notebooks/source/checks_42.py",
        "tests/notebooks/expected/42.toml",
    ]
    lesson = lessons(root)[1]
    build.build(lesson)
    assert build.check(lesson) == []
    assert all("@" + "NN@" not in path.read_text() for path in paths)
    assert "# # 42 · My question?" in paths[0].read_text()
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "--config", str(PYPROJECT), *map(str, paths[:2])],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [("01_twin", "01 is taken by 01_tiny"), ("my_question", "like 42_my_question"), ("7_x", "like 42")],
)
def test_a_lesson_that_cannot_be(tmp_path: Path, name: str, said: str) -> None:
    root = make_course(tmp_path)
    with pytest.raises(CourseError, match=said):
        new.lesson(root, name)


def test_names_that_are_taken_and_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "datasets.toml").write_text("[here]\ntitle = 'x'\n")
    (tmp_path / "data" / "models.toml").write_text("[models.here]\nkind = 'x'\n")
    for make in (lambda name: new.dataset(tmp_path, name, tmp_path / "x.h5ad"), lambda name: new.model(tmp_path, name)):
        with pytest.raises(CourseError, match="here is in"):
            make("here")
        with pytest.raises(CourseError, match="small letters"):
            make("Not A Name")
    with pytest.raises(CourseError, match="no file or folder"):
        new.dataset(tmp_path, "other", tmp_path / "x.h5ad")
    with pytest.raises(CourseError, match="no model in"):
        new.model(tmp_path, "other")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course's folder with empty lists, and a cache folder of its own."""
    for name in ("cache", "data/models"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("SCFM_CACHE", str(tmp_path / "cache"))
    for name in ("datasets.toml", "models.toml"):
        (tmp_path / "data" / name).write_text("")
    shutil.copy(PYPROJECT.parent / "data" / "make_cards.py", tmp_path / "data")
    return tmp_path


def write_cells(folder: Path, form: str) -> Path:
    """Twenty cells of pbmc68k in a form that the course reads."""
    cells = scfm.load_dataset("pbmc68k")[:20].copy()
    if form == "10x":
        path = folder / "filtered"
        path.mkdir()
        mmwrite(path / "matrix.mtx", cells.X.T.astype(int))
        (path / "barcodes.tsv").write_text("\n".join(cells.obs_names) + "\n")
        genes = cells.var["gene_symbol"]
        (path / "genes.tsv").write_text("".join(f"{gene}\t{gene}\n" for gene in genes))
        return path
    path = folder / f"mine.one{form}"
    if form == ".zarr":
        del cells.uns["scfm"]
        cells.write_zarr(path)
    else:
        table = pd.DataFrame(cells.X.toarray().astype(int), cells.obs_names, cells.var["gene_symbol"])
        table.to_csv(path)
    return path


@pytest.mark.parametrize(
    ("form", "kept"), [(".csv.gz", "my-cells.csv.gz"), (".zarr", "my-cells.zarr"), ("10x", "my-cells")]
)
def test_every_form_that_is_read_can_be_entered(data: Path, form: str, kept: str) -> None:
    new.dataset(data, "my-cells", write_cells(data, form))
    entry = tomllib.loads((data / "data" / "datasets.toml").read_text())["my-cells"]
    assert entry["file"] == f"data/{kept}"
    copied = data / "cache" / entry["file"]
    assert entry["sha256"] == scfm.store.cache.sha256(copied)
    assert entry["bytes"] == sum(
        f.stat().st_size for f in ([copied] if copied.is_file() else copied.rglob("*")) if f.is_file()
    )
    assert scfm.load_dataset(copied).n_obs == entry["cells"] == 20
    assert (data / "data" / "cards" / "my-cells.md").is_file()


def test_a_copy_that_cannot_be_read_leaves_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new, "_ending", lambda file: ".gz")  # the copy's name no longer says what it is
    with pytest.raises(scfm.datasets.FileFormatError):
        new.dataset(data, "my-cells", write_cells(data, ".csv.gz"))
    assert (data / "data" / "datasets.toml").read_text() == ""
    assert list((data / "cache" / "data").iterdir()) == []


def test_what_lies_in_the_cache_folder_is_not_overwritten(data: Path) -> None:
    file = write_cells(data, ".csv.gz")
    (data / "cache" / "data").mkdir()
    (data / "cache" / "data" / "my-cells.csv.gz").write_text("of somebody else")
    with pytest.raises(CourseError, match="there already"):
        new.dataset(data, "my-cells", file)
    assert (data / "cache" / "data" / "my-cells.csv.gz").read_text() == "of somebody else"


def test_one_of_the_three_files_of_10x_is_not_enough(data: Path) -> None:
    with pytest.raises(CourseError, match="folder that holds them"):
        new.dataset(data, "my-cells", write_cells(data, "10x") / "matrix.mtx")


@pytest.mark.parametrize("kind", ["geneformer", "scgpt"])
def test_a_model_of_either_kind_is_entered_and_loaded_by_its_name(
    data: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    scfm.load_model(f"{kind}-mini", weights="random", seed=1).save(data / "data" / "models" / "mine")
    new.model(data, "mine")
    monkeypatch.setattr(scfm.store.cache, "repo_data", lambda: data / "data")
    assert scfm.store.hub.catalogue()["models"]["mine"]["kind"] == kind
    loaded = scfm.load_model("mine")
    assert type(loaded).__name__.lower() == kind
    assert loaded.name == "mine"
    assert registry.list_models().loc["mine", "positions"] == 256


def test_an_entry_that_would_break_the_list_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "list.toml"
    path.write_text("[a]\n")
    with pytest.raises(ValueError):
        new._append(path, "[a]\n")
    assert path.read_text() == "[a]\n"
