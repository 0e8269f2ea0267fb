"""Classes of genes by their symbols, and the published ones from a cache folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies import gene_families


def test_families_are_told_by_the_root_of_the_symbol_and_strangers_left_out() -> None:
    found = gene_families.by_symbol(
        ["RPL3", "MRPS21", "NDUFA4", "CD3E", "HLA-DRA", "GZMB", "ACTB", "CDK4", "IGF1", "XCD3"]
    )
    assert [g for g, name in found.items() if name == "machinery"] == ["RPL3", "MRPS21", "NDUFA4"]
    assert [g for g, name in found.items() if name == "immune"] == ["CD3E", "HLA-DRA", "GZMB"]


def test_published_labels_are_read_from_the_cache_or_missed_in_words(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SCFM_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="SCFM_CACHE"):
        gene_families.dosage_sensitive()
    path = tmp_path / gene_families.DOSAGE
    path.parent.mkdir(parents=True)
    path.write_text("dosage_sensitive,dosage_insensitive\nENSG1,ENSG2\n,ENSG3\n")
    assert gene_families.dosage_sensitive() == {
        "ENSG1": "dosage_sensitive",
        "ENSG2": "dosage_insensitive",
        "ENSG3": "dosage_insensitive",
    }
