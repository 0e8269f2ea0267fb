"""The head on groups that gave no label: who is ahead, with groups resampled before draws."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scfm import stats
from studies import headstudy


def test_each_setting_is_one_comparison_over_its_groups() -> None:
    rows = [
        ("m", method, "blood", setting, group, 10, seed, "balanced_accuracy", value + 0.001 * seed)
        for setting, groups in (("new donor", "abc"), ("unknown type", "x"))
        for group in groups
        for seed in range(4)
        for method, value in (("pretrained", 0.7), ("logistic PCA", 0.8), ("random twin", 0.6))
    ]
    table = pd.DataFrame(rows, columns=headstudy.COLUMNS)
    found = headstudy.new_groups(table, ["random twin", "warm start", "logistic PCA"])
    assert found["rival"].tolist() == [
        "random twin",
        "logistic PCA",
    ]  # nobody ran the warm start; one setting is no question
    assert found["verdict"].tolist() == ["better", "worse"]
    assert set(found["setting"]) == {"new donor"}
    assert set(found["groups"]) == {3}
    assert found["pretrained"].iloc[0] == stats.over_groups(table[table["setting"] == "new donor"], "pretrained", "balanced_accuracy").mean  # fmt: skip


def test_an_untrained_rival_is_embedded_once_and_kept_under_all_that_it_depends_on(tmp_path, monkeypatch) -> None:
    import scfm

    monkeypatch.setenv("SCFM_CACHE", str(tmp_path))
    adata = scfm.load_dataset("pbmc68k")[:12].copy()
    twin, other = (scfm.load_model("geneformer-mini", weights="random", seed=seed) for seed in (1, 2))
    tokens = twin.tokenize(adata)
    first = headstudy.kept(twin, tokens, pooling="mean")
    (file,) = (tmp_path / "embeddings").glob("*.npy")
    monkeypatch.setattr(type(twin), "embed", lambda *_, **__: pytest.fail("it was there"))
    np.testing.assert_array_equal(headstudy.kept(twin, tokens, pooling="mean"), first)
    for change in (
        lambda: headstudy.kept(other, tokens, pooling="mean"),
        lambda: headstudy.kept(twin, tokens[:5], pooling="mean"),
        lambda: headstudy.kept(twin, tokens, pooling="cls"),
    ):
        with pytest.raises(pytest.fail.Exception, match="it was there"):
            change()
    assert file.exists()
