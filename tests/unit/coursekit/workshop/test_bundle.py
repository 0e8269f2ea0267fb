"""What a bundle is made of: the archive and its sums, the scripts, the refusals; the whole of it is in tests/site."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from tiny_course import make_course

from coursekit.course import CourseError, lessons
from coursekit.workshop import bundle, wheelhouse

ABOUT = {
    "commit": "c0ffee",
    "python": wheelhouse.python_tag(),
    "platform": bundle._platform(),
    "wheels": ["a.whl"],
    "data": [],
}


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(root), *who, *words], check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_course(tmp_path / "course")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "all")
    return root


def small(tmp_path: Path) -> dict[str, Path | bytes]:
    file = tmp_path / "a.whl"
    file.write_bytes(b"wheel" * 1000)
    return {**bundle.scripts(ABOUT), "wheels/a.whl": file}


def test_an_archive_holds_the_files_their_sums_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    files = small(tmp_path)
    one, two = tmp_path / "one" / "b.tar.gz", tmp_path / "two" / "b.tar.gz"
    bundle.pack(files, one, "b", 1_700_000_000)
    bundle.pack(dict(reversed(files.items())), two, "b", 1_700_000_000)
    assert one.read_bytes() == two.read_bytes()
    assert one.with_name("b.tar.gz.sha256").read_text() == f"{hashlib.sha256(one.read_bytes()).hexdigest()}  b.tar.gz\n"
    with tarfile.open(one) as archive:
        archive.extractall(tmp_path, filter="data")
    lines = (tmp_path / "b" / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == set(files)
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "b" / name).read_bytes()).hexdigest() == digest
    assert (tmp_path / "b" / "setup.sh").stat().st_mode & 0o111
    assert json.loads((tmp_path / "b" / "bundle.json").read_text())["commit"] == "c0ffee"
    assert len(list(one.parent.iterdir())) == 2  # no half-written file stays


def test_what_was_compared_on_own_cells_stays_at_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coursekit.book import site

    own = root / "runs" / "board" / "index.md"
    own.parent.mkdir(parents=True)
    own.write_text("# my_patients.h5ad\n")
    monkeypatch.setattr(wheelhouse, "fill", lambda *_: [])
    monkeypatch.setattr(site, "NEEDED", {})  # Sphinx is not asked
    monkeypatch.setattr(site, "gather", lambda *_: {})
    monkeypatch.setattr(site, "_sphinx", lambda root, source, made: shutil.copytree(source, made))
    archive = bundle.make(root, [], output=root / "runs" / "b.tar.gz", dirty=True)
    with tarfile.open(archive) as packed:
        held = [packed.extractfile(one) for one in packed.getmembers() if one.isfile()]
        assert held
        assert not any(b"my_patients" in file.read() for file in held if file)


def test_set_up_says_what_is_damaged_and_touches_nothing(tmp_path: Path) -> None:
    bundle.pack(small(tmp_path), tmp_path / "b.tar.gz", "b", 0)
    with tarfile.open(tmp_path / "b.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "b" / "wheels" / "a.whl").write_bytes(b"other")
    done = subprocess.run(["sh", "setup.sh"], cwd=tmp_path / "b", capture_output=True, text=True)
    assert done.returncode == 1
    assert "wheels/a.whl" in done.stderr
    assert "damaged" in done.stderr
    assert not (tmp_path / "b" / "course").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"), [("python", "3.99", "No Python 3.99"), ("platform", "Plan9 mips", "for Plan9 mips")]
)
def test_set_up_refuses_another_machine(tmp_path: Path, key: str, value: str, said: str) -> None:
    for name, content in bundle.scripts({**ABOUT, key: value}).items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(["sh", "setup.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert said in done.stderr


def test_start_asks_for_the_set_up(tmp_path: Path) -> None:
    (tmp_path / "start.sh").write_bytes(bundle.scripts(ABOUT)["start.sh"])
    (tmp_path / "course").mkdir()
    done = subprocess.run(["sh", "start.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "sh setup.sh" in done.stderr


def test_head_is_packed_and_a_tree_that_differs_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "notebooks" / "source" / "checks_01.py").write_text("# changed\n")
    (root / "new.txt").write_text("new")
    assert bundle._differing(root, True) == ["notebooks/source/checks_01.py", "new.txt"]
    with pytest.raises(CourseError, match=r"2 files differ from HEAD .* ARGS=--dirty"):
        bundle.make(root, lessons(root))
    bundle.checkout(root, tmp_path / "out")
    assert "checker" in (tmp_path / "out" / "notebooks" / "source" / "checks_01.py").read_text()
    assert not (tmp_path / "out" / "new.txt").exists()


def test_no_repository_and_no_such_data_are_said(tmp_path: Path) -> None:
    with pytest.raises(CourseError, match=r"no git repository.*Git says: fatal: "):
        bundle._git(tmp_path, "log")
    with pytest.raises(CourseError, match=r"'kangaroo' is neither"):
        bundle.cached(["kangaroo"])
    assert bundle.cached(["pbmc68k", "geneformer-mini"]) == {}  # they come with the course


def test_cached_files_keep_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import scfm
    from scfm import datasets

    entry = {"source": "download", "file": "x.h5ad", "labels": {"file": "x.tsv"}}
    monkeypatch.setattr(datasets, "entries", lambda: {"x": entry})
    monkeypatch.setattr(scfm, "load_dataset", lambda name: None, raising=False)
    monkeypatch.setenv("SCFM_CACHE", str(tmp_path))
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "x.h5ad").write_text("cells")
    with pytest.raises(CourseError, match=r"downloads/x.tsv is in no folder"):
        bundle.cached(["x"])
    for name in ("x.tsv", "lock.json"):
        (tmp_path / "downloads" / name).write_text("{}")
    assert set(bundle.cached(["x"])) == {"downloads/x.h5ad", "downloads/x.tsv", "downloads/lock.json"}


def test_the_locks_name_the_variant_that_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements.lock").write_text("# torch==2.9.0 has no hash\nnumpy==2.0.0 \\\n    --hash=sha256:00\n")
    monkeypatch.setattr(
        wheelhouse.importlib.metadata, "version", lambda name: {"torch": "2.9.0+cpu", "numpy": "2.1"}[name]
    )
    assert wheelhouse.requirements(tmp_path) == ["numpy==2.0.0", "torch==2.9.0+cpu"]
    (tmp_path / "requirements.lock").unlink()
    with pytest.raises(CourseError, match="which wheels"):
        wheelhouse.requirements(tmp_path)


def test_a_wheelhouse_is_not_asked_twice_and_says_what_is_lacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, asked = tmp_path / "house", []
    (tmp_path / "requirements.lock").write_text("nothing-here==1.0\n")

    def pip(words: list[str], alone: bool = False) -> str:
        asked.append(words[0])
        return ""

    def resolved(pins: Path, house: Path) -> list[Path]:
        if not asked:
            raise CourseError("not enough")
        return [house / "nothing_here-1.0.whl"]

    monkeypatch.setattr(wheelhouse, "_pip", pip)
    monkeypatch.setattr(wheelhouse, "resolved", resolved)
    assert wheelhouse.fill(tmp_path, house) == [house / "nothing_here-1.0.whl"]
    wheelhouse.fill(tmp_path, house)
    assert asked == ["download"]
    monkeypatch.undo()
    (tmp_path / "r.txt").write_text("nothing-here==1.0\n")
    with pytest.raises(CourseError, match="not enough to set up"):
        wheelhouse.resolved(tmp_path / "r.txt", house)
