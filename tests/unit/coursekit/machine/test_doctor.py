"""The doctor answers in a broken environment too; pyproject, lock and conda environment say the same."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_course import make_course

from coursekit.machine import doctor, facts, lock

ROOT = Path(__file__).resolve().parents[4]


def texts(root: Path) -> str:
    return "\n".join(finding.text() for finding in doctor.examine(root, network=False))


def test_every_line_has_a_level_and_every_trouble_a_fix(tmp_path: Path) -> None:
    found = list(doctor.examine(make_course(tmp_path), network=False))
    assert len(found) >= 9
    for finding in found:
        assert re.match(r"\[(OK|WARN|FAIL)\]", finding.text())
        assert finding.level == doctor.OK or finding.fix


def test_works_without_any_package(tmp_path: Path) -> None:
    """-I -S: the standard library and nothing else, as after a failed set-up."""
    root = make_course(tmp_path)
    (root / "requirements.lock").write_text("numpy==2.0.0\ntorch==2.0.0\n")
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'lib')!r}); from coursekit.__main__ import main; sys.exit(main(sys.argv[1:]))"
    start = [sys.executable, "-I", "-S", "-c", code, "--root", str(root)]
    done = subprocess.run([*start, "doctor", "--offline"], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "[FAIL]  2 packages are missing: numpy, torch" in done.stdout
    assert "make setup FORCE=1" in done.stdout
    assert "[OK]" in done.stdout
    built = subprocess.run([*start, "build"], capture_output=True, text=True)
    assert built.returncode == 2
    assert "is missing. Run: make setup" in built.stderr


def test_other_versions_old_python_and_small_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_course(tmp_path)
    assert "requirements.lock is missing" in texts(root)
    (root / "requirements.lock").write_text("pytest==0.1\n")
    assert re.search(r"\[WARN\]  1 packages are not in the tested version: pytest .* \(tested 0.1\)", texts(root))
    monkeypatch.setattr(doctor, "PYTHONS", ((4, 0), (5, 0)))
    monkeypatch.setattr(doctor, "_memory_gib", lambda: (2.0, 1.0))
    monkeypatch.setattr(doctor, "NEED_DISK", 10**9)
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: {"sse2"})
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("SCFM_CACHE", str(tmp_path / "nowhere"))
    said = texts(root)
    for words in (
        "the course needs 4.0",
        "[WARN]  2 GiB of memory, 1 free",
        "GiB of disk",
        "without AVX2",
        "is not there",
    ):
        assert words in said


def test_the_folder_that_takes_downloads_must_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, own, hub = (tmp_path / name for name in ("given", "own", "hub"))
    for folder in (given, own / "scfm", hub):
        folder.mkdir(parents=True)
    monkeypatch.setenv("SCFM_CACHE", str(given))
    monkeypatch.setenv("XDG_CACHE_HOME", str(own))
    monkeypatch.setenv("HF_HOME", str(hub))
    closed = {hub}  # by name: who runs as root can write everywhere
    monkeypatch.setattr(doctor.os, "access", lambda path, how: not any(Path(path).is_relative_to(c) for c in closed))
    root = make_course(tmp_path / "course")

    def levels() -> dict[str, tuple[str, str]]:
        found = [finding for finding in doctor._caches(root) if not finding.words.startswith("SCFM_CACHE")]
        return {f.words.split(":")[0]: (f.level, f.words.split(": ")[1]) for f in found}

    assert levels()["downloads"] == (doctor.OK, str(given))
    assert levels()["Hugging Face cache"] == (doctor.WARN, f"{hub} cannot be written")
    closed.add(given)
    assert levels()["downloads"] == (doctor.OK, str(own / "scfm"))
    closed.add(own)
    assert levels()["downloads"] == (doctor.FAIL, f"{own / 'scfm'} cannot be written")


def test_an_intel_mac_is_told_before_anything_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, "system", lambda: "Darwin")
    for machine, told in (("x86_64", True), ("arm64", False)):
        monkeypatch.setattr(doctor.platform, "machine", lambda machine=machine: machine)
        assert told == any("Intel Mac" in found.words for found in doctor._python(tmp_path))


@pytest.mark.parametrize(
    ("flag", "used"), [("amx_bf16", True), ("avx512_bf16", True), ("bf16", False), ("avx2", False)]
)
def test_bfloat16_is_promised_where_embeddings_use_it(
    flag: str, used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from scfm import embed

    monkeypatch.setattr(doctor, "_cpu_flags", lambda: {flag})
    monkeypatch.setattr(embed, "_has", lambda wanted: wanted == flag)
    assert (embed.choose_dtype("auto") == torch.bfloat16) == used
    said = list(doctor._cpu(tmp_path))[-1].words
    assert ("embeddings use it" in said) == used
    assert ("embeddings use float32" in said) == (not used)


def test_a_gpu_that_torch_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"nvidia-smi": "NVIDIA H200, 143771 MiB, 143000 MiB", sys.executable: "False None"}
    monkeypatch.setattr(facts, "said", lambda command, seconds=20: answers[command[0]])
    found = list(doctor._gpu(tmp_path))
    assert "GPU NVIDIA H200" in found[0].words
    assert found[1].level == doctor.WARN
    assert "does not see the GPU" in found[1].words


def test_the_hub_out_of_reach_and_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    (found,) = doctor._hub(tmp_path)
    assert found.level == doctor.WARN
    assert "cannot be reached" in found.words
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (found,) = doctor._hub(tmp_path)
    assert found.level == doctor.OK


def test_the_mirror_of_public_files_is_asked_in_the_place_of_github(
    tmp_path: Path, site: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCFM_MIRROR", f"{site[1]}/")
    (found,) = doctor._carriers(tmp_path)
    assert (found.level, found.words) == (doctor.OK, f"{site[1]} can be reached")
    monkeypatch.setenv("SCFM_MIRROR", "http://127.0.0.1:9")
    (found,) = doctor._carriers(tmp_path)
    assert found.level == doctor.WARN
    assert "SCFM_MIRROR" in found.fix


def test_a_question_that_breaks_does_not_end_the_examination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: object) -> None:
        raise OSError("no such disk")

    monkeypatch.setattr(doctor.shutil, "disk_usage", broken)
    said = texts(make_course(tmp_path))
    assert "disk could not be examined: OSError: no such disk" in said
    assert "of memory" in said


def test_pyproject_lock_and_conda_environment_agree() -> None:
    assert lock.disagreements(ROOT) == []


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A copy of what names versions."""
    for path in [ROOT / "pyproject.toml", ROOT / "environment.yml", *ROOT.glob("requirements*.lock")]:
        shutil.copyfile(path, tmp_path / path.name)
    return tmp_path


def test_disagreements_are_found(locked: Path) -> None:
    path = locked / "requirements.lock"
    text = re.sub(r"(?m)^peft==.*\n(    .*\n)*", "", re.sub(r"(?m)^numpy==\S+", "numpy==1.0", path.read_text()))
    text = re.sub(r"(?m)^(scanpy==\S+) \\\n(    .*\n)*", r"\1\n", text)
    path.write_text(text + "x @ https://example.org/x.whl\n")
    found = "\n".join(lock.disagreements(locked))
    for words in (
        "has peft not at all; pyproject.toml wants peft>=",
        "has numpy 1.0; pyproject.toml wants numpy>=",
        "no version with its hashes: x @",
        "no version with its hashes: scanpy==",
        "environment.yml is out of step",
    ):
        assert words in found
    (locked / "environment.yml").write_text(lock.environment(locked).replace("python>=3.11,<3.14", "python>=3.10"))
    assert "environment.yml is out of step" in "\n".join(lock.disagreements(locked))


def test_every_file_of_a_lock_has_a_hash_and_pytorch_stands_aside() -> None:
    everything = "".join(path.read_text() for path in ROOT.glob("requirements*.lock"))
    headed = re.findall(r"(?m)^([a-z0-9][\w.-]*)==", everything)
    assert not any(name.startswith(("torch", "nvidia-", "cuda-", "triton", "scfm")) for name in headed)
    assert "+" not in "".join(re.findall(r"(?m)^[a-z0-9#].*==\S+", everything))
    assert facts.locked(ROOT)["torch"] == "2.13.0"
    assert facts.locked(ROOT)["pytest"] == pytest.__version__
    assert not {"sphinx", "playwright"} & set(facts.locked(ROOT))  # only the book needs them
    compiled = (
        "a==1 \\\n    --hash=sha256:0\ntorch==2 \\\n    --hash=sha256:1\nnvidia-x==3 ; y \\\n    --hash=sha256:2\n"
    )
    assert lock.blocks(compiled) == ["a==1 \\\n    --hash=sha256:0\n"]


def test_a_lock_for_all_systems_is_read_for_this_one(tmp_path: Path) -> None:
    here, other = sys.platform, "plan9"
    (tmp_path / "requirements.lock").write_text(
        f"# torch==2.0 has no hash\nA_b==1 ; sys_platform == '{here}' \\\n    --hash=sha256:0\nc==2 ; sys_platform == '{other}' \\\n"
    )
    assert facts.locked(tmp_path) == {"torch": "2.0", "a-b": "1"}


@pytest.mark.network
@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")
def test_uv_keeps_the_versions_that_the_locks_have(locked: Path) -> None:
    before = {path.name: path.read_text() for path in locked.glob("requirements*.lock")}
    path = locked / "requirements.lock"
    path.write_text(re.sub(r"(?m)^peft==.*\n(    .*\n)*", "", path.read_text()))
    lock.write(locked)
    assert lock.disagreements(locked) == []
    after = {path.name: path.read_text() for path in locked.glob("requirements*.lock")}
    assert re.sub(r"(?m)^peft==.*", "peft", after["requirements.lock"]).count("peft") == 1
    assert after["requirements-site.lock"] == before["requirements-site.lock"]


def test_an_early_python_that_cannot_write_pages_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import soupsieve

    def misread(selector: str) -> None:
        raise soupsieve.SelectorSyntaxError(f"Malformed attribute selector: {selector}")

    assert not any("soupsieve" in finding.words for finding in doctor._python(tmp_path))
    monkeypatch.setattr(soupsieve, "compile", misread)
    found = [finding for finding in doctor._python(tmp_path) if "soupsieve" in finding.words]
    assert [finding.level for finding in found] == [doctor.FAIL]
    assert "make setup FORCE=1" in found[0].fix


def test_the_lock_has_a_soupsieve_for_early_pythons() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    early = next(line for line in lines if line.startswith("soupsieve") and "< '3.11.5'" in line)
    assert early.startswith("soupsieve==2.")


def test_packages_of_a_clusters_module_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "lib"), "/a/module/site-packages"]))
    said = [finding.text() for finding in doctor.examine(tmp_path, network=False)]
    assert any("PYTHONPATH is set (/a/module/site-packages)" in text for text in said)
