# %% [markdown]
# # @NN@ · @TITLE@?
#
# | You will be able to | Time | Needs |
# |---|---|---|
# | replace this line by what a reader can do after the lesson; measure a simple method with its interval and its control | 20 min (quick: under 1 min of computing) | lesson 01 |

# %% tags=["parameters"]
profile = "quick"  # quick | cpu | gpu: the same code, other sizes
dataset: str | None = None  # None = the profile's own; a name, or a path to your file
label: str | None = None  # None = the dataset's own; the column of obs that holds the cell types
n_draws = 10  # draws of training cells; the interval is over these
seed = 0

# %%
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import scfm
from coursekit import check, record
from scfm import baselines, metrics, plots, stats

DATASET = {"quick": "pbmc68k", "cpu": "pbmc_zheng_facs", "gpu": "pbmc_zheng_facs"}[profile]
adata = scfm.load_dataset(dataset or DATASET, label=label, seed=seed)
kept, _ = metrics.usable_cells(adata.obs["cell_type"])
adata = adata[kept].copy()
types = adata.obs["cell_type"].astype(str).to_numpy()
print(f"{adata.uns['scfm']['name']}: {adata.n_obs:,} cells of {len(set(types))} types.")

# %% [markdown]
# ## The idea
#
# Say in three sentences what is asked and why the answer is not obvious. This template asks: can the depth of a cell alone tell
# its type, or does it take the genes? Replace it by your question, and keep its form: the method, a simple rival and a control
# whose labels were shuffled, on the same draws.

# %%
depth = np.log1p(adata.obs["n_counts"].to_numpy(float))[:, None]  # (cell, 1)
features = {"depth alone": depth, "PCA": baselines.pca(adata, seed=seed)}


def accuracy(x, y, draw):
    """Accuracy on held-out cells of a classifier that saw half of them."""
    train, test = train_test_split(np.arange(len(y)), test_size=0.5, stratify=y, random_state=draw)
    return LogisticRegression(max_iter=500).fit(x[train], y[train]).score(x[test], y[test])


rows = []
for draw in range(seed, seed + n_draws):
    shuffled = np.random.default_rng(draw).permutation(types)
    rows += [(name, draw, accuracy(x, types, draw)) for name, x in features.items()]
    rows.append(("shuffled labels", draw, accuracy(features["PCA"], shuffled, draw)))
scores = pd.DataFrame(rows, columns=["method", "seed", "value"]).assign(metric="accuracy")

# %%
table = stats.summary(scores, by=("method", "metric"))
gap = stats.paired_difference(scores, "depth alone", "PCA", "accuracy")
print(f"Depth alone, minus PCA: {gap}, {gap.verdict()}.")
record("accuracy", table.set_index("method")["mean"].to_dict(), tolerance=0.05)
record.headline("accuracy of telling the type by depth alone, minus by PCA", gap)

# %% tags=["figure"]
ax = plots.intervals(table, label="method", title="Which says the type?", xlabel="accuracy on held-out cells")
said = "; ".join(f"{r.method} {r.mean:.2f}" for r in table.itertuples())
plots.show(ax, alt=f"Accuracy on held-out cells with its interval: {said}.")

# %% [markdown]
# ### Exercise @NN@.1
# What would a classifier reach that always says the most frequent type? Write it as a function of the labels.


# %% tags=["exercise"]
def majority(labels):
    """The accuracy of always saying the most frequent label."""
    return None  # your lines instead


check.exercise("@NN@.1", majority)


# %% tags=["solution"]
def majority(labels):
    return pd.Series(labels).value_counts(normalize=True).iloc[0]


check.exercise("@NN@.1", majority)

# %% [markdown] tags=["instructor"]
# **Purpose:** what the lesson is for. **Ask:** a question to the room. **People get wrong:** one misconception. **Skip** what can be skipped.

# %% [markdown] tags=["quiz"]
# **Quiz.** Why are the labels shuffled in one of the rows?
# - [ ] to make the task harder -> It has no answer at all then.
# - [x] to see what accuracy means nothing -> Right: a pipeline that beats this control by chance leaks.

# %% [markdown]
# ## Key points
# - One sentence per finding, without a number that no cell computed.
#
# ## Further reading
# - Luecken and Theis 2019, best practices in single-cell analysis, https://doi.org/10.15252/msb.20188746
