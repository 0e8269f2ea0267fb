# %% [markdown]
# # 05 · What is PEFT, and what does LoRA change?
#
# Lesson 04 trained a head and left the network alone. The other end is to train every weight. Between them lies
# *parameter-efficient fine-tuning* (PEFT): freeze the network and train a few numbers that you put into it. Its
# best-known form is LoRA.
#
# | You will be able to | Time | Needs |
# |---|---|---|
# | build LoRA on one matrix and count what it trains; ask whether a weight change is low-rank; choose rank and place from measured fits; save, load, swap and add adapters; say whether LoRA was worth it here | 50 min (quick: 1-2 min of computing) | lessons 03 and 04 |

# %% tags=["parameters"]
profile = "quick"  # quick | cpu | gpu: the same code, other sizes
dataset: str | None = None  # None = the profile's own set; else a name, or a path to your file
label: str | None = None  # None = the dataset's own; the column of obs that holds the cell types
model = "geneformer-mini"  # a Geneformer: geneformer-mini, geneformer-v1-10m, ... or a folder
labels_per_class = 10  # labelled cells of each type
rank = 8  # of LoRA
seed = 0

# %%
import copy
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import peft
import torch

import scfm
from coursekit import check, record
from scfm import metrics, plots, stats
from scfm.adaptation import adapters
from studies import comparisons, ladder, own_cells, sets

# peft asks transformers for this property by its old name; the answer is the same
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

# %%
SIZES = {
    "quick": {"set": "pbmc68k", "steps": 20, "tokens": 128},
    "cpu": {"set": "kang_ifnb_pbmc", "steps": 80, "tokens": 256},
}
SIZES["gpu"] = SIZES["cpu"] | {"tokens": 2048}
size = SIZES[profile]
fm = scfm.load_model(model, device="auto" if profile == "gpu" else "cpu")
sets.of_kind(fm, "geneformer")
adata = scfm.load_dataset(dataset or size["set"], label=label, seed=seed)
sets.suitable(adata)
kept, left_out = metrics.usable_cells(adata.obs["cell_type"])
adata = adata[kept].copy()
types = adata.obs["cell_type"].astype(str).to_numpy()
train, test = ladder.draw(types, labels_per_class, seed)
cells = fm.tokenize(adata, max_len=size["tokens"])
how = {"seed": seed, "validation": 0.0, "epochs": 1000, "max_steps": size["steps"], "minibatch": 16,
       "dtype": "float32", "progress": False}  # fmt: skip
print(f"{len(train)} labelled cells, {len(test)} test cells, {len(np.unique(types))} types")
print(f"Types left out, with too few cells to test on: {left_out}")

# %% [markdown]
# ## Why not train everything?
#
# A frozen weight costs four bytes in float32. A trained one costs sixteen: itself, its gradient, and the two running
# means that Adam keeps of the gradient and of its square. (The activations come on top, for every method that trains
# inside the network.) LoRA keeps all weights of the base and adds a few. It needs gradients and running means for
# those few alone, as the last column shows:

# %%
n_all = adapters.count(fm.network.parameters())
n_lora = adapters.lora_parameters(fm, rank)
memory = pd.DataFrame(
    [(who, n, n_all + extra, 4 * (n_all + extra) / 1e6, 12 * n / 1e6)
     for who, n, extra in (("full", n_all, 0), (f"LoRA, rank {rank}", n_lora, n_lora))],
    columns=["method", "trained", "weights", "weights, MB", "gradient + Adam, MB"],
).set_index("method")  # fmt: skip
memory.style.format({"trained": "{:,}", "weights": "{:,}"}, precision=1)

# %%
n_guessing = n_all - adapters.count(fm.network.bert.parameters())
print(
    f"Of these weights, {n_guessing:,} belong to the layer that guessed masked genes. No cell vector passes through it,"
)
print("so `full` leaves it out when it trains: its rows further down count the others, and the new head.")

# %% [markdown]
# ## LoRA by hand
#
# Picture one matrix W of the network as a wide road from the inputs to the outputs. It stays as it is. LoRA builds a
# footpath beside it: a thin matrix A squeezes the inputs into r numbers, a second one, B, spreads these over the
# outputs, and the two results are added.
#
# > **W′ = W + (α / r) · B A**, where A is r × inputs and B is outputs × r
#
# The *rank* r is the width of the path. α (alpha) sets how strongly it is weighted; `adapt` takes α = 2r if you name
# none. A starts random and B starts at zero, so the sum starts as nothing: step 0 is the pretrained network. A and B
# together are an *adapter*.
#
# (Lesson 01 counted LoRA on the query and value matrices alone, as its paper did first. Here it sits beside every matrix,
# the default of `adapt`: for Geneformer query, key, value, the output of attention and the two feed-forward matrices of
# each layer; for scGPT the same, with query, key and value in one matrix.)

# %%
linear = copy.deepcopy(fm.network.bert.encoder.layer[0].attention.self.query).cpu().requires_grad_(False)
inputs, outputs, alpha = linear.in_features, linear.out_features, 2 * rank
generator = torch.Generator().manual_seed(seed)
A = (torch.randn(rank, inputs, generator=generator) / inputs**0.5).requires_grad_()
B = torch.zeros(outputs, rank, requires_grad=True)


def by_hand(x):
    return linear(x) + (alpha / rank) * x @ A.T @ B.T  # (cell, outputs)


x = torch.randn(5, inputs, generator=generator)
assert torch.equal(by_hand(x), linear(x))  # it starts as nothing
(by_hand(x) ** 2).sum().backward()  # any loss will do to see who gets a gradient
print(f"W has a gradient: {linear.weight.grad is not None}.")
print(f"Size of the gradient at the start: A {A.grad.norm():.3f}, B {B.grad.norm():.3f}.")
record("gradient_of_a_at_start", float(A.grad.norm()))

# %% [markdown]
# At the very first step only B moves: the gradient of A is multiplied by B, which is zero. From the second step on
# both do. Now peft's layer, with our numbers in it:

# %%
B = torch.randn(outputs, rank, generator=generator) * 0.1  # as after some training
config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"])
wrapped = peft.get_peft_model(torch.nn.Sequential(copy.deepcopy(linear)), config)
with torch.no_grad():
    wrapped.base_model.model[0].lora_A["default"].weight.copy_(A)
    wrapped.base_model.model[0].lora_B["default"].weight.copy_(B)
    gap = float((wrapped(x) - by_hand(x)).abs().max())
assert gap < 1e-4, gap
print(f"Largest difference between ours and peft's: {gap:.1e}")

# %% [markdown]
# ### Exercise 05.1
# How many numbers does LoRA train on one matrix? Write `lora_weights(inputs, outputs, rank)` from the shapes of A and
# B.


# %% tags=["exercise"]
def lora_weights(inputs, outputs, rank):
    return ...  # your line


check.exercise("05.1", lora_weights)


# %% tags=["solution"]
def lora_weights(inputs, outputs, rank):
    return rank * (inputs + outputs)


check.exercise("05.1", lora_weights)

# %% [markdown]
# ### Exercise 05.2
# After training, the product can be added to W for good, which is called *merging*: nothing is left to compute beside
# W. Write `merge(W, A, B, alpha)` for NumPy arrays. (The rank stands in the shape of A.)


# %% tags=["exercise"]
def merge(W, A, B, alpha):
    return ...  # your line


check.exercise("05.2", merge)


# %% tags=["solution"]
def merge(W, A, B, alpha):
    return W + alpha / len(A) * B @ A


check.exercise("05.2", merge)

# %% [markdown]
# ## Is the change low-rank?
#
# A product B A can move the outputs along r directions only: it has *low rank*. LoRA bets that the change a task
# needs is like that. Measure it: fine-tune everything for a few steps and take the change W′ − W of each matrix. The
# singular value decomposition (`svd`) takes a matrix apart into directions, like PCA, and tells the size of each, its
# *singular value*. The squares of the first r, divided by those of all, say which share of the change a path of width
# r could carry. A random matrix of the same shape stands beside it.

# %%
before = adapters.digest(fm.network)
full = scfm.adapt(fm, cells[train], types[train], method="full", **how)
matrices = [n for n, m in fm.network.bert.encoder.named_modules() if isinstance(m, torch.nn.Linear)]
ranks = np.array([1, 2, 4, 8, 16, 32, 64])


def first_directions(delta):
    s = np.linalg.svd(delta, compute_uv=False) ** 2
    return np.cumsum(s)[ranks - 1] / s.sum()  # (rank,)


shares = []
rng = np.random.default_rng(seed)
for name in matrices:
    old, new = (f.network.bert.encoder.get_submodule(name).weight.detach().cpu().numpy() for f in (fm, full))
    for who, delta in (("fine-tuning", new - old), ("random matrix", rng.normal(size=old.shape))):
        shares += [(who, name, r, s) for r, s in zip(ranks, first_directions(delta), strict=True)]
shares = pd.DataFrame(shares, columns=["change", "matrix", "rank", "share"])
lines = shares.groupby(["change", "rank"])["share"].agg(mean="mean", low="min", high="max").reset_index()
ours, chance = lines[lines["rank"] == 8].set_index("change")["mean"][["fine-tuning", "random matrix"]]
record("share_in_8", {"fine-tuning": round(ours, 4), "random matrix": round(chance, 4)}, tolerance=0.1)
print(f"In the first 8 directions: fine-tuning {ours:.0%}, a random matrix {chance:.0%}.")

# %% tags=["figure"]
title = f"Change in {size['steps']} steps: mean and range of {len(matrices)} matrices"
ax = plots.curves(lines, "rank", "change", "first r directions", "share of the squared norm", title, log_x=True)
plots.show(
    ax,
    alt="Share of the weight change in its first r directions. "
    f"At r = 8: {ours:.0%} for fine-tuning, {chance:.0%} for a random matrix.",
)

# %% [markdown]
# The change is closer to low rank than chance, and it is not simply "of rank 8": read off how much of it a rank
# leaves out. The band shows that the matrices differ. These are few steps, too; a longer training may use more
# directions. Whether the part left out matters for the answers is another question. The table further down asks it.

# %% [markdown]
# ### Exercise 05.3
# Write `rank_needed(delta, share)`: the smallest rank whose first directions hold at least this share (0 < share ≤ 1)
# of the squared norm.


# %% tags=["exercise"]
def rank_needed(delta, share):
    return ...  # your lines


check.exercise("05.3", rank_needed)


# %% tags=["solution"]
def rank_needed(delta, share):
    s = np.linalg.svd(delta, compute_uv=False) ** 2
    return min(
        int(np.searchsorted(np.cumsum(s) / s.sum(), share)) + 1, len(s)
    )  # rounding may leave the last at 0.999...


check.exercise("05.3", rank_needed)

# %% [markdown]
# ## The library's LoRA
#
# The same call as for a head, another word: `method="lora"`. It puts A and B beside every matrix of every layer, and
# trains a new head with them. Three promises, each checked: as many trained numbers as the formula says, the base
# unchanged to the last bit, and the same vectors merged and unmerged.

# %%
fit = scfm.adapt(fm, cells[train], types[train], method="lora", rank=rank, **how)
in_network = fit.report.trained_parameters - fit.report.head_parameters
by_formula = sum(
    rank * (m.in_features + m.out_features)  # exercise 05.1
    for m in fm.network.bert.encoder.modules() if isinstance(m, torch.nn.Linear)
)  # fmt: skip
assert in_network == by_formula == n_lora
assert adapters.digest(fm.network) == before
reads = {"pooling": fit.choices.pooling, "layer": fit.choices.layer, "dtype": "float32", "progress": False}
apart = fit.embed(cells[test], progress=False)
merged_gap = float(np.abs(fit.merged().embed(cells[test], **reads) - apart).max() / np.abs(apart).max())
assert merged_gap < 1e-5, merged_gap
record("lora_parameters", in_network, tolerance=0)
record("merged_equals_unmerged", merged_gap < 1e-5)
print(fit.report)

# %%
without_steps = {k: how[k] for k in ("seed", "validation", "dtype", "progress")}
head = scfm.adapt(fm, cells[train], types[train], method="head", **without_steps)
one_draw = {
    who: ladder.scores(types[test], f.predict(cells[test], progress=False))["balanced_accuracy"]
    for who, f in (("head", head), ("lora", fit), ("full", full))
}
record("one_draw", {k: round(v, 4) for k, v in one_draw.items()}, tolerance=0.12)
print("One draw, so no verdict: " + ", ".join(f"{k} {v:.3f}" for k, v in one_draw.items()))

# %% [markdown] tags=["instructor"]
# **Ask** before the next section: which rank would you take, and where would you put it? **Misconception:** "LoRA
# trains 3 % of the weights, so it is thirty times faster." The network still runs forward and backward; the seconds
# below show it. **Time check:** half of the lesson is over. **Skip** exercise 05.3 if you are late.

# %% [markdown]
# ## Rank, place, alpha, and the relatives
#
# One draw says little, so the course keeps tables. The large one is called the *ladder*, because it climbs from methods
# that change little to methods that change much, its *rungs*: head, LoRA, partial (the last layers) and full
# fine-tuning, of two models on four sets. Lesson 06 is about it. Here is a smaller one: five draws of 10 labels per
# type of `kang_ifnb_pbmc`, the ladder's labelled cells and test cells, each fit short (30 steps of 16 cells, 128
# tokens, float32). `python -m studies.sweep` makes it. Compare its rows with each other only: the fits are too short to
# say how far a method gets. All rows but the first two train a head as well. Each method has a learning rate of its own
# (`scfm.adaptation.choices.RATES`), none was tuned here, and methods that start slowly, such as prompts and prefixes,
# may catch up in longer training: a row is "this method at this setting", not the method.
#
# | row | what it trains | the idea |
# |---|---|---|
# | logistic HVG, PCA | logistic regression without any network | the baselines |
# | head | nothing inside the network | read what is there |
# | lora | thin matrices beside each matrix (`on qv`: only those of queries and values) | a narrow path beside a wide road |
# | dora | the same, and a length for each output | direction and size of a weight are learned apart |
# | vera | two lists of factors beside one shared, random pair of thin matrices | learn only how strongly fixed paths are used |
# | ia3 | one factor per key, value and feed-forward channel | turn existing channels up or down |
# | ln | the scales and shifts of the layer norms (the steps that bring each vector to a common size) | the same, in the places that every vector passes |
# | prefix, prompt | positions before the cell that no gene occupies, in each layer or at the input | words that the network reads before the cell |
# | full | every weight, those of the gene embeddings too | |
# | twin lora | LoRA on the untrained twin: the same network with random weights | what needs no pretraining |

# %%
stored = scfm.results("peft")
rows = comparisons.summary(stored[stored["metric"] == "balanced_accuracy"], by=("method",)).set_index("method")
record("sweep", rows["mean"].round(4).to_dict(), tolerance=1e-3)
against = stored.copy()
against.loc[against["method"].str.startswith("logistic"), "model"] = comparisons.BASELINES

# %% tags=["figure"]
price = stored.pivot_table(index="method", columns="metric", values="value", aggfunc="median")
shown = price.loc[rows.index, ["trained_parameters", "cpu_seconds"]].set_axis(["trained", "seconds"], axis=1)
shown["accuracy"] = [f"{r['mean']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for _, r in rows.iterrows()]
for rival in ("head", "logistic PCA"):
    gaps = comparisons.paired(against, [(m, rival) for m in rows.index if m != rival])
    text = {r.ours: f"{r.mean:+.3f} [{r.low:+.3f}, {r.high:+.3f}]" for r in gaps.itertuples()}
    shown[f"minus {rival}"] = [text.get(m, "") for m in rows.index]
few = ["logistic HVG", "logistic PCA", "head", *(f"lora r={r}" for r in (1, 8, 32)), "lora on qv", "full"]
few = [m for m in (*few, "twin lora r=8") if m in shown.index]
shown = shown.loc[[*few, *[m for m in shown.index if m not in few]]]  # the main rows first
shown.rename_axis(None).style.format({"trained": "{:,.0f}", "seconds": "{:.2f}"}, na_rep="").set_caption(
    f"balanced accuracy, {int(rows['n'].min())} draws, 95 % t intervals; seconds on one core"
).set_table_styles([{"selector": "th, td", "props": "white-space: nowrap"}])  # an interval stays on its line

# %% [markdown]
# First look at "minus head": an interval above zero says that training inside the network helped. (Mind: the head
# reads Geneformer's last layer but one, as upstream does; the others read the last. And of twenty such intervals one
# lies beside zero by chance.) Then at "minus logistic PCA": below zero, the method lost to a baseline without a
# network.
#
# There is no column for memory. All fits of a draw ran one after the other in one process, and its peak says nothing
# about a single method: on a model of a few million weights, Python and the activations outweigh the optimizer. The
# table at the top of the lesson is the part that grows with the model.

# %% tags=["figure"]
roles = {m: "baseline" if m.startswith("logistic") else "twin" if m.startswith("twin") else "model" for m in rows.index}
title = "LoRA's settings and relatives (kang_ifnb_pbmc, 10 labels per type)"
ax = plots.intervals(rows.reset_index(), roles=roles, xlabel="balanced accuracy, 95 % interval of 5 draws", title=title)
n, best, twin = len(rows), rows["mean"].idxmax(), rows.loc["twin lora r=8", "mean"]
highest = rows.loc[best, "mean"]
plots.show(
    ax,
    alt=f"Balanced accuracy of {n} methods; the highest mean is {best} at {highest:.3f}, the twin's LoRA {twin:.3f}.",
)

# %%
pairs = [("lora r=32", "lora r=1"), ("lora r=8", "lora on qv"), ("lora alpha=64", "lora r=8"), ("lora r=8", "full"),
         ("lora r=8", "twin lora r=8")]  # fmt: skip
inside = comparisons.paired(against, pairs)
for r in inside.itertuples():
    print(f"{r.ours} minus {r.rival}: {r.mean:+.3f} [{r.low:+.3f}, {r.high:+.3f}], {r.verdict}")
record("above_random_twin", float(inside["mean"].iloc[-1]), tolerance=1e-3)
in_network = [m for m in rows.index if not m.startswith(("logistic", "head"))]
for rival in ("logistic PCA", "logistic HVG"):
    found = comparisons.paired(against, [(m, rival) for m in in_network])["verdict"].value_counts()
    print(f"The {len(in_network)} rows that train inside a network, against {rival}:", end=" ")
    print(", ".join(f"{verdict} {n}" for verdict, n in found.items()))

# %% [markdown]
# So which rank, and where? Rank 32 beats rank 1. From queries and values to all matrices, from alpha = 16 (twice the
# rank) to 64, from LoRA to full fine-tuning: undecided. Take all matrices and rank 8 or 16, and do not expect the
# choice to matter much. And no row here beats logistic regression. (The last line compares LoRA with LoRA on random
# weights. It measures warm start and training together: lesson 03 showed that the start alone has most of that lead.)
#
# ## Was LoRA worth it, on more than one set?
#
# One set, one budget and thirty steps are a narrow view. The *ladder*, the course's larger table (80 steps of 32 cells,
# 5 to 100 labels per type, four sets), asks the same of all its sets. The claim is about data sets, so each set is one
# value: its mean over budgets and draws.

# %%
large = scfm.results("ladder")
who = model if model in set(large["model"]) else "geneformer-mini"
of_model = large[large["model"].isin([who, comparisons.BASELINES])]
over_budgets = comparisons.paired(of_model, [("lora", "logistic PCA")])
for name, part in over_budgets.groupby("dataset", sort=False):
    said = "; ".join(f"{r.labels_per_class} labels {r.mean:+.3f} ({r.verdict})" for r in part.itertuples())
    print(f"{name}: {said}")
gap, by_set = comparisons.across_sets(large, who, "lora", "logistic PCA")
print(f"LoRA minus logistic regression on PCA, {len(by_set)} sets as the unit: {gap}, {gap.verdict()};", end=" ")
print(f"from {by_set.min():+.3f} ({by_set.idxmin()}) to {by_set.max():+.3f} ({by_set.idxmax()}).")
record("lora_by_set", by_set.round(4).to_dict(), tolerance=1e-3)

# %%
of_which = {"cells": f"{len(by_set)} held-out sets, 5 to 100 labels per type, 80 steps", "varies": "sets"}
if dataset:  # of a set of your own: a few draws of its cells, fits as long as those above
    rungs = ("lora", "head", *ladder.FROM_SCRATCH)
    own = own_cells.compare(model, adata, rungs, labels_per_class, size["steps"], size["tokens"], seed=seed)
    found = comparisons.paired(own, [("lora", rival) for rival in ("logistic PCA", "logistic HVG", "head")])
    for r in found.itertuples():
        print(f"{r.dataset}, {r.n} draws: lora minus {r.rival} {stats.Interval(r.mean, r.low, r.high)}: {r.verdict}")
    gap = stats.Interval(*found.loc[0, ["mean", "low", "high"]])
    of_which = {"cells": f"{r.dataset}, {labels_per_class} labels per type, {size['steps']} steps", "varies": "draws"}
what = "balanced accuracy of LoRA, minus that of logistic regression on PCA"
record.headline(what, gap, stored=not dataset, **of_which)

# %% [markdown]
# ## Adapters are small files
#
# To share a fit, send the adapter. Whoever has the base can use it, also with plain peft. On any other base its
# numbers mean nothing, so `load` compares the weights and refuses a wrong one (plain peft does not check). Here we
# offer it the untrained twin:

# %%
folder = Path(tempfile.mkdtemp())
fit.save(folder / "types")
bytes_of = {"adapter": (folder / "types" / "adapter_model.safetensors").stat().st_size, "base": 4 * n_all}
plain = peft.PeftModel.from_pretrained(adapters.sharing_copy(fm.network), folder / "types").eval()
other = copy.copy(fm)
other.network = plain.get_base_model()
plain_gap = float(np.abs(other.embed(cells[test], **reads) - apart).max())
assert plain_gap < 1e-4, plain_gap
record("adapter_share", bytes_of["adapter"] / bytes_of["base"], tolerance=0.01)
print(f"{bytes_of['adapter']:,} bytes beside {bytes_of['base']:,} of the base; plain peft differs by {plain_gap:.0e}.")
try:
    scfm.load_fit(folder / "types", model=scfm.load_model(model, weights="random", seed=seed))
except ValueError as error:
    print(f"\nOn a wrong base: {str(error).replace(str(folder / 'types'), 'the folder types')}")

# %% [markdown]
# ## Two adapters on one base
#
# A second adapter learns another column: was the cell sequenced deeper than the median of its type? Both hang on one
# frozen base, and `set_adapter` swaps them. Adding them is possible as well: peft's `cat` stacks both pairs of thin
# matrices, so the updates add up exactly.

# %%
counts = adata.obs["n_counts"].to_numpy()
middle = pd.Series(counts).groupby(types).transform("median").to_numpy()
depth = np.where(counts > middle, "deep", "shallow")
second = scfm.adapt(fm, cells[train], depth[train], method="lora", rank=rank, **how)
second.save(folder / "depth")

both = peft.PeftModel.from_pretrained(adapters.sharing_copy(fm.network), folder / "types", adapter_name="types")
both.load_adapter(folder / "depth", adapter_name="depth")
both.add_weighted_adapter(["types", "depth"], [1.0, 1.0], "sum", combination_type="cat")
layer = both.get_base_model().bert.encoder.layer[0].attention.self.query
added = layer.get_delta_weight("types") + layer.get_delta_weight("depth")
assert torch.allclose(layer.get_delta_weight("sum"), added, atol=1e-6)

# %%
answers = []
unmoved = fm.embed(cells[test], **reads)
for active in ("none", "types", "depth", "sum"):
    if active == "none":
        seen = unmoved
    else:
        both.set_adapter(active)
        other.network = both.get_base_model().eval()
        seen = other.embed(cells[test], **reads)
    moved = float(np.linalg.norm(seen - unmoved) / np.linalg.norm(unmoved))
    for column, own, truth in (("types", fit, types), ("depth", second, depth)):
        score = ladder.scores(truth[test], own.predict(embeddings=seen))["balanced_accuracy"]
        answers.append((active, moved, f"head of {column}", score))
answers = pd.DataFrame(answers, columns=["adapter", "vectors moved by", "head", "score"])
scores = answers.pivot(index="adapter", columns="head", values="score")
record("swapped", scores.drop(index="none").round(4).to_dict(), tolerance=0.15)

# %% tags=["figure"]
beside = answers.drop_duplicates("adapter").set_index("adapter")[["vectors moved by"]].join(scores).rename_axis(None)
beside.style.format("{:.3f}", subset=list(scores)).format("{:.1%}", subset=["vectors moved by"]).set_caption(
    "rows: the active adapter; heads: balanced accuracy, one draw"
)

# %% [markdown]
# Each head was trained on the vectors of its own adapter. Under the other, under the sum or under none it reads
# vectors that were moved otherwise, and nothing promises that it still understands them. After so short a training the
# vectors have moved by a few percent only, so a head hardly notices a swap, and one draw cannot rank the rows. What was
# found: swapping and adding adapters works as arithmetic (the cell above checks the sum of the updates to the sixth
# digit); whether the heads still work has to be measured each time.

# %% [markdown]
# ## Bases of 4 and 8 bits, and scGPT
#
# LoRA leaves the base frozen, so the base can be stored coarsely: half a byte per weight (4 bits, as in QLoRA) or one
# byte (8 bits). That pays for models of hundreds of millions of weights or more, and needs a GPU. The same call works
# for scGPT. One place is missing there: it keeps query, key and value in one matrix, so `qv` cannot be chosen.

# %%
try:
    coarse = scfm.adapt(fm, cells[train], types[train], method="lora", quantize="4bit", **how)
    print(coarse.report)
except ValueError as error:
    print(error)
scgpt = scfm.load_model("scgpt-mini")
print(f"\nscgpt-mini, LoRA of rank {rank}: {adapters.lora_parameters(scgpt, rank):,} trained weights.")
try:
    adapters.lora_parameters(scgpt, rank, "qv")
except ValueError as error:
    print(error)
two_steps = how | {"method": "lora", "rank": rank, "max_steps": 2}
tried = scfm.adapt(scgpt, scgpt.tokenize(adata[train], max_len=64), types[train], **two_steps)
assert tried.report.trained_parameters - tried.report.head_parameters == adapters.lora_parameters(scgpt, rank)

# %% [markdown]
# ## Does LoRA beat the head, and logistic regression?
#
# The ladder's stored runs answer: 80 steps, two models, four sets, up to four budgets of labels per type, five draws
# each. Each comparison is one model on one set with one budget, draw by draw. It is decided where the whole 95 % interval
# of the difference lies beyond one point:

# %%
climbed = scfm.results("ladder")
pairs = [("lora", rival) for rival in ("head", "full", "logistic PCA", "logistic HVG", "twin lora")]
gaps = comparisons.paired(climbed, pairs)
tally = comparisons.verdicts(gaps, by=("model", "rival"))[["better", "undecided", "worse"]].astype(int)
record("against", {f"{model_} | {rival}": row.tolist() for (model_, rival), row in tally.iterrows()})

# %% tags=["figure"]
counted = tally.reset_index()
counted["rival"] = "against " + counted["rival"]
counted.style.hide(axis="index").set_caption("comparisons in which LoRA is ...")

# %% tags=["figure"]
mini = gaps[(gaps["model"] == "geneformer-mini") & (gaps["rival"] != "twin lora")]
panels = plots.axes(11.5, 3.6, columns=mini["dataset"].nunique(), sharey=True, sharex=True)
for ax, (name, part) in zip(panels.flat, mini.groupby("dataset", sort=False), strict=True):
    part = part.assign(budget=part["labels_per_class"].astype(str) + " labels")
    plots.intervals(part, label="budget", hue="rival", reference=0, title=name, ax=ax)
    if ax is not panels.flat[-1]:
        ax.get_legend().remove()
panels.flat[0].figure.supxlabel("LoRA minus rival, balanced accuracy", fontsize=10)  # once: four would overlap
said = "; ".join(f"{r.dataset} {r.labels_per_class} labels vs {r.rival}: {r.verdict}" for r in mini.itertuples())
plots.show(
    panels,
    alt="Paired differences of LoRA to the head, full fine-tuning and both logistic regressions for geneformer-mini: "
    f"{said}.",
)

# %% [markdown]
# Read the grey line at zero before the dots: right of it LoRA is better. The head shows whether it was worth training
# inside the network, and at the largest budget of each set the answer is open. Logistic regression shows whether you
# needed the model, and on a tissue that the corpus does not hold (the pancreas) the answer is plain. (It holds too
# few cells per type for the fourth budget.) The twin is left out of the figure, because its differences would press
# the others together. In the table it shows what the warm start (lesson 03) and the pretraining gave together. Be
# careful with single verdicts: if nothing differed at all, about one comparison in twenty would still be decided, by
# chance.

# %% [markdown] tags=["quiz"]
# **Quiz.** Why does B start at zero, and not A as well?
# - [ ] it saves memory -> Zeros take as much memory as other numbers.
# - [x] the product starts as nothing, and B still gets a gradient -> Yes: with both at zero, both gradients are zero and nothing ever moves.
# - [ ] A must stay as it is -> A moves from the second step on.

# %% [markdown] tags=["quiz"]
# **Quiz.** You double the rank and keep alpha. What happens to the factor before BA?
# - [ ] it doubles -> It is alpha / r.
# - [x] it is halved -> Yes: raise alpha with the rank if the factor is to stay, as `adapt` does by default.
# - [ ] it stays -> Only if alpha doubles too.

# %% [markdown] tags=["quiz"]
# **Quiz.** LoRA trains few weights. Why is it no faster than full fine-tuning here?
# - [ ] peft is slow -> The thin products cost a little, and are not the main part.
# - [x] every step still runs the whole network forward and backward -> Yes: what is saved is Adam's memory of the frozen weights and the computing of their gradients, and here the added matrices eat that up.
# - [ ] Adam takes most of the time -> LoRA spends next to nothing on Adam, and takes as long as `full`: compare their seconds.

# %% [markdown]
# ## Key points
# - LoRA adds (α/r) BA to a frozen matrix and starts as nothing; it trains r · (inputs + outputs) numbers per matrix.
# - What it saves is the gradient and Adam's memory of the frozen weights, and disk; the network still runs.
# - Whether a change is low-rank can be measured, and so can whether the part left out matters.
# - Merged and unmerged give the same answers. The base stays what it was, and a wrong base is refused.
# - Adapters swap freely. Adding two adds their updates, and promises nothing to their heads.
# - Judge LoRA beside the head, full fine-tuning, its random twin and logistic regression, draw by draw.
#
# **On your own cells:** which columns a file needs, the calls, the time and what to write in a methods section stand on
# the page *On your own cells* of the book (`site/own-cells.md`).
#
# ## Further reading
# - Hu et al. 2021, LoRA: https://doi.org/10.48550/arXiv.2106.09685
# - Dettmers et al. 2023, QLoRA: https://doi.org/10.48550/arXiv.2305.14314
# - Liu et al. 2022, IA3: https://doi.org/10.48550/arXiv.2205.05638
# - Liu et al. 2024, DoRA: https://doi.org/10.48550/arXiv.2402.09353
# - Kopiczko et al. 2023, VeRA: https://doi.org/10.48550/arXiv.2310.11454
