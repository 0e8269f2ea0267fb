# %% [markdown]
# # 05 · What is PEFT, and what does LoRA change?
#
# Lesson 04 trained a head and left the network alone. The other end is to train every weight. Between them lies *parameter-efficient
# fine-tuning* (PEFT): freeze the network and train a few numbers that you put into it. Its best-known form is LoRA.
#
# | You will be able to | Time | Needs |
# |---|---|---|
# | build LoRA on one matrix and count what it trains; ask whether a weight change is low-rank; choose rank and place from measured fits; save, load, swap and add adapters; say whether LoRA was worth it here | 50 min (quick: 1-2 min of computing) | lessons 01 and 03 |

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
from pathlib import Path

import numpy as np
import pandas as pd
import peft
import torch

import scfm
from coursekit import check, record
from scfm import adapters, comparisons, ladder, metrics, plots

SIZES = {
    "quick": {"set": "pbmc68k", "steps": 20, "tokens": 128},
    "cpu": {"set": "kang_ifnb_pbmc", "steps": 80, "tokens": 256},
}
SIZES["gpu"] = SIZES["cpu"] | {"tokens": 2048}
size = SIZES[profile]
fm = scfm.load_model(model, device="auto" if profile == "gpu" else "cpu")
adata = scfm.load_dataset(dataset or size["set"], label=label, seed=seed)
kept, left_out = metrics.usable_cells(adata.obs["cell_type"])
adata = adata[kept].copy()
types = adata.obs["cell_type"].astype(str).to_numpy()
train, test = ladder.draw(types, labels_per_class, seed)
cells = fm.tokenize(adata, max_len=size["tokens"])
how = {"seed": seed, "validation": 0.0, "epochs": 1000, "max_steps": size["steps"], "minibatch": 16,
       "dtype": "float32", "progress": False}  # fmt: skip
print(f"{len(train)} labelled cells, {len(test)} test cells, {len(np.unique(types))} types; left out: {left_out}")

# %% [markdown]
# ## Why not train everything?
#
# A frozen weight costs four bytes in float32. A trained one costs sixteen: itself, its gradient, and the two running means that
# Adam keeps of the gradient and of its square. (The activations come on top, for every method that trains inside the network.)

# %%
n_all = adapters.count(fm.network.parameters())
n_lora = adapters.lora_parameters(fm.network, rank)
memory = pd.DataFrame(
    [(who, n, n_all + extra, 4 * (n_all + extra) / 1e6, 12 * n / 1e6)
     for who, n, extra in (("full", n_all, 0), (f"LoRA, rank {rank}", n_lora, n_lora))],
    columns=["method", "trained", "weights", "weights, MB", "gradient + Adam, MB"],
).set_index("method")  # fmt: skip
memory.style.format({"trained": "{:,}", "weights": "{:,}"}, precision=1)

# %% [markdown]
# ## LoRA by hand
#
# Take one matrix $W$ of the network. Leave it as it is, and add a product of two thin matrices:
#
# $$W' = W + \frac{\alpha}{r} B A, \qquad A: r \times \text{inputs}, \quad B: \text{outputs} \times r$$
#
# $A$ starts random and $B$ starts at zero, so the sum starts as nothing: step 0 is the pretrained network.

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
(by_hand(x) ** 2).sum().backward()
print(f"W has a gradient: {linear.weight.grad is not None}.")
print(f"Size of the gradient at the start: A {A.grad.norm():.3f}, B {B.grad.norm():.3f}.")
record("gradient_of_a_at_start", float(A.grad.norm()))

# %% [markdown]
# At the very first step only $B$ moves: the gradient of $A$ is multiplied by $B$, which is zero. From the second step on both do.
# Now peft's layer, with our numbers in it:

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
# How many numbers does LoRA train on one matrix? Write `lora_weights(inputs, outputs, rank)` from the shapes of $A$ and $B$.


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
# After training, the product can be added to $W$ for good: nothing is left to compute beside it. Write `merge(W, A, B, alpha)` for NumPy
# arrays. (The rank stands in the shape of $A$.)


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
# LoRA bets that the change a task needs is low-rank. Measure it: fine-tune everything for a few steps, take $W' - W$ of each matrix, and ask
# which share of its squared norm lies in its first $r$ directions. A random matrix of the same shape stands beside it.

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
lines = shares.groupby(["change", "rank"])["share"].agg(["mean", "min", "max"]).reset_index()
ax = plots.curves(lines, "rank", "change", "first r directions", "share of the squared norm",
                  f"Change of {len(matrices)} matrices in {size['steps']} steps", log_x=True)  # fmt: skip
at = lines[lines["rank"] == 8].set_index("change")["mean"]
plots.show(ax, alt=f"Share of the weight change in its first r directions. At r = 8: {at['fine-tuning']:.0%} for fine-tuning, {at['random matrix']:.0%} for a random matrix.")  # fmt: skip
record("share_in_8", at.round(4).to_dict(), tolerance=0.1)
print(f"In the first 8 directions: fine-tuning {at['fine-tuning']:.0%}, a random matrix {at['random matrix']:.0%}.")

# %% [markdown]
# Closer to low rank than chance, and not simply "of rank 8": read off how much of the change a rank leaves out. Whether the part left
# out matters for the answers is another question. The table further down asks it.

# %% [markdown]
# ### Exercise 05.3
# Write `rank_needed(delta, share)`: the smallest rank whose first directions hold at least this share of the squared norm.


# %% tags=["exercise"]
def rank_needed(delta, share):
    return ...  # your lines


check.exercise("05.3", rank_needed)


# %% tags=["solution"]
def rank_needed(delta, share):
    s = np.linalg.svd(delta, compute_uv=False) ** 2
    return int(np.argmax(np.cumsum(s) / s.sum() >= share)) + 1


check.exercise("05.3", rank_needed)

# %% [markdown]
# ## The library's LoRA
#
# The same call as for a head, another word. Three promises, each checked: as many trained numbers as the formula says, the base
# unchanged to the last bit, and merged = unmerged.

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
head = scfm.adapt(fm, cells[train], types[train], method="head", **{k: how[k] for k in ("seed", "validation", "dtype", "progress")})  # fmt: skip
one_draw = {who: ladder.scores(types[test], f.predict(cells[test], progress=False))["balanced_accuracy"]
            for who, f in (("head", head), ("lora", fit), ("full", full))}  # fmt: skip
record("one_draw", {k: round(v, 4) for k, v in one_draw.items()}, tolerance=0.12)
print("One draw, so no verdict: " + ", ".join(f"{k} {v:.3f}" for k, v in one_draw.items()))

# %% [markdown] tags=["instructor"]
# **Ask** before the next section: which rank would you take, and where would you put it? **Misconception:** "LoRA trains 3 % of the weights, so it is
# thirty times faster." The network still runs forward and backward; the seconds below show it. **Time check:** half of the lesson is over.
# **Skip** exercise 05.3 if you are late.

# %% [markdown]
# ## Rank, place, alpha, and the relatives
#
# One draw says little, so the course keeps a table: five draws of 10 labels per type of `kang_ifnb_pbmc`, the ladder's labelled cells and test cells,
# each fit short (30 steps of 16 cells, 128 tokens, float32). `python -m scfm.sweep` makes it. Compare its rows with each other, not with the
# ladder's longer fits.
#
# | | what it trains |
# |---|---|
# | LoRA, DoRA | thin matrices beside each matrix; DoRA also its column norms |
# | VeRA | scalings of one shared, random pair of thin matrices |
# | IA3 | one factor per key, value and feed-forward channel |
# | ln | the scales and shifts of the layer norms |
# | prefix, prompt | positions before the cell that no gene occupies, in each layer or at the input |

# %%
stored = pd.read_parquet(scfm.cache.repo_data() / "results" / "peft.parquet")
rows = comparisons.summary(stored[stored["metric"] == "balanced_accuracy"], by=("method",)).set_index("method")
price = stored.pivot_table(index="method", columns="metric", values="value", aggfunc="median")
against = stored.copy()
against.loc[against["method"].str.startswith("logistic"), "model"] = comparisons.BASELINES
RIVALS = {"head": "minus head", "logistic PCA": "minus logistic PCA"}
table = rows.join(price[["trained_parameters", "cpu_seconds", "peak_memory_mb"]])
for rival, column in RIVALS.items():
    gaps = comparisons.paired(against, [(m, rival) for m in rows.index if m != rival]).set_index("ours")
    table[column] = [
        f"{gaps.loc[m, 'mean']:+.3f} [{gaps.loc[m, 'low']:+.3f}, {gaps.loc[m, 'high']:+.3f}]" if m in gaps.index else ""
        for m in table.index
    ]
table["accuracy"] = [f"{r['mean']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for _, r in rows.iterrows()]
shown = table[["trained_parameters", "peak_memory_mb", "cpu_seconds", "accuracy", *RIVALS.values()]]
record("sweep", rows["mean"].round(4).to_dict(), tolerance=1e-3)
shown.style.format({"trained_parameters": "{:,.0f}", "peak_memory_mb": "{:,.0f}", "cpu_seconds": "{:.1f}"}, na_rep="").set_caption(
    f"balanced accuracy, {int(rows['n'].min())} draws, 95 % t intervals; seconds on one core"
)  # fmt: skip

# %% [markdown]
# Peak memory is that of the whole process, in which all fits of a draw run one after the other; it grows a little over them whatever they
# train. Differences of a tenth mean nothing here. On a model of a few million weights, Python and the activations outweigh the
# optimizer. The table at the top of the lesson is the part that grows with the model.

# %%
roles = {m: "baseline" if m.startswith("logistic") else "twin" if m.startswith("twin") else "model" for m in rows.index}
ax = plots.intervals(rows.reset_index(), roles=roles, xlabel="balanced accuracy, 95 % interval of 5 draws",
                     title="LoRA's settings and relatives (kang_ifnb_pbmc, 10 labels per type)")  # fmt: skip
best = rows["mean"].idxmax()
plots.show(ax, alt=f"Balanced accuracy of {len(rows)} methods; the highest mean is {best} at {rows.loc[best, 'mean']:.3f}, the twin's LoRA {rows.loc['twin lora r=8', 'mean']:.3f}.")  # fmt: skip
inside = comparisons.paired(against, [("lora r=32", "lora r=1"), ("lora r=8", "lora on qv"), ("lora alpha=64", "lora r=8"),
                                      ("lora r=8", "full"), ("lora r=8", "twin lora r=8")])  # fmt: skip
for r in inside.itertuples():
    print(f"{r.ours} minus {r.rival}: {r.mean:+.3f} [{r.low:+.3f}, {r.high:+.3f}], {r.verdict}")
record("pretraining_is_worth", float(inside["mean"].iloc[-1]), tolerance=1e-3)
own = inside[(inside["ours"] == "lora r=8") & (inside["rival"] == "full")].iloc[0]
record.headline(
    "balanced accuracy of LoRA (rank 8), minus that of full fine-tuning (kang_ifnb_pbmc)",
    metrics.Interval(own["mean"], own["low"], own["high"]),
)

# %% [markdown]
# ## Adapters are small files
#
# An adapter without its base is useless, and with it, it is all you need to send. It is read by plain peft, too.

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
    scfm.adapt.load(folder / "types", model=scfm.load_model(model, weights="random", seed=seed))
except ValueError as error:
    print(f"\nOn a wrong base: {error}")

# %% [markdown]
# ## Two adapters on one base
#
# A second adapter learns another column: was the cell sequenced deeper than the median of its type? Both hang on one frozen base, and
# `set_adapter` swaps them. Adding them is possible as well: peft's `cat` stacks both pairs of thin matrices, so the updates add up exactly.

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
answers = []
for active in ("types", "depth", "sum"):
    both.set_adapter(active)
    other.network = both.get_base_model().eval()
    seen = other.embed(cells[test], **reads)
    for column, own, truth in (("types", fit, types), ("depth", second, depth)):
        score = ladder.scores(truth[test], own.predict(embeddings=seen))["balanced_accuracy"]
        answers.append((active, f"head of {column}", score))
answers = pd.DataFrame(answers, columns=["adapter", "head", "score"]).pivot(
    index="adapter", columns="head", values="score"
)
record("swapped", answers.round(4).to_dict(), tolerance=0.15)
answers.style.format("{:.3f}").set_caption("balanced accuracy on the test cells, one draw")

# %% [markdown]
# Each head was trained on the vectors of its own adapter. Under the sum it reads vectors that were moved twice, and nothing promises that it
# still understands them: compare the last row with the heads' own rows.

# %% [markdown]
# ## Bases of 4 and 8 bits, and scGPT
#
# LoRA leaves the base frozen, so the base can be stored coarsely: half a byte or one byte per weight (QLoRA). That pays for models of hundreds
# of millions of weights, and needs a GPU. And the same call works for scGPT, with one place less.

# %%
try:
    coarse = scfm.adapt(fm, cells[train], types[train], method="lora", quantize="4bit", **how)
    print(coarse.report)
except ValueError as error:
    print(error)
scgpt = scfm.load_model("scgpt-mini")
print(f"\nscgpt-mini, LoRA of rank {rank}: {adapters.lora_parameters(scgpt.network, rank):,} trained weights.")
try:
    adapters.lora_parameters(scgpt.network, rank, "qv")
except ValueError as error:
    print(error)
tried = scfm.adapt(scgpt, scgpt.tokenize(adata[train], max_len=64), types[train], method="lora", rank=rank, **(how | {"max_steps": 2}))  # fmt: skip
assert tried.report.trained_parameters - tried.report.head_parameters == adapters.lora_parameters(scgpt.network, rank)

# %% [markdown]
# ## Does LoRA beat the head, and logistic regression?
#
# The ladder's stored runs answer: 80 steps, two models, three sets, up to four budgets, five draws each. LoRA's differences, draw by draw:

# %%
climbed = pd.read_parquet(scfm.cache.repo_data() / "results" / "ladder.parquet")
pairs = [("lora", rival) for rival in ("head", "full", "logistic PCA", "logistic HVG", "twin lora")]
gaps = comparisons.paired(climbed, pairs)
tally = comparisons.verdicts(gaps, by=("model", "rival"))
for (which, rival), r in tally.iterrows():
    print(
        f"{which}, LoRA against {rival}: better {r['better']:.0f}, undecided {r['undecided']:.0f}, worse {r['worse']:.0f}"
    )
record(
    "against", {f"{a} | {b}": [int(r[c]) for c in ("better", "undecided", "worse")] for (a, b), r in tally.iterrows()}
)

# %%
mini = gaps[(gaps["model"] == "geneformer-mini") & (gaps["rival"] != "twin lora")]
panels = plots.axes(11.5, 3.6, columns=mini["dataset"].nunique(), sharey=True, sharex=True)
for ax, (name, part) in zip(panels.flat, mini.groupby("dataset", sort=False), strict=True):
    part = part.assign(budget=part["labels_per_class"].astype(str) + " labels")
    plots.intervals(part, label="budget", hue="rival", reference=0, title=name, xlabel="LoRA minus rival", ax=ax)
    if ax is not panels.flat[-1]:
        ax.get_legend().remove()
plots.show(panels, alt="Paired differences of LoRA to the head, full fine-tuning and both logistic regressions for geneformer-mini: " + "; ".join(f"{r.dataset} {r.labels_per_class} labels vs {r.rival}: {r.verdict}" for r in mini.itertuples()) + ".")  # fmt: skip

# %% [markdown]
# Read the grey line at zero before the dots. Against the twin, LoRA shows what pretraining gave. Against logistic regression it shows whether
# you needed the model, and on a tissue that the corpus does not hold (the pancreas) the answer is plain. With five draws and many
# comparisons, one decided verdict in twenty is expected by chance.

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
# **Quiz.** LoRA trains few weights. Why is it hardly faster than full fine-tuning here?
# - [ ] peft is slow -> The thin products cost a little, and are not the main part.
# - [x] every step still runs the whole network forward and backward -> Yes: what is saved is gradients and Adam's memory of the frozen weights.
# - [ ] Adam takes most of the time -> Look at the head: without the network's backward pass it takes no time.

# %% [markdown]
# ## Key points
# - LoRA adds (α/r) BA to a frozen matrix and starts as nothing; it trains r · (inputs + outputs) numbers per matrix.
# - What it saves is the gradient and Adam's memory of the frozen weights, and disk; the network still runs.
# - Whether a change is low-rank can be measured; whether the rest matters, too.
# - Merged and unmerged give the same answers. The base stays what it was, and a wrong base is refused.
# - Adapters swap freely. Adding two adds their updates, and promises nothing to their heads.
# - Judge LoRA beside the head, full fine-tuning, its random twin and logistic regression, draw by draw.
#
# ## Further reading
# - Hu et al. 2021, LoRA: https://doi.org/10.48550/arXiv.2106.09685
# - Dettmers et al. 2023, QLoRA: https://doi.org/10.48550/arXiv.2305.14314
# - Liu et al. 2022, IA3: https://doi.org/10.48550/arXiv.2205.05638
# - Liu et al. 2024, DoRA: https://doi.org/10.48550/arXiv.2402.09353
# - Kopiczko et al. 2023, VeRA: https://doi.org/10.48550/arXiv.2310.11454
