"""The ladder on a GPU: the same answers as on the CPU, and a quantized base under LoRA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_task

import scfm

pytestmark = pytest.mark.gpu
FAST = {"epochs": 8, "learning_rate": 1e-3, "minibatch": 10, "progress": False}


@pytest.mark.parametrize("kind", ["geneformer", "scgpt"])
@pytest.mark.parametrize("method", ["head", "lora", "partial", "full"])
def test_each_rung_learns_on_the_gpu_and_answers_alike_on_both(kind: str, method: str, tmp_path: Path) -> None:
    model, (cells, types) = tiny_task.model(kind), tiny_task.cells(kind)
    model.network.to("cuda")
    fit = scfm.adapt(model, cells, types, method, dtype="float32", **FAST)
    new, truth = tiny_task.cells(kind, seed=1)
    assert np.mean(fit.predict(new, progress=False) == truth) > 0.75
    assert fit.report.peak_memory_gpu
    again = scfm.load_fit(fit.save(tmp_path / "fit"), tiny_task.model(kind))  # the base on the CPU
    np.testing.assert_allclose(
        again.predict_proba(new, progress=False), fit.predict_proba(new, progress=False), atol=1e-3
    )


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("kind", ["geneformer", "scgpt"])
def test_lora_on_a_quantized_base_learns(kind: str, bits: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes (pip install bitsandbytes)")
    wide = {"hidden_size": 64, "intermediate_size": 128}
    model, (cells, types) = tiny_task.model(kind, **wide), tiny_task.cells(kind)
    model.network.to("cuda")
    fit = scfm.adapt(model, cells, types, "lora", quantize=bits, **FAST)
    kinds = {type(module).__name__ for module in fit.network.modules()}
    assert kinds & {"Linear4bit", "Linear8bitLt"}
    new, truth = tiny_task.cells(kind, seed=1)
    assert np.mean(fit.predict(new, progress=False) == truth) > 0.75
    again = scfm.load_fit(fit.save(tmp_path / "fit"), model)
    np.testing.assert_allclose(
        again.predict_proba(new, progress=False), fit.predict_proba(new, progress=False), atol=2e-2
    )
    with pytest.raises(ValueError, match="losing precision"):
        fit.merged()
