# %% [markdown]
# # 01 · What is a foundation model?
#
# You have a few thousand cells, and labels for some of them. Somebody else has a hundred million cells and no labels
# at all. A foundation model is a way to carry what can be learned from *their* cells over to *yours*. Whether
# anything useful arrives is a question that can be measured, and by the end of this lesson you will have measured it
# once, on a network small enough for a laptop.
#
# | You will be able to | Time | Needs |
# |---|---|---|
# | say what pretraining, transfer and fine-tuning are, and what each one trains and costs; find the foundation model and the classical method of a field; hide genes from a model, score its guesses, and put honest baselines beside them | 40 min (quick: 1 min of computing) | some Python; what a cell and a gene are |

# %% tags=["parameters"]
profile = "quick"  # quick | cpu | gpu: the same code, other sizes
dataset: str | None = None  # None = the profile's own; pbmc68k, pbmc_zheng_facs, ... or a path to your file
label: str | None = None  # None = the dataset's own; the column of obs that holds the cell types
model = "geneformer-mini"  # geneformer-mini, geneformer-v1-10m, ... or a folder
n_draws = 20  # draws of cells and of hidden genes; the intervals are over these
hidden_share = 0.15  # share of the genes of a cell that is hidden
seed = 0

# %%
import time

import numpy as np
import pandas as pd
import torch

import scfm
from coursekit import check, record
from scfm import drawings, plots, stats
from studies import gene_guessers, sets

SIZES = {
    "quick": {"dataset": "pbmc68k", "cells_per_draw": 12},
    "cpu": {"dataset": "pbmc_zheng_facs", "cells_per_draw": 60},
    "gpu": {"dataset": "pbmc_zheng_facs", "cells_per_draw": 150},
}[profile]
pd.set_option("display.max_colwidth", None)

# %% [markdown]
# ## The idea in one picture

# %% tags=["figure"]
ax = drawings.boxes(
    {
        "data": (1.0, 1.7, "many cells,\nno labels", "control"),
        "task": (3.0, 1.7, "hide some genes,\nguess them", "model"),
        "network": (5.0, 1.7, "a network that\nhas read many cells", "model"),
        "types": (7.7, 2.85, "cell types from few labels", "baseline"),
        "embed": (7.7, 2.1, "a map of the cells", "baseline"),
        "perturb": (7.7, 1.35, "what if this gene were off?", "baseline"),
        "genes": (7.7, 0.6, "which genes act together?", "baseline"),
    },
    [
        ("data", "task"),
        ("task", "network"),
        ("network", "types"),
        ("network", "embed"),
        ("network", "perturb"),
        ("network", "genes"),
    ],
    width=9.2,
    height=3.4,
    title="Pretrain once, reuse often",
)
plots.show(
    ax,
    alt="A drawing: many cells without labels feed a guessing task, which trains one network; from it four arrows "
    "lead to "
    "four uses: cell types, a map of the cells, perturbations, gene networks.",
)

# %% [markdown]
# Three words hide in this picture.
#
# - **Self-made task.** Labels are scarce, but every cell can pose its own question: hide a gene, ask for it back. The
#   answer was in the data all along, so a hundred million cells give billions of questions with no human in the loop.
#   This is *self-supervised* learning.
# - **Pretraining** is the long training on that task. Nobody wants the guesses. What we want is the network that has
#   become good at guessing, in the hope that it had to understand something about cells on the way.
# - **Foundation**: one network, meant for many uses. (Not every row of the table below has found its second one.)
#
# The hope is the weak point. A network can become good at guessing for dull reasons. We shall catch three of them.
#
# ## The same idea in other fields
#
# Only the token and the question change. The table has a row per model, with the paper's DOI and, just as important,
# what people used before and still should try first.

# %%
fields = scfm.models.overview.of_all_fields()
print(f"{len(fields)} models of {fields['field'].nunique()} fields. The columns: {', '.join(fields.columns)}.")

# %% tags=["figure"]
LEFT = {"text-align": "left", "vertical-align": "top"}
LEFT_TOO = [{"selector": "th", "props": "text-align: left; vertical-align: top"}]


def link(url):
    return f'<a href="{url}">{url.removeprefix("https://doi.org/")}</a>' if url.startswith("http") else url


shown = fields.assign(doi="https://doi.org/" + fields["doi"]).drop(columns=["domain", "task"])
shown.set_index(["field", "foundation_model"]).style.format({"doi": link}).set_properties(**LEFT).set_table_styles(
    LEFT_TOO
)

# %% [markdown]
# Read it the other way round: you have a kind of data and a kind of problem. Which models are there?

# %% tags=["figure"]
by_problem = fields.assign(problem=fields["problems"].str.split("; ")).explode("problem")
by_problem.pivot_table(
    index="field", columns="problem", values="foundation_model", aggfunc=", ".join, fill_value="", sort=False
).rename(
    columns={
        "sort": "which kind is it?",
        "search": "what is alike?",
        "make": "make new ones",
        "outline": "where are its edges?",
        "transcribe": "write it down",
        "forecast": "what comes next?",
        "structure": "what shape does it have?",
        "what if": "what if we change it?",
    }
).style.set_properties(**LEFT).set_table_styles(LEFT_TOO)

# %% [markdown]
# ### Exercise 01.1
# Explore `fields`. Which models of **biology** (`domain`) learn by guessing what was hidden (`task` is `"masked"`)?
# Return their names as a list, oldest first. (Two of the same year: by name.)


# %% tags=["exercise"]
def hidden_guessers(fields): ...  # your lines


check.exercise("01.1", hidden_guessers, fields=fields)


# %% tags=["solution"]
def hidden_guessers(fields):
    chosen = fields[(fields["domain"] == "biology") & (fields["task"] == "masked")]
    return chosen.sort_values(["year", "foundation_model"])["foundation_model"].tolist()


check.exercise("01.1", hidden_guessers, fields=fields)

# %% [markdown] tags=["quiz"]
# **Quiz.** In nearly every row of the table, what does the self-made task spare you?
# - [ ] the training -> On the contrary: pretraining is where nearly all the computing goes.
# - [x] the labels -> Yes. The data itself holds the answers, so all of it can be used. (CLIP needs captions, but people had written those anyway.)
# - [ ] the test -> No task, self-made or not, replaces a test on data the model never saw.

# %% [markdown]
# ## The parts of such a network
#
# Seven words come back in every lesson.
#
# | word | here |
# |---|---|
# | **token** | the smallest thing that is read: a gene, in scGPT a gene with its value |
# | **embedding** | a list of numbers that stands for something. The network learns one per gene; what it makes of a whole cell is called that, too |
# | **layer** | a step that gives each token a new list of numbers, made from its own and from those of the others |
# | **attention** | the part of a layer that looks at the others. Each token asks with a *query*, each answers with a *key*; where they fit, it takes a part of the other's *value*. Three matrices make queries, keys and values from the lists |
# | **head** | a small last part that turns the lists into an answer: which gene was hidden, which type is the cell |
# | **logits** | the head's raw scores, one per possible answer; **softmax** turns them into probabilities (the exponential of each, divided by their sum) |
# | **random twin** | the same network with random numbers in it, never trained. What it can do needs no training |
#
# ## Four models of cells
#
# This course follows Geneformer, scGPT, GREmLN and OmniPert, and a small Geneformer of our own. What they read, what
# they guess and whether you can have them is said in the table. How *large* they are we do not copy from anywhere: an
# architecture is a handful of numbers, and from these the parameters can be counted without downloading a single
# weight.

# %%
from transformers import BertConfig, BertForMaskedLM


def empty_geneformer(name):
    """A network with all its shapes and no numbers in it: on torch's `meta` device it takes no memory."""
    with torch.device("meta"):
        return BertForMaskedLM(BertConfig(pad_token_id=0, type_vocab_size=2, **scfm.models.overview.architecture(name)))


def count_scgpt(vocabulary=60_697, d=512, layers=12):
    """scGPT's parts, one by one: its configuration file gives the three numbers."""
    linear, norm = d * d + d, 2 * d
    genes = vocabulary * d + norm  # an embedding per gene, LayerNorm
    values = (d + d) + linear + norm  # from one number to d, twice, LayerNorm
    layer = 4 * linear + 2 * linear + 2 * norm  # query, key, value, output; feed-forward; two LayerNorms
    decoder = 2 * linear + (d + 1)  # from d to one expression value
    return genes + values + layers * layer + decoder


def count_gremln(genes=19_247, bins=100, d=512, layers=3):
    """GREmLN without its output head, which the sources do not spell out."""
    linear, norm = d * d + d, 2 * d
    return (genes + bins) * (d // 2) + layers * (6 * linear + 2 * norm)


# %%
GENEFORMERS = ["geneformer-mini", "geneformer-v1-10m", "geneformer-v2-104m", "geneformer-v2-316m"]
parameters = {name: empty_geneformer(name).num_parameters() for name in GENEFORMERS}
parameters |= {"scgpt-human": count_scgpt(), "GREmLN": count_gremln()}
assert abs(4 * parameters["scgpt-human"] / 203_233_980 - 1) < 1e-3  # bytes of the published file: 4 per parameter
record("million_parameters", {name: round(count / 1e6, 2) for name, count in parameters.items()}, tolerance=0.02)
print("GREmLN is counted without its output head, which the sources do not spell out.")

# %% tags=["figure"]
overview = scfm.models.overview.of_cells().set_index("model")
millions = [f"{parameters[m] / 1e6:.1f}" if m in parameters else "?" for m in overview.index]
overview.insert(3, "parameters (millions)", millions)
runs = {
    "geneformer-mini": "yes, in this lesson",
    "geneformer-v1-10m": "yes: a laptop's CPU, after a download",
    "geneformer-v2-104m": "on a CPU slowly; better a GPU",
    "geneformer-v2-316m": "a GPU",
    "scgpt-human": "architecture and objectives; weights after a download by hand",
    "GREmLN": "its attention, rebuilt from the paper; the released code needs a GPU",
    "OmniPert": "no: its claims can only be read",
}
overview["can be run here"] = overview.index.map(runs)
overview.style.format({"source": link}).set_properties(**LEFT).set_table_styles(LEFT_TOO)

# %%
mini = parameters["geneformer-mini"]
print(f"Our mini has {mini / 1e6:.1f} million parameters;", end=" ")
print(f"the largest Geneformer has {parameters['geneformer-v2-316m'] / mini:.0f} times as many.")
empty = empty_geneformer("geneformer-mini")
words = empty.bert.embeddings.word_embeddings.weight.numel() / empty.num_parameters()
print(f"{words:.0%} of the mini's parameters are its gene embeddings, one vector per gene.", end=" ")
print("Its layers, the places and the output head share the rest.")

# %% [markdown] tags=["instructor"]
# **Ask before running:** which share of the mini's parameters sits in its layers? Most guess "nearly all". **Common
# misconception:** "OmniPert and GREmLN are missing because the course is old." They are missing because weights
# cannot be fetched, which is itself a finding about the field. **Skip** "The same idea in other fields" if you are
# late, and the counting functions; keep the table.

# %% [markdown]
# ## Pretraining, transfer, fine-tuning: who learns, who is frozen?
#
# After pretraining you have a network and a task. What do you train?

# %% tags=["figure"]
depth = scfm.models.overview.architecture("geneformer-mini")["num_hidden_layers"]
layers = [f"layer {i + 1}" for i in range(depth)]


def stack(embedding, lower, last, head):
    return [("genes", embedding), *[(name, lower) for name in layers[:-1]], (layers[-1], last), head]


ax = drawings.stacks(
    {
        "pretraining": stack("trained", "trained", "trained", ("guess the gene", "trained")),
        "zero-shot": stack("frozen", "frozen", "frozen", ("embedding", "frozen")),
        "head only": stack("frozen", "frozen", "frozen", ("cell type", "added")),
        "LoRA": stack("frozen", "frozen+added", "frozen+added", ("cell type", "added")),
        "last layer": stack("frozen", "frozen", "trained", ("cell type", "added")),
        "full": stack("trained", "trained", "trained", ("cell type", "added")),
    }
)
plots.show(
    ax,
    alt="Six stacks of blocks, one per way of using a network. Pretraining trains all blocks; zero-shot none; a "
    "head trains "
    "one new block on top; LoRA adds small parts to frozen layers; last layer trains the top layer; full "
    "fine-tuning trains "
    "everything again.",
)

# %% [markdown]
# **Transfer learning** is the whole idea: knowledge from one task used in another. **Fine-tuning** means that what
# the network computes changes on the way: its weights are trained, or, in LoRA, small matrices are added beside
# frozen ones. With *zero-shot* and *head only* the network stays as it is.
#
# | | what is trained | use it when |
# |---|---|---|
# | **zero-shot** | nothing | there are no labels: a map of the cells, neighbours, a first look |
# | **head only** | one linear layer on the embedding | there are labels and little time; also the fairest test of what the network already knows |
# | **LoRA** | two thin matrices beside frozen ones, and a head | the embedding itself must change, and each of many tasks should be a small file |
# | **last layer** | the top layer(s) and a head | the embedding must change, at about half the time of *full* |
# | **full** | everything | the embedding must change, and memory does not matter; watch the validation loss, it can forget what it knew |
#
# The table says what each way *is for*, not which one wins. That depends on labels, tissue and network, and it is
# measured: for our minis in lessons 05 and 06, whose chart names the cheapest method that nothing beats (on most sets a
# logistic regression without any network). For the published networks, their authors report gains from fine-tuning
# ([Theodoris et al. 2023](https://doi.org/10.1038/s41586-023-06139-9),
# [Cui et al. 2024](https://doi.org/10.1038/s41592-024-02201-0)), and independent tests without fine-tuning find simple
# baselines level or ahead ([Kedzierska et al. 2025](https://doi.org/10.1186/s13059-025-03574-x)).
#
# LoRA deserves a second look. A linear layer has a matrix W of size d_out × d_in. Instead of changing W, add to its
# output the output of B·A, where A maps to only r numbers and B maps back. B starts at zero, so at the first step
# nothing has changed. (We leave out the constant alpha / r by which the paper multiplies the added output.)


# %%
class LoRA(torch.nn.Module):
    def __init__(self, linear, rank=8):
        super().__init__()
        self.linear = linear.requires_grad_(False)  # W stays as it is
        self.down = torch.nn.Linear(linear.in_features, rank, bias=False)  # A
        self.up = torch.nn.Linear(rank, linear.out_features, bias=False)  # B
        torch.nn.init.zeros_(self.up.weight)

    def forward(self, x):  # (..., d_in)
        return self.linear(x) + self.up(self.down(x))  # (..., d_out)


# %% [markdown]
# ### Exercise 01.2
# How many parameters does LoRA train for a linear layer from `d_in` to `d_out` numbers at rank `rank` (without
# biases)? And at which rank would it be no saving at all? Write the function for the first; play with it for the
# second.


# %% tags=["exercise"]
def lora_parameters(d_in, d_out, rank): ...  # your line


check.exercise("01.2", lora_parameters)


# %% tags=["solution"]
def lora_parameters(d_in, d_out, rank):
    # A is rank x d_in, B is d_out x rank; no saving left from rank = d_in * d_out / (d_in + d_out)
    return rank * (d_in + d_out)


check.exercise("01.2", lora_parameters)

# %% [markdown]
# Now count, for networks of every size, what each way trains for a task with ten cell types. (LoRA is added to the
# query and value matrices only, as the paper does.) Memory is more than the weights: whatever is trained also needs
# its gradient and the two running means of the Adam optimizer, four bytes each. (The activations come on top; they
# grow with the minibatch.)

# %%
WAYS = ["head only", "LoRA", "last layer", "full"]
N_TYPES = 10


def prepare(network, way, n_types=N_TYPES):
    """Freeze what is frozen, add what is added. Returns the encoder and the new head."""
    bert = network.bert.requires_grad_(way == "full")
    if way == "last layer":
        bert.encoder.layer[-1].requires_grad_(True)
    if way == "LoRA":
        for layer in bert.encoder.layer:
            attention = layer.attention.self
            attention.query, attention.value = LoRA(attention.query), LoRA(attention.value)
    return bert, torch.nn.Linear(network.config.hidden_size, n_types)


# %%
rows = []
for name in GENEFORMERS:
    for way in WAYS:
        with torch.device("meta"):
            bert, head = prepare(empty_geneformer(name), way)
        everything = [p for module in (bert, head) for p in module.parameters()]
        trained = sum(p.numel() for p in everything if p.requires_grad)
        total = sum(p.numel() for p in everything)
        rows.append((name, way, trained, trained / total, (4 * total + 12 * trained) / 1e6))
costs = pd.DataFrame(rows, columns=["model", "way", "trained parameters", "share", "MB for weights, gradients, Adam"])
record(
    "trained_parameters_mini",
    costs[costs["model"] == "geneformer-mini"].set_index("way")["trained parameters"].to_dict(),
)

# %% tags=["figure"]
costs["text"] = [
    f"{n:,}<br>{100 * share:.3g} %, {mb:,.0f} MB" for n, share, mb in costs.iloc[:, 2:].itertuples(index=False)
]
costs.pivot(index="model", columns="way", values="text").loc[GENEFORMERS, WAYS].style.set_caption(
    "trained parameters; their share of all, memory for weights, gradients and Adam"
)

# %% [markdown]
# Fewer trained parameters: less memory, smaller files, less to overfit. Also less *time*? Here is one training step
# of the mini on 16 cells, each way. Before you run it, guess the order.

# %%
ids = torch.randint(4, empty.config.vocab_size, (16, 256))  # (cell, token): for the clock any genes will do


def step(bert, head, ids):
    vector = bert(input_ids=ids).last_hidden_state.mean(dim=1)  # (cell, d)
    torch.nn.functional.cross_entropy(head(vector), torch.arange(len(ids)) % N_TYPES).backward()


parts = {way: prepare(scfm.load_model("geneformer-mini", weights="random").network, way) for way in WAYS}
times = {way: [] for way in WAYS}
for _ in range(8):  # in turn, so that a slow moment of the machine hits all of them
    for way in WAYS:
        start = time.perf_counter()
        step(*parts[way], ids)
        times[way].append(time.perf_counter() - start)
seconds = {way: np.median(own[1:]) for way, own in times.items()}  # the first warms up
relative = {way: t / seconds["full"] for way, t in seconds.items()}
record("step_relative_to_full", relative, tolerance="any")

# %% tags=["figure"]
ax = plots.bars(relative, xlabel="time of a training step (full fine-tuning = 1)")
said = ", ".join(f"{way} {t:.2f}" for way, t in relative.items())
plots.show(ax, alt=f"Bars: time of one training step relative to full fine-tuning. {said}.")

# %%
share = costs.set_index(["model", "way"]).loc[("geneformer-mini", "LoRA"), "share"]
print(f"LoRA trains {share:.1%} of the parameters", end=" ")
print(f"and takes {relative['LoRA']:.0%} of the time of full fine-tuning.")
print(
    "Frozen or not, the gradient has to travel through every layer that lies above something trained. A head alone "
    "never sends it down;"
    " and since its input never changes, you can compute the embeddings once and keep them."
)

# %% [markdown] tags=["quiz"]
# **Quiz.** You have 40 labelled cells, a laptop and an afternoon. What do you try first?
# - [x] a head on frozen embeddings, beside a logistic regression on PCA -> Yes: minutes, little to overfit, and you learn whether the model brings anything.
# - [ ] full fine-tuning, since it can only be better -> With 40 cells it can memorize them all. More freedom is better only with more data.
# - [ ] pretraining your own model on the 40 cells -> Pretraining lives on many cells; that is what somebody else has already done.

# %% [markdown]
# ## A first look: one cell in
#
# So much for theory; now let us use one. A Geneformer reads a cell as a sentence of gene names, in order of how much
# each gene exceeds its own usual level. How that order comes about is lesson 02; today we just read. The coloured
# genes are well-known markers; some, such as CD74 and the HLA-DQ genes, are shared by several kinds of cell. We
# picked the cells with the most markers.

# %%
adata = scfm.load_dataset(dataset or SIZES["dataset"], label=label, seed=seed)
sets.suitable(adata, types=0, cells=3 * n_draws)
on = "auto" if profile == "gpu" else "cpu"
fm = scfm.load_model(model, device=on)
sets.of_kind(fm, "geneformer")
cells = fm.tokenize(adata)
print(f"{fm} reads {len(cells):,} cells of {adata.uns['scfm']['name']},", end=" ")
print(f"{np.median(cells.lengths):.0f} tokens in a typical one.")
print(cells.report["overlap"])

# %%
MARKERS = {
    "B cell": ["MS4A1", "CD79A", "CD79B", "CD19", "HLA-DQA1", "HLA-DQB1", "CD74", "CD37", "TCL1A"],
    "monocyte": ["LYZ", "S100A8", "S100A9", "CST3", "FCN1", "CD14", "LST1", "AIF1", "FCER1G"],
    "NK / cytotoxic T": ["NKG7", "GNLY", "GZMB", "PRF1", "CST7", "CCL5", "GZMA", "KLRD1", "CTSW"],
}
kind_of = {gene: kind for kind, genes in MARKERS.items() for gene in genes}
special = set(fm.special.values())


def words_of(sentence):
    return [fm.vocabulary.symbol(token) for token in sentence]


def chosen_cells(front):
    """For each kind the cell with the most markers of it, and the fewest of the others, among its first genes."""
    firsts = [[kind_of.get(w) for w in words_of(cells[i][:front])] for i in range(len(cells))]
    for kind in MARKERS:
        lead = {i: 2 * own.count(kind) + own.count(None) - len(own) for i, own in enumerate(firsts) if kind in own}
        if lead:  # a file may lack some kinds
            yield kind, max(lead, key=lead.get)


examples = dict(chosen_cells(30)) or dict(chosen_cells(fm.vocabulary.max_len))
if not examples:
    longest = int(np.argmax(cells.lengths))
    kind_of, examples = dict.fromkeys(words_of(cells[longest][1:10]), "first genes"), {"first genes": longest}
    print("No cell here has one of these markers: the first genes of one cell stand in for them.")
a_kind, one = next(iter(examples.items()))
sentence = cells[one]
words = [w for token, w in zip(sentence, words_of(sentence)) if token not in special]

# %% tags=["figure"]
whose = adata.obs["cell_type"].iloc[one]
coloured = ", ".join(w for w in words[:40] if w in kind_of)
title = f"Cell {one}, labelled {whose}: its first 40 of {len(words)} genes"
plots.show(
    drawings.sentence(words[:40], kind_of, title=title),
    alt=f"The first forty genes of one {whose} cell as a strip of words; coloured are its markers: {coloured}.",
)

# %% [markdown]
# ## Masked genes out
#
# Now cover some of the coloured words with `<mask>` and ask the network. By hand it is three steps: write `<mask>`
# into the sentence; run the network; turn its scores over the whole vocabulary into probabilities, at the masked
# places only.

# %%
at = [p for p, word in enumerate(words_of(sentence)) if kind_of.get(word) == a_kind][:4]  # places of four markers
question = torch.tensor(sentence.tolist())
question[at] = fm.special["<mask>"]
with torch.inference_mode():
    scores = fm.network(input_ids=question[None].to(fm.network.device)).logits[0, at].cpu()  # (masked, vocabulary)
by_hand = scores.softmax(dim=1)

guessed, probabilities = fm.predict_masked(sentence, at, top=5)  # the library's twin
assert np.allclose(by_hand.topk(5).values.numpy(), probabilities, atol=1e-5)
print(f"{len(at)} genes hidden, {by_hand.shape[1]:,} tokens to choose from.")

# %%
rows, panels = [], {}
for kind, i in examples.items():
    sentence = cells[i]
    at = [p for p, word in enumerate(words_of(sentence)) if kind_of.get(word) == kind][:4]
    guessed, probabilities = fm.predict_masked(sentence, at, top=len(fm.vocabulary))
    visible = set(sentence.tolist()) - set(sentence[at].tolist())
    for number, (place, ids_, p) in enumerate(zip(at, guessed, probabilities)):
        truth = words_of(sentence[[place]])[0]
        rank = int(np.flatnonzero(ids_ == sentence[place])[0])
        said = ", ".join(words_of(visible & set(ids_[:5].tolist()))) or "none"
        in_line = place + (not fm.vocabulary.starts_with_cls)
        rows.append((kind, truth, in_line, rank + 1, p[rank], ", ".join(words_of(ids_[:5])), said))
        if number < 2:  # to draw
            panels[f"{kind}: ▢ = {truth}"] = (words_of(ids_[:6]), p[:6].tolist(), truth)
columns = ["cell", "hidden gene", "place", "rank of the right answer", "its probability", "first five guesses",
           "of these, already in the sentence"]  # fmt: skip
table = pd.DataFrame(rows, columns=columns)
table.style.format({"its probability": "{:.2%}"}).hide().set_properties(**LEFT).set_table_styles(LEFT_TOO)

# %% tags=["figure"]
ranks = "; ".join(f"{r[1]}: right answer at rank {r[3]:,}" for r in rows)
plots.show(
    drawings.guesses(panels, columns=2),
    alt="Bars: for two hidden marker genes of each of three cells, the six likeliest guesses of the model with their "
    f"probabilities; right guesses are green. {ranks}.",
)

# %%
right = sum(r[3] == 1 for r in rows)
close = sum(r[3] <= 10 for r in rows)
repeated = sum(r[6] != "none" for r in rows)
was = "was" if right == 1 else "were"
print(f"Of {len(rows)} hidden markers, {right} {was} the first guess and {close} among the first ten.")
if repeated:
    print(f"In {repeated} of {len(rows)} cases the model offers genes that already stand in the sentence,", end=" ")
    print("where no gene stands twice.")
else:
    print("It never offers a gene that already stands in the sentence.")

# %% [markdown] tags=["instructor"]
# **Ask before running the table:** hide *CD79A* of a B cell: which gene would *you* guess? Let somebody who knows
# blood compete with the model. **Watch for** "it got the marker right, so it knows biology". Three hand-picked cells
# are an illustration; the next section is the measurement.

# %% [markdown]
# ## From a nice example to a measurement
#
# Three picked cells prove nothing. So hide genes at random in many cells and score all guesses. Three scores, all at
# the hidden places only:
#
# - **top 1**: how often the first guess is right; **top 10**: how often the right gene is among the first ten;
# - **loss**: minus the logarithm of the probability that the right gene was given, on average. It is what pretraining
#   minimizes, and the only one that notices *how sure* the model was. With the natural logarithm its unit is the
#   **nat**: 0 nats is certainty, and one nat less means to hesitate between 2.7 times fewer genes.


# %%
def score(log_p, truth):
    """log_p (masked, vocabulary) → mean loss in nats, top 1, top 10."""
    of_truth = log_p[torch.arange(len(truth)), truth]
    better = (log_p > of_truth[:, None]).sum(dim=1)  # how many tokens the guesser found likelier
    return {
        "loss": -of_truth.mean().item(),
        "top 1": (better < 1).float().mean().item(),
        "top 10": (better < 10).float().mean().item(),
    }


def log_probabilities(network, part, hidden):
    """What a network says at the hidden places: (masked, vocabulary)."""
    padded = (torch.from_numpy(np.asarray(a)).long() for a in part.padded(np.arange(len(part))))
    ids, present = (a.to(network.device) for a in padded)  # (cell, token)
    covered = torch.zeros_like(ids, dtype=torch.bool)
    covered[present.bool()] = torch.from_numpy(hidden).to(network.device)  # the real tokens, row by row
    question = ids.masked_fill(covered, fm.special["<mask>"])
    with torch.inference_mode():
        x = network.bert(question, attention_mask=present).last_hidden_state  # (cell, token, d)
        return network.cls(x[covered]).log_softmax(dim=1).cpu()


# %%
some = cells[np.arange(12)]
hidden = scfm.objectives.choose_masked(some, fm.special, hidden_share, seed)  # (token,) True where a gene is hidden
mine = score(log_probabilities(fm.network, some, hidden), torch.from_numpy(some.tokens[hidden]).long())
library = fm.masked_loss(some, hidden_share, seed)
assert abs(mine["loss"] - library.loss) < 1e-3
assert abs(mine["top 10"] - library.top10) < 0.01
print(f"12 cells, {library.n_masked} hidden genes. Loss by hand {mine['loss']:.3f}, by the library {library.loss:.3f}.")

# %% [markdown]
# ### Exercise 01.3
# A loss in nats is hard to feel. Somebody who hesitates between n equally likely genes has a loss of log n. Turn it
# around: write `choices(loss)`, the number of equally likely genes that a loss corresponds to. (It is called
# *perplexity*.)


# %% tags=["exercise"]
def choices(loss): ...  # your line


check.exercise("01.3", choices)


# %% tags=["solution"]
def choices(loss):
    return np.exp(loss)


check.exercise("01.3", choices)

# %% [markdown]
# ## Against whom?
#
# A score alone says nothing. The model has to beat simpler guessers:
#
# - **gene frequency**: always the same answer, the genes that were most common in the corpus. It never looks at the
#   cell.
# - **random twin**: the same network, never trained. What it can do needs no pretraining.
# - **warm start** (our mini only): its state before the first training step, when it had gene frequencies and a
#   simple statistic of which genes occur together. Its layers are still random and blur what the embeddings know, so
#   it may even lose to the bare frequencies.
#
# Now the dull reasons for good guesses that we promised. **No gene stands twice** in such a sentence: whoever just
# crosses out the genes that can be seen, improves. And the file may hold only a **panel** of genes: the rest can
# never be right. Neither is biology. So we *tell* these rules to everybody, by setting the impossible genes to zero,
# and see what is left.
#
# The third dull reason is the *place of the gap*. A sentence is sorted by value. The **value** of a gene is its count,
# divided by the gene's **median**: its usual count in the corpus, the same number for every cell (lesson 02 takes this
# apart). Most genes of a cell were counted just once. The value of such a gene is known without the cell: one divided
# by its median. Call the logarithm of that number the gene's **key**. So the visible genes around a gap say which keys
# fit into it, and all keys stand in the vocabulary. Two contestants know nothing else:
#
# - **place in line**: the hidden gene lies above every gene to its right. The largest key there is its *floor*. This
#   guesser knows how frequent each gene is and, from your other cells, how far above their floor genes usually lie.
# - **place, both sides**: the same with two repairs. There is a *ceiling* as well: a visible gene whose key is larger
#   than all keys to its right was almost surely counted once, so its value *is* its key, and nothing behind it lies
#   higher. And a distance from floor or ceiling is evidence only as far as true genes show it more often than all
#   genes that could stand there. (This is the denominator of Bayes' rule. The first guesser leaves it out.)
#
# The others ask what your own cells know, without any corpus:
#
# - **similar cells**: no network. Find the 25 most similar cells in the rest of *your* data, by the visible genes, and
#   guess the genes they have. This guesser did not have to travel from one study to another. That is a real
#   advantage, and one that you have in practice too.
# - **similar cells + place**, and **similar cells + both sides**: the guesses joined, each with the same trust.
# - **the same, tuned**: how much to trust similar cells, floor, ceiling and frequency is chosen on cells that no draw
#   tests. It has four numbers to learn; the network has millions.
#
# And a control for the model itself: the same cells with their **words shuffled**. Which genes there are is
# unchanged; only the order is gone. (It was never trained on such sentences, so it may stumble over their strangeness
# as well as over what is missing.)


# %%
def similar_cells(visible, others, k=25):
    """Guess from the k most similar cells: visible (cell, token), others (other cell, token) → (cell, token)."""
    share = others.mean(axis=0) + 1 / len(others)
    # a rare gene in common says more than a common one
    weight = -np.log(np.minimum(share, 1)) * (others.sum(axis=0) > 0)
    norm = np.sqrt((others * weight**2).sum(axis=1)) + 1e-9
    alike = (visible * weight) @ (others * weight).T / norm  # (cell, other cell); cosine up to the cell's own length
    nearest = np.argsort(-alike, axis=1)[:, :k]
    votes = others[nearest].mean(axis=1)  # (cell, token): share of the neighbours that have the gene
    return 0.8 * votes + 0.2 * share  # nothing gets probability zero


def floors(keys):
    """For each place of a sentence: the largest key to its right. What was counted at least once lies above it."""
    largest = np.maximum.accumulate(np.asarray(keys, float)[::-1])[::-1]  # from each place on
    return np.append(largest[1:], -np.inf)


def ceilings(keys):
    """For each place: the last key to its left that is larger than all keys to *its* right. It was counted once."""
    keys = np.asarray(keys, float)
    once = np.where(keys >= np.maximum.accumulate(keys[::-1])[::-1], keys, np.inf)
    return np.append(np.inf, np.minimum.accumulate(once)[:-1])


# %%
print("keys 5 3 4 1 2 → floors", floors([5, 3, 4, 1, 2]), "and ceilings", ceilings([5, 3, 4, 1, 2]))

N_TOKENS = len(fm.vocabulary)
present = gene_guessers.presence(cells, N_TOKENS, special)  # (cell, token): which genes stand in which sentence
by_hand = similar_cells(present[:12], present[12:])
assert np.allclose(by_hand, gene_guessers.similar_cells(present[:12], present[12:]))
place = gene_guessers.PlaceInLine(fm.vocabulary, special, cells)
genes_only = sentence[~np.isin(sentence, list(special))]
of_library = place.floors(genes_only, np.ones(len(genes_only), bool))
assert np.array_equal(floors(place.keys[genes_only])[:-1], of_library[:-1])  # the last gene has nothing to its right
keys = place.keys[genes_only]
low, high = np.append(floors(keys)[:-1], keys.min()), np.append(keys.max(), ceilings(keys)[1:])
in_band = ((keys >= low) & (keys <= high)).mean()
print(f"In the first cell {in_band:.0%} of {len(keys)} genes have their key between floor and ceiling:", end=" ")
print("they were counted once, or might have been.", end=" ")
fits = np.mean([(np.isfinite(place.keys) & (place.keys >= a) & (place.keys <= b)).sum() for a, b in zip(low, high)])
in_all = np.isfinite(place.keys).sum()
print(f"Of all {in_all:,} genes of the vocabulary {fits / in_all:.0%} do.")

# %% tags=["figure"]
ax = plots.axes(8.0, 3.0)
at = np.arange(len(keys))
ax.fill_between(at, low, high, step="mid", alpha=0.35, color=plots.ROLE["control"], label="between floor and ceiling")
ax.plot(at, keys, ".", color=plots.ROLE["baseline"], markersize=4, label="key of the gene that stands there")
ax.set_xlabel("place in the sentence")
ax.set_ylabel("key (log of the value at one count)")
ax.legend(loc="upper right")
n_keys = len(keys)
plots.show(
    ax,
    alt=f"Keys of the {n_keys} genes of one sentence by their place, and the band between floor and ceiling, which "
    f"falls from left to right. {in_band:.0%} of the keys lie in the band.",
)

# %% [markdown]
# Look at the lines of dots. Genes that were counted once lie in the narrow band. The line below them, lower by log 2, are
# genes that were counted twice; then come three counts, and so on. So the place of a gap alone rules out most genes,
# before anybody has asked what kind of cell it is. `studies.gene_guessers` joins these pieces and plays all guessers on the same hidden
# genes.

# %%
networks = {"pretrained": fm.network, "random twin": scfm.load_model(model, on, "random", seed).network}
if model == "geneformer-mini":
    networks["warm start"] = scfm.load_model(model, on, "start", seed).network
on_panel = np.zeros(N_TOKENS, dtype=bool)
known = fm.vocabulary.columns(adata.var["ensembl_id"])[0]  # token of each gene of the file, -1 = none
on_panel[known[known >= 0]] = True
size = max(1, min(SIZES["cells_per_draw"], 2 * len(cells) // (3 * n_draws)))  # a third of the cells is never tested
results, clock = gene_guessers.contest(fm, networks, cells, on_panel, n_draws, size, hidden_share, seed)
RULES = gene_guessers.RULES  # what everybody is told
if not fm.vocabulary.frequencies:
    print("This vocabulary does not tell its corpus' gene frequencies:", end=" ")
    print("they were counted in the other cells of this set.")
print(f"{n_draws} draws of {size} cells, {results.attrs['hidden']:,} hidden genes in the last of them;", end=" ")
print(f"{on_panel.sum():,} of {N_TOKENS - len(special):,} genes are on the panel of {adata.uns['scfm']['name']}.")

# %% [markdown]
# Colours mean the same in all figures of the course: dark blue is the foundation model, light blue its random twin or
# warm start, orange a simple baseline, grey a control. Whiskers are 95 % intervals; here they are narrower than the
# dots, and the table has them.

# %%
summary = stats.summary(results, by=("guesser", "told", "metric"))
GUESSERS = [g for g in gene_guessers.ROLES if g in set(summary["guesser"])]

# %% tags=["figure"]
losses = summary[summary["metric"] == "loss"]
panels = plots.axes(11.5, 2.7, columns=3)
for ax, rule in zip(panels.flat, RULES):
    rows = losses[losses["told"] == rule].set_index("guesser")
    rows = rows.loc[[g for g in GUESSERS if g in rows.index]].reset_index()
    title = f"told: {rule}".replace(", and", "\nand")
    plots.intervals(
        rows, label="guesser", roles=gene_guessers.ROLES, xlabel="loss in nats (left is better)", title=title, ax=ax
    )
    ax.set_xlim(losses["mean"].min() - 0.4, losses["mean"].max() + 0.4)  # so that a gap looks the same in all three
said = "; ".join(f"{r.guesser} {r.mean:.2f}" for r in losses[losses["told"] == RULES[2]].itertuples())
plots.show(
    panels,
    alt="Loss on hidden genes with 95 % intervals, three panels for three amounts of told rules. "
    f"With all rules told: {said}.",
)

# %% tags=["figure"]
text = summary.assign(
    text=[
        f"{r.mean:.2f} [{r.low:.2f}, {r.high:.2f}]"
        if r.metric == "loss"
        else f"{r.mean:.1%} [{r.low:.1%}, {r.high:.1%}]"
        for r in summary.itertuples()
    ]
)
wide = text.pivot(index=["told", "guesser"], columns="metric", values="text")[["loss", "top 1", "top 10"]]
wide.loc[[(rule, g) for rule in RULES for g in GUESSERS if (rule, g) in wide.index]]

# %% [markdown]
# ### Exercise 01.4
# The same draws, hence the same hidden genes, for all guessers: so we may compare draw by draw. Write
# `lead(results, one, other, rule)`: by how many nats is the loss of `one` *lower* than that of `other` when both are
# told `rule`? Return the array of differences, one per draw in the order of the draws (the column `seed` numbers
# them). (`results` is a long table; look at `results.head()`.)


# %% tags=["exercise"]
def lead(results, one, other, rule): ...  # your lines


check.exercise("01.4", lead)


# %% tags=["solution"]
def lead(results, one, other, rule):
    loss = results[(results["metric"] == "loss") & (results["told"] == rule)].pivot(
        index="seed", columns="guesser", values="value"
    )
    return (loss[other] - loss[one]).to_numpy()


check.exercise("01.4", lead)

# %% [markdown]
# ## So, did it learn anything?


# %%
verdicts = gene_guessers.verdicts(results)
nats = summary[summary["metric"] == "loss"].set_index(["guesser", "told"])["mean"]
top10 = summary[summary["metric"] == "top 10"].set_index(["guesser", "told"])["mean"]
raw = nats["gene frequency", "nothing"] - nats["pretrained", "nothing"]
fair = nats["gene frequency", RULES[2]] - nats["pretrained", RULES[2]]
by_place = nats["gene frequency", RULES[2]] - nats["place, both sides", RULES[2]]
as_genes = np.exp(nats)  # perplexity
print(f"Told nothing, the model is as unsure as among {as_genes['pretrained', 'nothing']:,.0f}", end=" ")
print(f"equally likely genes, the frequencies as among {as_genes['gene frequency', 'nothing']:,.0f}.")
print(f"All {N_TOKENS:,} tokens equally likely would cost {np.log(N_TOKENS):.2f} nats:", end=" ")
print(f"near that the random twin stands, at {nats['random twin', 'nothing']:.2f}.")
print(f"Its lead over the frequencies is {raw:.2f} nats; when all are told the rules, {fair:.2f}.")
if by_place > 0 and fair > 0:
    print("The place of the gap, read from both sides by somebody with no idea of what a cell is, is worth", end=" ")
    print(f"{by_place:.2f} nats: {by_place / fair:.0%} of that lead.")

# %%
mixed_up, frequencies = (nats[g, RULES[2]] for g in ("pretrained, words shuffled", "gene frequency"))
in_order = nats["pretrained", RULES[2]]
print(f"With the words shuffled the model's loss goes from {in_order:.2f} to {mixed_up:.2f},", end=" ")
print(f"where frequencies reach {frequencies:.2f}:", end=" ")
if mixed_up >= frequencies:
    print("judged by the loss, once the order is gone it does no better than they do", end=" ")
    print("(right gene among its first ten:", end=" ")
    print(f"{top10['pretrained, words shuffled', RULES[2]]:.1%}, theirs {top10['gene frequency', RULES[2]]:.1%}).")
else:
    print(f"{1 - (mixed_up - in_order) / fair:.0%} of its lead does without the order.")
simple = min(gene_guessers.SIMPLE, key=lambda g: nats[g, RULES[2]])
*numbers, word = verdicts.set_index(["told", "rival"]).loc[(RULES[2], simple)]
gap = stats.Interval(*numbers)
no_need = "for guessing genes here, you do not need it."
sentences = {
    "better": f"The best simple guesser (*{simple}*) is {-gap.mean:.2f} nats behind the network. "
    "The rest of the network's lead is knowledge that these guessers lack.",
    "worse": f"The best simple guesser (*{simple}*) is {gap.mean:.2f} nats ahead of the network: {no_need}",
    "undecided": f"The best simple guesser (*{simple}*) and the network are level: {no_need}",
}
print(sentences[word])
print("Cost per cell:", ", ".join(f"{name} {1000 * t / (n_draws * size):.1f} ms" for name, t in clock.items()) + ".")

# %% tags=["figure"]
shown = verdicts.assign(gap=[f"{r['mean']:.3f} [{r.low:.3f}, {r.high:.3f}]" for _, r in verdicts.iterrows()])
columns = {"told": "everybody is told", "rival": "loss of pretrained minus loss of", "gap": "nats [95 % interval]",
           "verdict": "pretrained is"}  # fmt: skip
shown[list(columns)].rename(columns=columns).style.hide().set_properties(**LEFT).set_table_styles(LEFT_TOO)

# %%
record("loss", {g: nats[g, "nothing"] for g in GUESSERS if (g, "nothing") in nats.index}, tolerance=0.05)
record("loss_told_all", {g: nats[g, RULES[2]] for g in GUESSERS}, tolerance=0.05)
record("top10", {g: top10[g, "nothing"] for g in GUESSERS if (g, "nothing") in top10.index}, tolerance=0.02)
record("top10_told_all", {g: top10[g, RULES[2]] for g in GUESSERS}, tolerance=0.02)
record("loss_model", nats["pretrained", "nothing"], tolerance=0.05, key=True)
record("loss_gene_frequency", nats["gene frequency", "nothing"], tolerance=0.05, key=True)
record("loss_random_twin", nats["random twin", "nothing"], tolerance=0.05, key=True)
record("verdicts", {f"{r.rival} | {r.told}": r.verdict for r in verdicts.itertuples()}, tolerance="any")
record.headline(
    f"loss of guessing hidden genes (nats), network minus the best simple guesser ({simple})",
    gap,
    lower_is_better=True,
    cells=f"{n_draws * size} cells of {adata.uns['scfm']['name']} ({on_panel.sum():,} genes)",
    varies="draws of cells",
)
record("ms_per_cell", {name: 1000 * clock[name] / (n_draws * size) for name in clock}, tolerance="any")
record("share_of_lead_by_place", by_place / fair, tolerance=0.1)
record("markers_in_top10", close / len(table), tolerance=0.5)

# %% [markdown] tags=["instructor"]
# **Spend the time here.** Let the room predict how much of the lead survives once the rules are told.
# **Misconception:** "a lower loss means a better embedding." Not implied; lesson 03 measures that. **Discuss**
# whether *similar cells* is a fair opponent: it has seen this donor and this machine, the model has not. Which of the
# two situations is yours?

# %% [markdown]
# ## What a mini can tell, and what it cannot
#
# Our mini is made like Geneformer: ranks, hidden genes, a BERT. It therefore shows honestly **how** such a model is
# trained, asked, scored and compared, and the same notebook takes a published one (`model="geneformer-v1-10m"`,
# profile cpu).
#
# It shows nothing about **how good** those are. They have read far more cells and have far more parameters, as the
# table above counts. If the mini loses, a larger one might win; if the mini wins on blood, which its corpus is full
# of, it may fail on tissue it never met. Whatever the outcome, two conclusions carry over: an untrained twin and a
# frequency table belong beside every such model, whatever its size; and a rule that everybody could be told is not
# understanding.
#
# Nor does guessing well mean *being useful*. Nobody needs guessed genes. Whether the vectors inside the network are
# of use is the question of lesson 03.

# %% [markdown] tags=["quiz"]
# **Quiz.** A paper reports: "masked-gene accuracy far above chance, on cells the model never saw." What do you ask first?
# - [ ] how many parameters it has -> That tells the price, not whether the result means anything.
# - [x] what gene frequencies and an untrained network reach on the same hidden genes -> Yes. Chance is a very low bar: some genes are in nearly every cell.
# - [ ] whether it was a transformer -> The architecture is no evidence. The comparison is.

# %% [markdown] tags=["quiz"]
# **Quiz.** Your model is no better than 25 similar cells from your own data. What follows?
# - [ ] the model is broken -> Not necessarily: it got there without having seen your data.
# - [ ] foundation models do not work on cells -> One model, one set, one task. That is not enough for a sentence this large.
# - [x] for guessing genes in this set you do not need it -> Yes: exactly that, and no more. For a new donor or three cells alone it may be different.

# %% [markdown] tags=["quiz"]
# **Quiz.** A model guesses hidden genes far better than the gene frequencies do. What has it proved?
# - [ ] that it understands cells -> A guesser that knows only medians and the place of the gap does it too.
# - [ ] nothing at all -> It has learned something. The question is what.
# - [x] that it has learned something, perhaps only how its own sentences are built -> Yes. Take away what the encoding itself gives away, and look at the rest.

# %% [markdown]
# ## Key points
# - Pretrain once on many cells without labels, with a task the data makes itself; reuse for many things. Zero-shot,
#   head, LoRA, last layer, full: more freedom, more cost, more labels needed.
# - Few trained parameters save memory and files. They save time only where the gradient need not travel.
# - Parameters can be counted from a configuration. Claims about models without weights can only be read.
# - A guess is worth only its lead over simpler guessers: frequencies, an untrained twin, the start of training, the
#   arithmetic of the encoding, and a method that merely looks at your own cells. Tune the simple guesser, too.
# - Tell everybody the same rules before you call a lead "learned". In a sentence of ranks, even the place of a gap
#   gives away part of the answer.
#
# **On your own cells:** which columns a file needs, the calls, the time and what to write in a methods section stand on
# the page *On your own cells* of the book (`site/own-cells.md`).
#
# ## Further reading
# - Theodoris et al. 2023, *Transfer learning enables predictions in network biology* (Geneformer),
#   https://doi.org/10.1038/s41586-023-06139-9
# - Chen et al. 2024, *Quantized multi-task learning for context-specific representations of gene network dynamics*
#   (Geneformer V2), https://doi.org/10.1101/2024.08.16.608180
# - Cui et al. 2024, *scGPT: toward building a foundation model for single-cell multi-omics using generative AI*,
#   https://doi.org/10.1038/s41592-024-02201-0
# - GREmLN, https://doi.org/10.1101/2025.07.03.663009, and OmniPert, https://doi.org/10.1101/2025.07.02.662744
# - Kedzierska et al. 2025, zero-shot evaluation of such models, https://doi.org/10.1186/s13059-025-03574-x
# - Hu et al. 2021, *LoRA: Low-Rank Adaptation of Large Language Models*, https://doi.org/10.48550/arXiv.2106.09685
# - Devlin et al. 2018, *BERT*, https://doi.org/10.48550/arXiv.1810.04805
