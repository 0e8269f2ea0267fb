"""``make data``: which sets a word means, what is told about each, and a run that is killed half way and started again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from carrier_server import CarrierServer
from processes import kill_and_wait, wait_for

from coursekit.course import PROFILES, CourseError, find_root, lessons
from coursekit.lesson.sets import sets_of
from coursekit.run import data
from scfm.datasets import entries
from scfm.files.convert import carriers
from scfm.store.carriers import FOLDER, MIRROR, Carrier, here

ROOT = find_root(Path(__file__))
CORPUS = tomllib.loads((ROOT / data.CORPORA).read_text(encoding="utf-8"))["mini"]["train"]
FOUR = ["pbmc_zheng_facs", "kang_ifnb_pbmc", "lung_celllines_5batch", "pancreas_baron_175"]
FIVE = [FOUR[0], FOUR[1], FOUR[3], "kang_ifnb_muscat_1267genes", FOUR[2]]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("03 cpu", FOUR),
        ("3 quick", ["pbmc68k", "pbmc68k-2batch"]),
        ("04_head gpu", FIVE),
        ("07", ["pbmc68k-2batch", "lung_celllines_5batch", "kang_ifnb_muscat_1267genes"]),
        ("06 gpu", ["pbmc_zheng_facs"]),  # its sizes are those of another profile, changed
        ("mini", CORPUS),
        ("kang_ifnb_pbmc pbmc3k kang_ifnb_pbmc", ["kang_ifnb_pbmc", "pbmc3k"]),
        ("05 03 cpu pbmc3k", ["kang_ifnb_pbmc", FOUR[0], *FOUR[2:], "pbmc3k"]),
        ("quick", ["pbmc68k", "pbmc68k-2batch"]),
    ],
)
def test_words_and_the_sets_that_they_mean(words: str, names: list[str]) -> None:
    assert data.wanted(ROOT, words.split()) == names


def test_every_lesson_takes_a_set_in_every_profile() -> None:
    for lesson in lessons(ROOT):
        for profile in PROFILES:
            found = sets_of(lesson, profile)
            assert found, f"{lesson.name} {profile}"
            assert profile != "quick" or all(entries()[name]["source"] in ("bundled", "simulated") for name in found)


def test_a_word_that_means_nothing() -> None:
    with pytest.raises(
        CourseError, match=r"'minni' is no data set, no corpus \(mini\).* Did you mean mini\?.*make data FOR="
    ):
        data.wanted(ROOT, ["minni"])


def test_a_set_that_cannot_be_had_does_not_hold_up_the_others(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    server = CarrierServer({})
    monkeypatch.setenv(MIRROR, server.url)
    said: list[str] = []
    rows = data.prepare(["pbmc3k", "pbmc68k"], said.append)
    server.close()
    assert [row.name for row in rows if row.why] == ["pbmc3k"]
    assert said[:2] == ["[1/2] pbmc3k", said[1]]
    assert "not to be had: pbmc3k cannot be made" in said[1]
    table = data.table(rows)
    assert re.search(r"pbmc3k +[\d.]+ +not here +packages MIT", table)
    assert re.search(r"pbmc68k +700 +765 +1,772,368 +[\d.]+ +was here +scanpy", table)
    assert table.endswith("1 of 2 sets are here: 700 cells, 1.8 MB.")


@pytest.fixture
def stock() -> dict[Carrier, bytes]:
    """Those raw files of the corpus that lie in a folder of SCFM_CACHE."""
    wanted = {carrier for name in CORPUS for carrier in carriers(name, entries()).values()}
    found = {carrier: path.read_bytes() for carrier in wanted if (path := here(carrier))}
    if not found:
        pytest.skip(f"needs {FOLDER}, no part of the repository: set SCFM_CACHE to a folder that holds it")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("by_blob", [True, False])
def test_a_corpus_that_was_killed_half_way_goes_on(
    by_blob: bool, stock: dict[Carrier, bytes], empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 while a file arrives: the next run makes the rest, and fetches no byte twice. Small sets only, where by blob."""
    words = ["malt_tumour_rna", "pancreas_baron_175", "covid_pt17_cite"] if by_blob else ["mini"]
    wanted = data.wanted(ROOT, words)
    need = {name: list(carriers(name, entries()).values()) for name in wanted}
    possible = [name for name in wanted if set(need[name]) <= set(stock)]
    if not possible:
        pytest.skip(f"needs more of {FOLDER}")
    monkeypatch.setenv("NO_PROXY", "*")
    server = CarrierServer(stock)
    server.trouble = {(carrier, "path"): 404 for carrier in stock} if by_blob else {}
    server.wait = 0.02
    monkeypatch.setenv(MIRROR, server.url)
    command = [sys.executable, "-m", "coursekit", "--root", str(ROOT), "data", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder, raw = empty_cache / "converted", empty_cache / FOLDER

    def half_way() -> bool:
        parts = [part for part in raw.glob(".*.part") if part.stat().st_size >= 1 << 19]
        return len(parts) > 0 and len(list(folder.glob("*.h5ad"))) >= len(possible) // 2

    first = subprocess.Popen(command, env=environment, text=True, start_new_session=True, stderr=subprocess.DEVNULL)
    wait_for(half_way, 600)
    kill_and_wait(first, whole_group=True)
    made = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.h5ad")}
    arrived = {part.name[1:].removesuffix(".part"): part.stat().st_size for part in raw.glob(".*.part")}
    assert arrived
    whole = {path.name for path in raw.iterdir() if not path.name.startswith(".")}
    server.requests.clear()
    server.wait = 0.0
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    server.close()
    at = "/repos/{0.repo}/git/blobs/{0.blob}" if by_blob else "/{0.repo}/{0.commit}/{0.path}"
    for name in {carrier.name for set_name in possible for carrier in need[set_name]}:  # a blob may lie at two places
        places = {at.format(carrier) for carrier in stock if carrier.name == name}
        asked = [start for path, start in server.requests if path in places]
        rest = [f"bytes={arrived[name]}-"] if name in arrived else [None]
        assert asked == ([] if name in whole else rest), name
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.h5ad" for name in possible)
    assert all((folder / name).stat().st_mtime_ns == when for name, when in made.items())
    assert [path for path in empty_cache.rglob("*") if path.suffix in (".part", ".from")] == []
    for name in wanted:
        size = f"{entries()[name]['cells']:,} +{entries()[name]['genes']:,} +[\\d,]+ +[\\d.]+"
        came = (
            f"{size} +{'was here' if f'{name}.h5ad' in made else 'made'}" if name in possible else r"[\d.]+ +not here"
        )
        assert re.search(rf"(?m)^{name} +{came} +\S", done.stdout), done.stdout + done.stderr
    assert f"{len(possible)} of {len(wanted)} sets are here" in done.stdout
    assert done.returncode == (len(possible) < len(wanted))
