"""The hub, end to end, against a local server that serves the published layout with small random weights."""

from __future__ import annotations

import hashlib
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
import tiny_geneformer as tiny
from hub_server import REVISION, HubServer

from scfm import genes, load_model
from scfm.models import ModelError
from scfm.store import cache, hub

WEIGHTS = "Geneformer-V1-10M/model.safetensors"
CONFIG = "Geneformer-V1-10M/config.json"
TOKENS = "geneformer/gene_dictionaries_30m/token_dictionary_gc30M.pkl"


def published_files(folder: Path) -> dict[str, bytes]:
    """The hub's layout: a tiny V1 network and its four pickled dictionaries."""
    tiny.save_in_hub_layout(folder, "V1")
    words = tiny.vocabulary("V1")
    stem = "geneformer/gene_dictionaries_30m/"
    return {
        CONFIG: (folder / "config.json").read_bytes(),
        WEIGHTS: (folder / "model.safetensors").read_bytes(),
        TOKENS: pickle.dumps(dict(words.special) | dict(words.tokens)),
        stem + "gene_median_dictionary_gc30M.pkl": pickle.dumps({g: np.float64(m) for g, m in words.medians.items()}),
        stem + "gene_name_id_dict_gc30M.pkl": pickle.dumps({s: g for g, s in words.symbols.items()}),
        stem + "ensembl_mapping_dict_gc30M.pkl": pickle.dumps(dict(words.mapping)),
    }


def catalogue_of(files: dict[str, bytes]) -> str:
    """A models.toml with the hashes of these files."""
    pins = {
        name: f'{{ sha256 = "{hashlib.sha256(content).hexdigest()}", bytes = {len(content)} }}'
        for name, content in files.items()
    }
    source = f'repo = "ctheodoris/Geneformer"\nrevision = "{REVISION}"\n'
    dictionaries = "\n".join(f'"{name}" = {pin}' for name, pin in pins.items() if name.startswith("geneformer/"))
    config = tiny.config("V1")
    keys = (
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "vocab_size",
    )
    architecture = "\n".join(f"{key} = {getattr(config, key)}" for key in keys)
    return (
        f'[models.geneformer-v1-10m]\nkind = "geneformer"\n{source}folder = "Geneformer-V1-10M"\nvocabulary = "V1"\ncells = "none"\n'
        'licence = "Apache-2.0"\ncitation = "none"\n'
        f"[models.geneformer-v1-10m.architecture]\n{architecture}\n"
        f'[models.geneformer-v1-10m.files]\n"config.json" = {pins[CONFIG]}\n"model.safetensors" = {pins[WEIGHTS]}\n'
        f"[dictionaries.V1]\n{source}[dictionaries.V1.files]\n{dictionaries}\n[old_names]\n"
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    return published_files(tmp_path_factory.mktemp("published"))


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    """A hub that serves ``files``, an empty cache, and a catalogue with their hashes."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (tmp_path / "models.toml").write_text(catalogue_of(files))
    server = HubServer(files)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("SCFM_CACHE", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "SCFM_PROVENANCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub, "catalogue_path", lambda: tmp_path / "models.toml")
    genes._published.cache_clear()
    yield server
    genes._published.cache_clear()
    server.close()


def in_cache() -> list[str]:
    """Every file in the cache, hidden ones too."""
    folder = cache.writable()
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def load():
    return load_model("geneformer-v1-10m")


def test_downloads_verifies_and_then_needs_no_server(server, files, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("SCFM_PROVENANCE", str(tmp_path / "used.jsonl"))
    model = load()
    cells = tiny.cells("V1")
    expected = tiny.model("V1").embed(cells, dtype="float32", progress=False)
    np.testing.assert_array_equal(model.embed(cells, dtype="float32", progress=False), expected)
    assert model.sha256 == hashlib.sha256(files[WEIGHTS]).hexdigest()
    assert model.vocabulary.symbol(5) == "GENE3"
    assert in_cache() == sorted(files)
    assert sorted(server.downloads()) == sorted(files)
    assert not any("authorization" in {key.lower() for key in headers} for *_, headers in server.requests)
    assert f'"sha256": "{model.sha256}"' in (tmp_path / "used.jsonl").read_text()

    server.requests.clear()
    genes._published.cache_clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert load().sha256 == model.sha256
    assert server.requests == []


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, TOKENS])
def test_a_corrupted_file_is_thrown_away(server, files, name):
    server.trouble[name] = "corrupted"
    with pytest.raises(hub.HubError, match="other content than the published file") as error:
        load()
    assert hashlib.sha256(files[name]).hexdigest() in str(error.value)
    assert name not in in_cache()
    assert not any(".download-" in path for path in in_cache())
    server.trouble.clear()
    assert load().vocabulary.name == "geneformer-v1"  # the next try goes on from there


def test_a_truncated_transfer_leaves_nothing(server):
    server.trouble[WEIGHTS] = "truncated"
    with pytest.raises(hub.HubError, match="ended early"):
        load()
    assert in_cache() == [CONFIG]


def test_a_dropped_connection_is_tried_again(server, files):
    server.trouble[WEIGHTS] = "dropped"
    assert load().sha256 == hashlib.sha256(files[WEIGHTS]).hexdigest()
    assert server.downloads().count(WEIGHTS) == 2
    assert in_cache() == sorted(files)


def test_an_interrupted_download_leaves_nothing(server, monkeypatch):
    import huggingface_hub

    def interrupted(repo, name, local_dir, **_):
        (Path(local_dir) / "half").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load()
    assert in_cache() == []


def test_a_refused_connection(server, monkeypatch):
    with socket.socket() as free:  # a port on which nobody listens
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(hub.HubError, match=r"could not be reached.*geneformer-mini") as error:
        load()
    assert f"127.0.0.1:{port}" in str(error.value)
    assert in_cache() == []


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_says_where_to_put_the_file(server, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(hub.HubError, match="HF_HUB_OFFLINE forbids downloading") as error:
        load()
    assert str(cache.writable()) in str(error.value)
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "refuses access"),
        (403, "refuses access"),
        (404, "no such file in commit"),
        (500, "HTTP 500"),
        (503, "HTTP 503"),
    ],
)
def test_http_errors_in_words(server, status, words):
    server.trouble[WEIGHTS] = status
    with pytest.raises(hub.HubError, match=words) as error:
        load()
    assert WEIGHTS in str(error.value)
    assert in_cache() == [CONFIG]


def test_a_mirror_that_lacks_the_commit(server, tmp_path):
    toml = tmp_path / "models.toml"
    toml.write_text(toml.read_text().replace(REVISION, "0" * 40))
    with pytest.raises(hub.HubError, match="no commit 0000"):
        load()


def test_a_server_that_is_no_hub(server, monkeypatch):
    """A captive portal or a wrong HF_ENDPOINT: any page is answered with 200."""
    server.answer = lambda request, body: _page(request, body)
    with pytest.raises(hub.HubError, match=r"could not be reached|other content|cut short|too long"):
        load()
    assert in_cache() == []


def _page(request, body):
    request.send_response(200)
    request.send_header("Content-Length", "5")
    request.end_headers()
    if body:
        request.wfile.write(b"hello")


def test_a_damaged_file_in_the_cache_is_named(server):
    load()
    path = cache.writable() / WEIGHTS
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(hub.HubError, match="is cut short") as error:
        load()
    assert str(path) in str(error.value)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(hub.HubError, match="git-lfs pointer"):
        load()


def test_folders_of_scfm_cache_come_first(server, files, tmp_path, monkeypatch):
    """A read-only folder that has the files: nothing is downloaded."""
    stock = tmp_path / "stock"
    for name, content in files.items():
        (stock / name).parent.mkdir(parents=True, exist_ok=True)
        (stock / name).write_bytes(content)
    monkeypatch.setenv("SCFM_CACHE", f"{stock}:{tmp_path / 'cache'}")
    assert load().sha256 == hashlib.sha256(files[WEIGHTS]).hexdigest()
    assert server.requests == []


def test_a_config_that_contradicts_the_catalogue(server, files, tmp_path):
    toml = tmp_path / "models.toml"
    toml.write_text(toml.read_text().replace("num_hidden_layers = 3", "num_hidden_layers = 4"))
    with pytest.raises(ModelError, match="num_hidden_layers is 3, not 4"):
        load()


def test_a_dictionary_that_would_run_code(server, files, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    evil = pickle.dumps({"<pad>": Evil()})
    server.files = files | {TOKENS: evil}
    (tmp_path / "models.toml").write_text(catalogue_of(server.files))  # even if its hash were the listed one
    with pytest.raises(genes.VocabularyError, match="refused"):
        load()
    assert not (tmp_path / "ran").exists()


def test_the_random_twin_needs_no_server(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    twin = load_model("geneformer-v1-10m", weights="random", seed=3)
    assert twin.network.config.hidden_size == 16
    assert twin.embed(tiny.cells("V1"), progress=False).shape == (12, 16)
    with pytest.raises(genes.VocabularyError, match="HF_HUB_OFFLINE"):
        _ = twin.vocabulary


def test_unlisted_dictionaries_are_not_fetched(server):
    with pytest.raises(hub.HubError, match="lists no dictionary"):
        hub.fetch_dictionary("geneformer/other.pkl")


def test_the_real_catalogue_pins_every_file():
    """Weights and dictionaries have a sha256 and a size; only a config, whose content is compared, may go without."""
    content = hub.catalogue()
    for name, entry in content["models"].items():
        assert entry["architecture"]["vocab_size"] > 0
        assert "bundled" in entry or len(entry["revision"]) == 40
        for file, pin in entry["files"].items():
            if pin.get("sha256") or file != "config.json":
                assert len(pin.get("sha256", "")) == 64, f"{name}: {file} has no sha256 in data/models.toml"
                assert pin["bytes"] > 0
    for entry in content["dictionaries"].values():
        assert len(entry["files"]) == 4
        assert all(len(pin["sha256"]) == 64 for pin in entry["files"].values())
    assert all(old["now"] in content["models"] for old in content["old_names"].values())
