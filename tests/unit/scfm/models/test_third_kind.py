"""A third kind of model is two files and nothing else of the library is touched: loaded, embedded, adapted, saved, asked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import third_kind
import tiny_geneformer

import scfm
import scfm.models
from scfm.adaptation.adapters import digest

HELPERS = Path(__file__).resolve().parents[4] / "tests" / "helpers"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A saved model of the third kind, and its reader where a newcomer would put it: beside the others."""
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "third_files.py").symlink_to(HELPERS / "third_kind_files.py")
    monkeypatch.setattr(scfm.models, "__path__", [*scfm.models.__path__, str(tmp_path / "room")])
    vocabulary = tiny_geneformer.vocabulary()
    network = third_kind.ThirdNetwork(third_kind.ThirdConfig(vocab_size=len(vocabulary))).eval()
    return third_kind.ThirdKind(network, vocabulary, "third").save(tmp_path / "third")


def cells_of(model: scfm.models.Model, n: int = 60) -> tuple[scfm.tokenized.TokenizedCells, np.ndarray]:
    """Cells of two types with other genes in front."""
    rng = np.random.default_rng(0)
    kinds = rng.permutation(np.repeat(["a", "b"], n // 2))
    low, high = 4, model.network.config.vocab_size
    half = (low + high) // 2
    rows = [rng.permutation(np.arange(low, half) if kind == "a" else np.arange(half, high))[:8] for kind in kinds]
    return scfm.tokenized.TokenizedCells.from_lists([row.tolist() for row in rows]), kinds


def test_it_is_loaded_and_embeds(folder: Path) -> None:
    model = scfm.load_model(folder)
    assert isinstance(model, third_kind.ThirdKind)
    assert scfm.models.registry.kind_of(folder) == "third"
    cells, _ = cells_of(model)
    found = model.embed(cells)
    assert found.shape == (60, 16)
    twin = scfm.load_model(folder, weights="random", seed=1)
    assert not np.allclose(found, twin.embed(cells))


@pytest.mark.parametrize("method", ["head", "lora", "dora", "vera", "ia3", "ln", "partial", "full"])
def test_it_is_adapted_saved_and_loaded(folder: Path, tmp_path: Path, method: str) -> None:
    model = scfm.load_model(folder)
    cells, kinds = cells_of(model)
    mark = digest(model.network)
    options = {} if method == "head" else {"epochs": 3, "minibatch": 20, "validation": 0.0, "dtype": "float32"}
    if method == "partial":
        options["n_layers"] = 1
    fit = scfm.adapt(model, cells, kinds, method, progress=False, **options)
    assert digest(model.network) == mark
    assert np.mean(fit.predict(cells, progress=False) == kinds) > 0.9
    again = scfm.load_fit(fit.save(tmp_path / "fit"), model)
    np.testing.assert_allclose(
        again.predict_proba(cells, progress=False), fit.predict_proba(cells, progress=False), atol=1e-6
    )
    assert "third encoder" in fit.card()


def test_what_it_cannot_is_said_in_its_own_words(folder: Path) -> None:
    model = scfm.load_model(folder)
    cells, kinds = cells_of(model)
    with pytest.raises(ValueError, match="no attention that could look at learned positions"):
        scfm.adapt(model, cells, kinds, "prompt", progress=False)
    with pytest.raises(ValueError, match="has no form that holds a classifier"):
        scfm.adapt(model, cells, kinds, "head", progress=False).to_transformers()
    with pytest.raises(ValueError, match="What the pretraining of a third asked is not known"):
        scfm.adapt(model, cells, kinds, "full", replay=tiny_cells(), progress=False)


def tiny_cells() -> object:
    import tiny_corpus

    return tiny_corpus.adata(10)


def test_nothing_in_the_library_knows_its_name() -> None:
    lib = HELPERS.parents[1] / "lib"
    found = subprocess.run(
        ["grep", "-rlE", 'third_kind|"third"', str(lib)], capture_output=True, text=True, check=False
    )
    assert found.stdout == ""


def test_nothing_outside_models_asks_which_kind_a_model_is() -> None:
    """No branch on a kind, a class or an attribute of one network: scGPT's own rooms (generation, integration) take scGPTs."""
    lib = HELPERS.parents[1] / "lib" / "scfm"
    asks = r'hasattr\([a-z_.]*network, "|== "(geneformer|scgpt)"|model\.kind ==|kind_of\(|isinstance\([a-z_.]+, (ScGPT|Geneformer)\b'
    found = subprocess.run(
        ["grep", "-rnE", asks, str(lib), "--include=*.py"], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    own = ("/models/", "/generation/", "/integration/")
    assert [line for line in found if not any(room in line for room in own)] == []
