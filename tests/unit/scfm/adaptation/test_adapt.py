"""The ladder's rungs: what is trained and what is not, what comes out, and that it does not depend on what it should not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny_task
import torch

import scfm
from scfm.adaptation import adapters, heads, labels, loop, tasks
from scfm.adaptation.adapters import digest
from scfm.adaptation.choices import Choices
from scfm.adaptation.reading import reader_of, resolve
from scfm.linear import linear_head

KINDS = ("geneformer", "scgpt")
RUNGS = ("head", "lora", "partial", "full")
FAST = {"epochs": 8, "learning_rate": 1e-3, "minibatch": 10, "dtype": "float32", "progress": False}


def options(method: str, **more) -> dict:
    return FAST | ({"n_layers": 2} if method == "partial" else {}) | more


def state(network) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", RUNGS)
def test_each_rung_learns_and_leaves_the_base_as_it_was(kind: str, method: str) -> None:
    model, (cells, types) = tiny_task.model(kind), tiny_task.cells(kind)
    flags = [p.requires_grad for p in model.network.parameters()]
    before, mark = state(model.network), digest(model.network)
    pooling = "mean" if kind == "geneformer" else "cls"  # the <cls> of a random BERT hears little of the genes
    fit = scfm.adapt(model, cells, types, method, pooling=pooling, **options(method))
    after = model.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert digest(model.network) == mark
    assert [p.requires_grad for p in model.network.parameters()] == flags
    new, truth = tiny_task.cells(kind, seed=1)
    share = np.mean(fit.predict(new, progress=False) == truth)
    assert share > 0.75, share  # four standard deviations above the larger class
    proba = fit.predict_proba(new, progress=False)
    assert proba.shape == (160, 2)
    assert fit.classes == ["B", "T"]
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_base_is_shared_and_a_trained_one_is_not(kind: str) -> None:
    model, (cells, types) = tiny_task.model(kind), tiny_task.cells(kind)
    base = {p.data_ptr() for p in model.network.parameters()}
    for method, trained_apart in (("head", False), ("lora", False), ("full", True)):
        fit = scfm.adapt(model, cells, types, method, **options(method, epochs=1))
        layer = fit.adapted.layers()[0]
        own = {p.data_ptr() for name, p in layer.named_parameters() if "lora" not in name}
        assert own.isdisjoint(base) == trained_apart


# --- how many parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_trained_parameters_are_those_of_the_formula(kind: str) -> None:
    model, (cells, types) = tiny_task.model(kind), tiny_task.cells(kind, 30)
    d, n_layers = 16, len(model.layers())
    ff = model.network.config.intermediate_size
    fast = FAST | {"epochs": 1, "max_steps": 1}
    head = (d + 1) * 2

    def trained(method: str, **more) -> int:
        report = scfm.adapt(model, cells, types, method, **fast, **more).report
        assert report.trained_parameters - report.head_parameters >= 0
        return report.trained_parameters

    assert trained("head") == head
    assert trained("head", head="mlp") == head + (d + 1) * d == heads.n_parameters(d, [2], "mlp")
    # LoRA: rank · (in + out) per matrix. BERT has four d·d matrices a layer, scGPT one d·3d and one d·d
    attention = 4 * 2 * d if kind == "geneformer" else (d + 3 * d) + 2 * d
    for rank in (1, 4):
        assert trained("lora", rank=rank, targets="attention") == head + n_layers * rank * attention
        assert trained("lora", rank=rank, targets="feedforward") == head + n_layers * rank * 2 * (d + ff)
        everything = n_layers * rank * (attention + 2 * (d + ff))
        assert trained("lora", rank=rank) == head + everything
        assert adapters.lora_parameters(model, rank) == everything
    # IA3: one factor per output of keys and values (scGPT: queries too), and per input of the second feed-forward matrix
    assert trained("ia3") == head + n_layers * ((2 if kind == "geneformer" else 3) * d + ff)
    assert trained("ln") == head + n_layers * 2 * 2 * d
    layer = 4 * d * d + 4 * d + 2 * d * ff + d + ff + 2 * 2 * d
    assert trained("partial", n_layers=1) == head + layer
    inputs = adapters.count(p for m in model.input_modules() for p in m.parameters())
    assert trained("full") == head + n_layers * layer + inputs
    if kind == "geneformer":
        assert trained("prompt", n_virtual=4) == head + 4 * d
        assert trained("prefix", n_virtual=4) == head + 4 * d * 2 * n_layers


def test_total_parameters_count_shared_weights_once() -> None:
    model, (cells, types) = tiny_task.model(), tiny_task.cells(n_cells=30)
    own = model.network.num_parameters()
    fit = scfm.adapt(model, cells, types, "head", **FAST)
    assert fit.report.total_parameters == own + fit.report.head_parameters
    lora = scfm.adapt(model, cells, types, "lora", **FAST | {"epochs": 1})
    assert lora.report.total_parameters == own + lora.report.trained_parameters


# --- what it must not depend on ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["head", "lora", "full"])
def test_predictions_do_not_depend_on_minibatches_or_order(kind: str, method: str) -> None:
    model, (cells, types) = tiny_task.model(kind), tiny_task.cells(kind)
    fit = scfm.adapt(model, cells, types, method, **options(method, epochs=1))
    whole = fit.predict_proba(cells, progress=False)
    for budget in (1, 40, 700):
        np.testing.assert_allclose(fit.predict_proba(cells, max_tokens=budget, progress=False), whole, atol=1e-5)
    order = np.random.default_rng(0).permutation(len(cells))
    np.testing.assert_allclose(fit.predict_proba(cells[order], progress=False), whole[order], atol=1e-5)
    alone = np.concatenate([fit.predict_proba(cells[[i]], progress=False) for i in range(5)])
    np.testing.assert_allclose(alone, whole[:5], atol=1e-5)


def test_prefix_and_prompt_do_not_depend_on_the_padding_of_their_minibatch() -> None:
    model, (cells, types) = tiny_task.model(), tiny_task.cells()
    for method in ("prefix", "prompt"):
        fit = scfm.adapt(model, cells, types, method, **options(method, epochs=1))
        whole = fit.predict_proba(cells, progress=False)
        np.testing.assert_allclose(fit.predict_proba(cells, max_tokens=1, progress=False), whole, atol=1e-5)


def test_prefix_makes_room_in_cells_that_fill_all_positions() -> None:
    model = tiny_task.model(max_position_embeddings=12)
    cells, types = tiny_task.cells()
    long = cells[cells.lengths > 10]
    cut = scfm.tokenize.TokenizedCells.from_lists([long[i][:12].tolist() for i in range(len(long))])
    fit = scfm.adapt(model, cut, types[cells.lengths > 10], "prefix", n_virtual=5, **FAST | {"epochs": 1})
    assert fit.embed(cut, progress=False).shape == (len(cut), 16)


@pytest.mark.parametrize("kind", KINDS)
def test_the_token_budget_of_a_step_changes_no_weight(kind: str) -> None:
    changes = {"hidden_dropout_prob": 0.0} if kind == "geneformer" else {"dropout": 0.0}
    model, (cells, types) = tiny_task.model(kind, **changes), tiny_task.cells(kind, 60)
    found = []
    for budget in (20, 100_000):
        fit = scfm.adapt(model, cells, types, "full", **options("full", epochs=2, max_tokens=budget))
        found.append(fit.predict_proba(cells, progress=False))
    # the order of a sum differs in its last bit, and Adam divides by small gradients: equal to three digits after two epochs
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


@pytest.mark.parametrize("method", ["head", "lora", "full"])
def test_the_same_seed_gives_the_same_fit_and_leaves_the_callers_random_state(method: str) -> None:
    model, (cells, types) = tiny_task.model(), tiny_task.cells(n_cells=60)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    runs = [scfm.adapt(model, cells, types, method, seed=s, **options(method, epochs=2, head="mlp")) for s in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    first, again, other = (run.predict_proba(cells, progress=False) for run in runs)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("method", ["head", "lora", "partial", "full"])
def test_shuffled_labels_give_chance(method: str) -> None:
    model, (cells, types) = tiny_task.model("scgpt"), tiny_task.cells("scgpt", 200)
    new, truth = tiny_task.cells("scgpt", 300, seed=1)
    scores = []
    for draw in range(6):
        shuffled = np.random.default_rng(draw).permutation(types)
        fit = scfm.adapt(model, cells, shuffled, method, seed=draw, **options(method, epochs=2, validation=0))
        said = fit.predict(new, progress=False)
        scores.append(np.mean([np.mean(said[truth == c] == c) for c in ("B", "T")]))
    found = scfm.stats.interval(scores)
    assert found.low - 0.06 < 0.5 < found.high + 0.06, found  # a balanced accuracy of one half, give or take 300 cells


# --- one path for training and prediction -----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_models_own_embedding(kind: str) -> None:
    model, (cells, _) = tiny_task.model(kind), tiny_task.cells(kind, 30)
    choices = resolve(model, Choices(dtype="float32"))
    reader = reader_of(adapters.prepare(model, choices, 1), choices)
    how = {} if kind == "geneformer" else {"normalize": False}
    np.testing.assert_allclose(reader.all(cells), model.embed(cells, dtype="float32", progress=False, **how), atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_features_are_those_of_the_plain_network(pooling: str) -> None:
    """By transformers' own forward pass: padded, masked, all hidden states."""
    model, (cells, _) = tiny_task.model(), tiny_task.cells(n_cells=20)
    ids, mask = (torch.from_numpy(a) for a in cells.padded(np.arange(20)))
    with torch.inference_mode():
        states = model.network(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    for layer in (0, -1, -2):
        choices = resolve(model, Choices(dtype="float32", pooling=pooling, layer=layer))
        found = reader_of(adapters.prepare(model, choices, 3 + layer), choices).all(cells)
        x = states[3 + layer]
        genes = (ids > 3)[..., None]
        expected = x[:, 0] if pooling == "cls" else (x * genes).sum(1) / genes.sum(1)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_gives_the_same_gradients(kind: str) -> None:
    model, (cells, _) = tiny_task.model(kind), tiny_task.cells(kind, 10)
    found = []
    for checkpointing in (False, True):
        copied = adapters.prepare(model, Choices(method="full"), len(model.layers())).model
        copied.hidden_states(cells, checkpointing=checkpointing).square().sum().backward()
        found.append([p.grad.clone() for p in copied.network.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 10
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_bf16_training_runs_and_agrees_roughly() -> None:
    model, (cells, types) = tiny_task.model("scgpt"), tiny_task.cells("scgpt")
    fits = [
        scfm.adapt(model, cells, types, "lora", **options("lora", dtype=d, epochs=3)) for d in ("float32", "bfloat16")
    ]
    new, truth = tiny_task.cells("scgpt", seed=1)
    for fit in fits:
        assert np.mean(fit.predict(new, progress=False) == truth) > 0.7
    assert fits[1].report.dtype == "bfloat16"
    assert all(p.dtype == torch.float32 for p in fits[1].network.parameters())


# --- options ------------------------------------------------------------------------------------------------


def test_a_linear_head_is_logistic_regression_on_scaled_features() -> None:
    from sklearn.linear_model import LogisticRegression

    model, (cells, types) = tiny_task.model(), tiny_task.cells()
    fit = scfm.adapt(model, cells, types, "head", **FAST, validation=0)
    x = fit.embed(cells, progress=False).astype(np.float64)
    scale, strength = linear_head(x, types).chosen  # by cross-validation inside these cells
    x = (x - x.mean(0)) / (np.sqrt(((x - x.mean(0)) ** 2).mean()) if scale == "common" else x.std(0))
    expected = LogisticRegression(C=strength, max_iter=500).fit(x, types).predict_proba(x)
    np.testing.assert_allclose(fit.predict_proba(cells, progress=False), expected, atol=2e-3)
    given = scfm.adapt(model, cells, types, "head", **FAST, validation=0, embeddings=fit.embed(cells, progress=False))
    np.testing.assert_array_equal(
        given.predict_proba(embeddings=fit.embed(cells, progress=False)), fit.predict_proba(cells, progress=False)
    )


def test_a_linear_head_on_a_frozen_network_learns_from_all_labels() -> None:
    model, (cells, types) = tiny_task.model(), tiny_task.cells(n_cells=40)
    fit, given = (
        scfm.adapt(model, cells, types, "head", **FAST, **more) for more in ({}, {"groups": np.arange(40) % 5})
    )
    whole = scfm.adapt(model, cells, types, "head", **FAST, validation=0)
    for one in (fit, given):
        np.testing.assert_array_equal(
            one.predict_proba(cells, progress=False), whole.predict_proba(cells, progress=False)
        )
        assert (one.report.n_cells, one.report.n_validation, one.choices.validation) == (40, 0, 0)
        assert any(note.startswith("no validation cells: a linear head") for note in one.report.notes)
        assert "40 cells learned from, 0 kept aside" in one.card()
    assert not whole.report.notes
    assert scfm.adapt(model, cells, types, "head", head="mlp", **FAST).report.n_validation == 4


def test_a_trained_network_starts_from_logistic_regression() -> None:
    """Of one scale and C = 1: what a solved head chooses on top would be lost after the first steps."""
    from sklearn.linear_model import LogisticRegression

    model, (cells, types) = tiny_task.model(), tiny_task.cells()
    x = scfm.adapt(model, cells, types, "head", layer=0, **FAST).embed(cells, progress=False).astype(np.float64)
    x = (x - x.mean(0)) / np.sqrt(((x - x.mean(0)) ** 2).mean())
    expected = LogisticRegression(max_iter=500).fit(x, types).predict_proba(x)
    still = FAST | {"epochs": 1, "max_steps": 1, "learning_rate": 1e-12, "head_rate": 1e-12, "validation": 0}
    for method in ("lora", "partial", "full"):
        fit = scfm.adapt(model, cells, types, method, **still)
        np.testing.assert_allclose(fit.predict_proba(cells, progress=False), expected, atol=2e-3)


@pytest.mark.parametrize("validation", [0, 0.2])
def test_a_fit_that_diverges_is_an_error_not_a_result(validation: float) -> None:
    model, (cells, types) = tiny_task.model(), tiny_task.cells(n_cells=40)
    wild = options("full", epochs=2, learning_rate=1e30, schedule="constant", validation=validation)
    with pytest.raises(ValueError, match=r"The loss is no number at step [2-4]: take a smaller learning_rate"):
        scfm.adapt(model, cells, types, "full", **wild)


def test_a_last_step_that_spoils_the_weights_is_an_error(monkeypatch) -> None:
    step = loop._step

    def spoils(task, members, head, *more) -> float:
        loss = step(task, members, head, *more)
        head.readers[0].bias.data.fill_(float("nan"))
        return loss

    monkeypatch.setattr(loop, "_step", spoils)
    model, (cells, types) = tiny_task.model(), tiny_task.cells(n_cells=40)
    with pytest.raises(ValueError, match="The weights are no numbers after step 1: take a smaller learning_rate"):
        scfm.adapt(model, cells, types, "full", **options("full", max_steps=1, validation=0))


def test_balanced_weights_find_the_rare_class() -> None:
    rng = np.random.default_rng(0)
    cells, types = tiny_task.cells("scgpt", 400)
    rare = np.concatenate([np.flatnonzero(types == "B")[:200], np.flatnonzero(types == "T")[:8]])
    noisy = types[rare].copy()
    noisy[rng.choice(200, 20, replace=False)] = "T"  # and the labels are not all right
    model = tiny_task.model("scgpt")
    new, truth = tiny_task.cells("scgpt", 300, seed=1)
    recall = {}
    for weight in (None, "balanced", {"T": 10.0}):
        fit = scfm.adapt(model, cells[rare], noisy, "head", class_weight=weight, **FAST)
        recall[str(weight)] = np.mean(fit.predict(new, progress=False)[truth == "T"] == "T")
    assert recall["balanced"] > recall["None"] + 0.1, recall
    assert recall["{'T': 10.0}"] > recall["None"] + 0.1, recall


def test_early_stopping_keeps_the_best_weights_not_the_last() -> None:
    model, (cells, types) = tiny_task.model(), tiny_task.cells(n_cells=60)
    wild = options("full", epochs=40, learning_rate=0.05, patience=3, start="probe", validation=0.3)
    fit = scfm.adapt(model, cells, types, "full", **wild)
    curve = fit.report.table()
    best = curve.loc[curve["validation_loss"].idxmin()]
    assert fit.report.stopped_early
    assert fit.report.steps < 40 * 5
    assert fit.report.best_step == best["step"] < fit.report.steps
    assert (curve["step"] > fit.report.best_step).sum() == 3
    _, watched, _ = labels.split(labels.of_cells(types, 60), 0.3, 0)
    wanted = fit.predict_proba(cells[watched], progress=False)
    truth = np.searchsorted(fit.classes, types[watched])
    assert -np.log(wanted[np.arange(len(truth)), truth]).mean() == pytest.approx(best["validation_loss"], abs=1e-4)


def test_gradual_unfreezing_goes_from_the_top_to_the_bottom() -> None:
    model = tiny_task.model()
    adapted = adapters.prepare(model, Choices(method="full", gradual=True), 3)
    stages = adapters.stages(adapted, 3)
    assert len(stages) == 4  # three layers and the embeddings
    assert sum(map(len, stages)) == len(adapted.trained())
    seen = []
    for step in range(0, 80, 10):
        adapters.unfreeze(stages, step, 80)
        seen.append([all(p.requires_grad for p in stage) for stage in stages])
    assert seen[0] == [True, False, False, False]
    assert seen[1] == [True, True, False, False]
    assert seen[3] == seen[-1] == [True, True, True, True]
    top = {id(p) for p in adapted.model.layers()[2].parameters()}
    assert {id(p) for p in stages[0]} == top


def test_gradual_unfreezing_leaves_the_bottom_untouched_if_it_ends_before_its_turn() -> None:
    model, (cells, types) = tiny_task.model(), tiny_task.cells(n_cells=60)
    moved = []
    for steps in (1, 40):
        fit = scfm.adapt(model, cells, types, "full", gradual=True, **options("full", epochs=40, max_steps=steps))
        same = [
            torch.equal(a, b)
            for a, b in zip(fit.adapted.layers()[0].parameters(), model.layers()[0].parameters(), strict=True)
        ]
        moved.append(not all(same))
    assert moved == [False, True]


def test_layer_decay_lowers_the_rate_layer_by_layer_and_spares_embeddings_from_decay() -> None:
    model = tiny_task.model()
    choices = Choices(method="full", layer_decay=0.5, learning_rate=1e-2)
    adapted = adapters.prepare(model, choices, 3)
    head = heads.Head(16, {"label": ["a", "b"]})
    groups = adapters.optimizer_groups(adapted, adapters.stages(adapted, 3), head, choices)
    rate_of = {id(p): group["rate"] for group in groups for p in group["params"]}
    decay_of = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    rates = [rate_of[id(layer.output.dense.weight)] for layer in adapted.model.layers()]
    assert rates == [0.0025, 0.005, 0.01]
    words = adapted.network.bert.embeddings.word_embeddings.weight
    assert rate_of[id(words)] == 0.00125
    assert decay_of[id(words)] == 0
    assert decay_of[id(adapted.model.layers()[0].output.dense.weight)] == choices.weight_decay
    assert decay_of[id(adapted.model.layers()[0].output.dense.bias)] == 0
    assert len(rate_of) == len(adapted.trained()) + 2


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
def test_the_schedule_warms_up_and_goes_where_it_says(name: str) -> None:
    choices = Choices(schedule=name, warmup=0.2)
    shares = [loop.schedule(step, 100, choices) for step in range(100)]
    assert all(0 < share <= 1 for share in shares)
    assert np.all(np.diff(shares[:20]) > 0)
    assert np.all(np.diff(shares[20:]) <= 1e-12)
    assert shares[-1] == 1 if name == "constant" else shares[-1] < 0.02


def test_validation_by_donor_watches_whole_donors() -> None:
    model, (cells, types) = tiny_task.model(), tiny_task.cells()
    donors = np.array(["d1", "d2", "d3", "d4"])[np.arange(160) % 4]
    fit = scfm.adapt(model, cells, types, "lora", groups=donors, **options("lora", epochs=1, validation=0.25))
    assert fit.report.n_validation == 40
    assert any(note.startswith("validation cells are those of d") for note in fit.report.notes)


# --- genes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["head", "lora", "full"])
def test_genes_are_classified_in_their_cells(kind: str, method: str) -> None:
    """Marker genes of B cells against shared genes: told apart by the company they keep, and by their embeddings."""
    model, (cells, _) = tiny_task.model(kind), tiny_task.cells(kind)
    classes = {f"GENE{i}": "marker" if i < 24 else "shared" for i in range(40) if i not in (3, 15, 30)}
    fit = scfm.adapt(model, cells, classes, method, level="gene", **options(method, epochs=6, validation=0.2))
    proba = fit.predict_proba(cells, progress=False)
    assert list(proba.columns) == ["marker", "shared"]
    assert len(proba) == 40
    said = fit.predict(cells, progress=False)
    names = [f"ENSG{i:011d}" for i in range(40)] if kind == "geneformer" else [f"GENE{i}" for i in range(40)]
    truth = np.array(["marker" if i < 24 else "shared" for i in range(40)])
    right = np.mean(said.loc[names].to_numpy() == truth)
    if (kind, method) == (
        "geneformer",
        "head",
    ):  # random layers tell nothing of held-out genes here, and its head knows
        assert right < 0.7
    else:
        assert right > 0.7  # the larger class is 0.6
    assert fit.embed(cells, progress=False).shape == (40, 16)
    assert fit.report.n_cells + fit.report.n_validation == 37
    table = fit.evaluate(cells, classes)
    assert table.loc[table["metric"] == "accuracy", "n"].item() == 37
    with pytest.raises(ValueError, match="dict"):
        scfm.adapt(model, cells, ["marker"] * 160, level="gene")
    with pytest.raises(ValueError, match="groups belong to cells"):
        scfm.adapt(model, cells, classes, level="gene", groups=np.zeros(160))


def test_genes_are_watched_in_cells_drawn_from_all() -> None:
    model, (cells, _) = tiny_task.model(), tiny_task.cells(n_cells=600)
    choices = resolve(model, Choices(level="gene", method="full", dtype="float32"))
    reader = reader_of(adapters.prepare(model, choices, 3), choices)
    known, tokens = labels.of_genes({f"GENE{i}": "ab"[i % 2] for i in range(40)}, model.vocabulary, cells.tokens)
    drawn = [
        tasks.GeneTasks(reader, cells, known, tokens, [np.ones(2)], seed).watch(np.arange(40)).examples
        for seed in (0, 0, 1)
    ]
    assert all(len(np.unique(some)) == tasks.GENES_ARE_WATCHED_IN and some.max() > 500 for some in drawn)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    few = tasks.GeneTasks(reader, cells[np.arange(50)], known, tokens, [np.ones(2)]).watch(np.arange(40))
    np.testing.assert_array_equal(few.examples, np.arange(50))


# --- peft ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "vera", "ln"])
def test_merged_adapters_answer_as_unmerged_ones(kind: str, method: str) -> None:
    model, (cells, types) = tiny_task.model(kind), tiny_task.cells(kind, 40)
    fit = scfm.adapt(model, cells, types, method, **options(method, epochs=2))
    mark = digest(model.network)
    merged = fit.merged()
    how = {"progress": False, "dtype": "float32"} | ({"normalize": False} if kind == "scgpt" else {"layer": 0})
    found, before = merged.embed(cells, **how), model.embed(cells, **how)
    np.testing.assert_allclose(found, fit.adapted.embed(cells, **how), atol=1e-5)
    assert np.abs(found - before).max() > 1e-3  # it did learn something
    assert type(merged.network) is type(model.network)
    assert not any("lora" in name or "ia3" in name for name in merged.network.state_dict())
    assert digest(model.network) == mark


def test_what_cannot_be_merged_says_so() -> None:
    model, (cells, types) = tiny_task.model(), tiny_task.cells(n_cells=40)
    for method in ("head", "full", "prefix"):
        fit = scfm.adapt(model, cells, types, method, **options(method, epochs=1))
        with pytest.raises(ValueError, match="nothing that could be merged"):
            fit.merged()
    with pytest.raises(ValueError, match="before the cell"):
        _ = fit.adapted


def test_adapters_only_go_into_layers_that_are_read() -> None:
    model, (cells, types) = tiny_task.model(), tiny_task.cells(n_cells=40)
    fit = scfm.adapt(model, cells, types, "lora", layer=-1, **options("lora", epochs=1))
    assert {name.split("layer.")[1][0] for name in fit._adapted.trained()} == {"0", "1"}


def test_the_adapted_model_is_a_model() -> None:
    """Forgetting can be measured: the masked-gene loss of the fine-tuned network, with the head it was pretrained with."""
    model, (cells, types) = tiny_task.model(), tiny_task.cells()
    fit = scfm.adapt(model, cells, types, "full", **options("full"))
    before, after = model.masked_loss(cells).loss, fit.adapted.masked_loss(cells).loss
    assert np.isfinite(after)
    assert abs(after - before) > 1e-4
    assert fit.adapted.vocabulary is model.vocabulary


def test_choices_are_kept_whole() -> None:
    model, (cells, types) = tiny_task.model(), tiny_task.cells(n_cells=40)
    fit = scfm.adapt(model, cells, types, "lora", rank=3, **options("lora", epochs=1))
    assert dataclasses.asdict(fit.choices)["rank"] == 3
    assert fit.choices.pooling == "mean"  # as the model embeds
    assert fit.choices.layer == 0


def test_the_verbs_of_the_house_are_functions() -> None:
    import inspect

    for verb in ("adapt", "load_fit", "generate", "load_dataset", "load_model", "results"):
        assert inspect.isfunction(getattr(scfm, verb)), verb
    assert list(inspect.signature(scfm.adapt).parameters)[:4] == ["model", "cells", "labels", "method"]


def test_planned_rates_are_those_of_the_groups_and_the_schedule() -> None:
    model = tiny_task.model()
    network = model.network
    mark = digest(network)
    full = Choices(method="full", layer_decay=0.5, learning_rate=1e-3, warmup=0.2, layer=0)
    plan = loop.planned_rates(model, full, 10)
    assert list(plan.index) == ["input", "layer 1", "layer 2", "layer 3"]
    top = [1e-3 * loop.schedule(step, 10, full) for step in range(10)]
    np.testing.assert_allclose(plan.loc["layer 3"], top)
    np.testing.assert_allclose(plan.loc["input"], np.array(top) / 8)
    partial = loop.planned_rates(model, Choices(method="partial", n_layers=1, layer=0), 10)
    assert (partial.loc[["input", "layer 1", "layer 2"]] == 0).all(axis=None)
    assert (partial.loc["layer 3"] > 0).all()
    gradual = loop.planned_rates(model, Choices(method="full", gradual=True, schedule="constant", layer=0), 40)
    first = [(row > 0).to_numpy().argmax() for _, row in gradual.iterrows()]
    assert first == sorted(first, reverse=True)
    assert first[-1] == 0
    assert first[0] > 0
    assert digest(network) == mark
