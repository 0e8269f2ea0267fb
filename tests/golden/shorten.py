"""Make the small golden files in this folder from the full ones in a folder of SCFM_CACHE.

    SCFM_CACHE=/path/to/shared python tests/golden/shorten.py            # writes beside this file
    SCFM_CACHE=/path/to/shared python tests/golden/shorten.py FOLDER     # writes into an empty folder

Shortening only selects: some cells, the genes that these cells have, the rows of the vocabularies and of the gene embeddings
for those genes. No number is computed here. Two kinds of ids are renumbered, since they count what was left out: columns of
the counts (`gene_index` of the bins) and token ids of the tiny Geneformers. README.md says so file by file.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
from safetensors.numpy import load_file, save_file

from scfm.genes import RankVocabulary, SymbolVocabulary
from scfm.store import cache

HERE = Path(__file__).parent

# which cells: pbmc3k's four stand in the files of tokens and of bins; the first of Kang's is the shortest of all, lung's is cut
# at V1's 2,048 tokens and at V2's 4,096
CELLS = {
    "pbmc3k": ["AGAAACGAAAGTAG-1", "GTAGCATGCACTCC-1", "TAGCATCTGCTGTA-1", "TCACCTCTACGACT-1"],
    "kang_ifnb_pbmc": ["stim_CGAGGCACTGAAGA-1", "stim_CCGGAGACTGTGAC-1", "ctrl_ACACCCTGTACGAC-1"],
    "lung_celllines": ["sc_celseq2_5cl_p3_p1_G2"],
}
FILE = {"pbmc3k": "pbmc3k", "kang_ifnb_pbmc": "kang_ifnb_pbmc", "lung_celllines": "lung_celllines_5batch"}
TINY_CELLS = [0, 3, 6, 9, 12, 15, 23]  # of the tiny Geneformers' 24; the first 16 are those that were perturbed
LOGITS = 5  # the reference gives the first five logits, so tokens 0 to 4 keep their places

# copied whole
COPIED = [
    "scgpt_plain",
    "scgpt_finetune",
    "scgpt_generative",
    "scgpt_multiomic",
    "scgpt_perturb/args.json",
    "scgpt_perturb/best_model.pt",
    "scgpt_perturb/prefix_loading.json",
    "scgpt_perturb/prefix_loading_io.npz",
    "scgpt_perturb/vocab.json",
    "scgpt_perturb/zero_logit_extra.pt",
    "integration",
    "networks/beeline.json",
    "networks/beeline.npz",
    "perturb_metrics/cell_eval.json",
    "perturb_metrics/cell_eval.npz",
    "perturb_metrics/cell_eval_baseline_profile.npy",
    "perturb_metrics/gears_scgpt_metrics.json",
    "perturb_metrics/gears_scgpt_metrics.npz",
    "perturb_metrics/systema_perturbench.json",
    "perturb_metrics/systema_perturbench.npz",
    "gremln/01_binning_cases.npz",
    "gremln/05_laplacian.npz",
    "gremln/11_heads_and_soft_network.npz",
    "gremln/networks",
    "gremln/tiny_config.json",
    "gremln/tiny_vocab.csv",
    "gremln/tiny_weights.safetensors",
]
# of these files, the arrays whose whole name matches
KEPT_ARRAYS = {
    "networks/attention_grn.npz": r"(?!layer0_rank|last_rank$|last_softmax|last_raw|gene_embedding).*",
    "scgpt_perturb/reference_io.npz": r"(?!token_emb).*",
    "gremln/03_network_ops.npz": r"(?!loaded).*",
    "gremln/04_tokenizer.npz": r"obs_row|.*_c[02]_.*",
    "gremln/06_chebyshev.npz": r"coeff_.*|toy_.*|undirected_c0_.*",
    "gremln/07_forward_tiny.npz": r"obs_.*|cell_type|.*_c\d_.*|.*_cellemb_.*|.*fp32_(batch4|alone0)_hidden"
    r"|undirected_fp32_alone0_logits",
    "gremln/08_loss_tiny.npz": r".*(_mask|_loss_.*|_perplexity_.*|_gradnorm_rankmask/.*)",
}


def main(target: Path) -> None:
    full = cache.find("golden")
    if full is None:
        sys.exit(
            "The full golden files are not here: set SCFM_CACHE to the folder with golden/, data/ and dictionaries/."
        )
    for name in COPIED:
        copy(full / name, target / name)
    for name, pattern in KEPT_ARRAYS.items():
        arrays = read(full / name)
        write(target / name, {key: array for key, array in arrays.items() if re.fullmatch(pattern, key)})
    ensembl_ids: set[str] = set()
    for name, cell_ids in CELLS.items():
        counts = shorten_counts(full, target, name, cell_ids)
        shorten_tokens(full, target, name, cell_ids)
        ensembl_ids |= set(counts["ensembl_id"])
    shorten_bins(full, target, CELLS["pbmc3k"])
    symbols = set(read(target / "cells" / "pbmc3k.npz")["gene_symbol"])
    shorten_vocabularies(target, ensembl_ids, symbols)
    for version in ("V1", "V2"):
        shorten_geneformer(full, target, version)
    shorten_gremln(full, target)


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def copy(source: Path, target: Path) -> None:
    """A file or a folder, its contents only: the full files may be read-only, the copies need not be."""
    for path in [source] if source.is_file() else sorted(source.rglob("*")):
        if path.is_file():
            to = target / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)


# --- cells ------------------------------------------------------------------------------------------


def shorten_counts(full: Path, target: Path, name: str, cell_ids: list[str]) -> dict[str, np.ndarray]:
    """The cells' raw counts, CSR, with the columns in which one of them has a count."""
    adata = anndata.read_h5ad(full.parent / "data" / f"{FILE[name]}.h5ad")[cell_ids]
    matrix = adata.X.tocsr()
    column, place = np.unique(matrix.indices, return_inverse=True)
    kept = adata.var.iloc[column]
    arrays = {
        "cell_id": np.array(cell_ids),
        "indptr": matrix.indptr.astype(np.int32),
        "indices": place.astype(np.int32),
        "counts": matrix.data.astype(np.int32),
        "column": column.astype(np.int32),  # of the full file
        "ensembl_id": kept["ensembl_id"].to_numpy(dtype=str),
        "gene_symbol": kept["gene_symbol"].to_numpy(dtype=str),
    }
    write(target / "cells" / f"{name}.npz", arrays)
    return arrays


def rows(cells: np.ndarray, cell_ids: list[str]) -> list[int]:
    return [int(np.flatnonzero(cells == cell)[0]) for cell in cell_ids]


def ragged(arrays: dict[str, np.ndarray], offsets: np.ndarray, kept: list[int]) -> dict[str, np.ndarray]:
    """Of arrays that hold cell i at offsets[i]:offsets[i + 1], the cells ``kept``; the new offsets come last."""
    short = {key: np.concatenate([array[offsets[i] : offsets[i + 1]] for i in kept]) for key, array in arrays.items()}
    return short | {"offsets": np.concatenate([[0], np.cumsum(np.diff(offsets)[kept])])}


def shorten_tokens(full: Path, target: Path, name: str, cell_ids: list[str]) -> None:
    golden = read(full / f"geneformer_tokens_{name}.npz")
    kept = rows(golden["cell_id"], cell_ids)
    short = {"cell_id": golden["cell_id"][kept], "n_counts": golden["n_counts"][kept]}
    for version in ("V1", "V2"):
        arrays = {key: golden[f"{version}_{key}"] for key in ("input_ids", "tie_group")}
        for key, array in ragged(arrays, golden[f"{version}_offsets"], kept).items():
            short[f"{version}_{key}"] = array
    write(target / f"geneformer_tokens_{name}.npz", short)


def shorten_bins(full: Path, target: Path, cell_ids: list[str]) -> None:
    golden = read(full / "scgpt_bins_pbmc3k.npz")
    kept = rows(golden["cell_id"], cell_ids)
    ours = ("gene_index", "left_digit", "right_digit", "binned_numpy_seed0")
    short = ragged({key: golden[key] for key in ours}, golden["offsets"], kept)
    column = read(target / "cells" / "pbmc3k.npz")["column"]
    short["gene_index"] = np.searchsorted(column, short["gene_index"]).astype(np.int32)
    write(target / "scgpt_bins_pbmc3k.npz", short | {"cell_id": golden["cell_id"][kept], "n_bins": golden["n_bins"]})


# --- vocabularies -----------------------------------------------------------------------------------


def part_of(vocabulary: RankVocabulary, genes: set[str], names: set[str]) -> RankVocabulary:
    """The vocabulary's rows for ``genes``, under the same token ids; of its other names, those in ``names``."""
    return replace(
        vocabulary,
        tokens={gene: token for gene, token in vocabulary.tokens.items() if gene in genes},
        medians={gene: median for gene, median in vocabulary.medians.items() if gene in genes},
        mapping={name: gene for name, gene in vocabulary.mapping.items() if name in names and gene in genes},
        symbols={gene: symbol for gene, symbol in vocabulary.symbols.items() if gene in genes},
    )


def save(vocabulary: RankVocabulary, folder: Path) -> None:
    """Without the name of a temporary file, which gzip notes: the script then makes the same bytes each time."""
    vocabulary.save(folder)
    for path in folder.glob("*.gz"):
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), mtime=0))


def shorten_vocabularies(target: Path, ensembl_ids: set[str], symbols: set[str]) -> None:
    for version in ("V1", "V2"):
        vocabulary = RankVocabulary.published(version)
        genes = {vocabulary.mapping.get(name.upper(), "") for name in ensembl_ids}
        save(part_of(vocabulary, genes, ensembl_ids), target / "vocabularies" / f"geneformer_{version.lower()}")
    path = cache.find("dictionaries/scgpt/default_census_vocab.json")
    assert path is not None
    vocabulary = SymbolVocabulary.load(path)
    part = {symbol: token for symbol, token in vocabulary.tokens.items() if symbol in symbols}
    text = json.dumps(part | dict(vocabulary.special), indent=0)
    (target / "vocabularies" / "scgpt_vocab.json").write_text(text + "\n")


# --- networks ---------------------------------------------------------------------------------------


def shorten_geneformer(full: Path, target: Path, version: str) -> None:
    """The tiny network with the gene embeddings of the tokens that its cells have, numbered anew in their old order."""
    name = f"geneformer_tiny_{version.lower()}"
    golden = read(full / name / "reference_io.npz")
    vocabulary = RankVocabulary.published(version)
    offsets = golden.pop("offsets")
    cells = [set(golden["input_ids"][offsets[i] : offsets[i + 1]].tolist()) for i in range(len(offsets) - 1)]
    tokens = ragged({"input_ids": golden.pop("input_ids")}, offsets, TINY_CELLS)
    golden = {key: array[TINY_CELLS] for key, array in golden.items()} | tokens

    perturbed = read(full / f"geneformer_perturb_{version.lower()}.npz")
    n_perturbed = len(perturbed["lengths"])
    for key in perturbed.keys() - {"genes", "absent"}:
        how, _, genes = key.rpartition("__")
        # `delete` has no row for a cell that lacks one of the genes
        needed = {vocabulary.token(gene) for gene in genes.split("+")} if how.startswith("delete") else set()
        has_row = [i for i in range(n_perturbed) if needed <= cells[i]]
        assert len(has_row) == len(perturbed[key])
        perturbed[key] = perturbed[key][[row for row, i in enumerate(has_row) if i in TINY_CELLS]]
    write(target / f"geneformer_perturb_{version.lower()}.npz", perturbed)

    others = [vocabulary.token(gene) for gene in [*perturbed["genes"], str(perturbed["absent"]), "CD3E"]]
    token = np.unique([*range(LOGITS), *golden["input_ids"], *others])  # new id → old id
    new = {int(old): number for number, old in enumerate(token)}
    known = {gene for gene, old in vocabulary.tokens.items() if old in new}
    part = part_of(vocabulary, known, known)
    part = replace(part, tokens={gene: new[old] for gene, old in part.tokens.items()})

    folder = target / name
    save(part, folder)
    golden["input_ids"] = np.searchsorted(token, golden["input_ids"]).astype(np.int32)
    write(folder / "reference_io.npz", golden | {"full_token_id": token.astype(np.int32)})
    weights = load_file(full / name / "model.safetensors")
    for key in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
        weights[key] = np.ascontiguousarray(weights[key][token])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((full / name / "config.json").read_text()) | {"vocab_size": len(token)}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def shorten_gremln(full: Path, target: Path) -> None:
    """Two of eight binned cells with the genes that either has, and the vocabulary's rows for these and for the network."""
    golden = read(full / "gremln" / "02_binning_pbmc3k.npz")
    kept = [0, 2]  # those of the other files of this folder
    column = np.flatnonzero((golden["counts"][kept] > 0).any(axis=0))
    per_cell = ("obs_row", "obs_names", "cell_type", "total_counts")
    per_cell_and_gene = ("bins", "counts", "bins_from_float32", "bins_if_not_vocab_filtered")
    short = {key: golden[key][kept] for key in per_cell}
    short |= {key: golden[key][np.ix_(kept, column)] for key in per_cell_and_gene}
    short |= {key: golden[key][column] for key in ("vocab_gene_ids", "x_log1p_cpm_float64_cell0")}
    write(target / "gremln" / "02_binning_pbmc3k.npz", short | {"edges_cell0": golden["edges_cell0"]})

    network = (full / "gremln" / "networks" / "made_up_network.tsv").read_text().splitlines()[1:]
    genes = set(short["vocab_gene_ids"]) | {gene for line in network for gene in line.split("\t")[:2]}
    table = (full.parent / "dictionaries" / "gremln" / "gene_vocab.csv").read_text().splitlines()
    lines = [line for line in table if not line.startswith("ENSG") or line.split(",")[0] in genes]
    (target / "vocabularies" / "gremln_gene_vocab.csv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
