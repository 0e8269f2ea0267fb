"""The steps of generation: who sees whom, cached keys and values against whole forward passes, confidence, thinned networks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tiny_scgpt as tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_scgpt import network

from scfm.generation import answer as answers
from scfm.generation import attention_mask as masks
from scfm.generation import confidence, kstep


def question(n_cells: int = 3, n_prompt: int = 6, n_asked: int = 12, seed: int = 0):
    """<cls> and genes with bins; the same genes asked for of every cell, none of them in a prompt."""
    rng = np.random.default_rng(seed)
    genes = np.stack([rng.permutation(20)[:n_prompt] for _ in range(n_cells)])
    values = rng.integers(0, 51, genes.shape).astype(np.float32)
    genes[:, 0], values[:, 0] = tiny.CLS, -2
    return torch.from_numpy(genes), torch.from_numpy(values), torch.arange(20, 20 + n_asked)


def start(genes, values, **more):
    rows = more.pop("of_cell", torch.arange(len(genes)))
    return kstep.Start(genes, values, more.pop("pad_mask", None), None, None, rows, **more)


def by_masked_forward(net, genes, values, blocks, asked):
    """All in one pass with the block-causal mask written out: perceived genes through SDPA, then the generated ones."""
    n = genes.shape[1]
    mask = torch.from_numpy(masks.block_causal_mask([*blocks, 1]))[:n, :n]
    x = net.tokens(net.encoder(genes), values)
    y = net.tokens(net.encoder(asked), None)
    for layer in net.transformer_encoder.layers:
        q, k, v = layer.self_attn.project(x)
        attended = layer.self_attn.generate(layer.self_attn.project(y), k, v)
        x, y = layer.finish(x, layer.self_attn.perceive(q, k, v, mask[None, None])), layer.finish(y, attended)
    return x, net.decoder(y)


# --- the mask ---------------------------------------------------------------------------------------


def test_the_mask_of_one_step_in_full():
    assert masks.attention_mask(2, 3).astype(int).tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 0, 1],
    ]


def test_the_block_causal_mask_in_full():
    assert masks.block_causal_mask([2, 1, 2, 2]).astype(int).tolist() == [
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 0, 1],
    ]


def test_blocks_that_cannot_be():
    for blocks in ([3], [0, 2], [2, -1, 2]):
        with pytest.raises(ValueError, match="sizes of the prompt"):
            masks.block_causal_mask(blocks)


@pytest.mark.parametrize("exact", [True, False])
def test_what_moves_is_what_the_mask_allows(exact):
    blocks = [4, 3, 2, 5]
    rng = np.random.default_rng(0)
    genes = np.concatenate([[tiny.CLS], rng.permutation(tiny.N_GENES)[:13]])
    values = rng.integers(0, 51, 14).astype(np.float32)
    net = tiny.network()
    moved = masks.influence(net, genes, values, blocks, exact)
    assert np.array_equal(moved, masks.attention_mask(9, 5) if exact else masks.block_causal_mask(blocks))
    assert net.dtype == torch.float32, "a copy is asked, not the network"


def test_influence_shows_a_mask_that_is_broken():
    net = tiny.network()
    attention = type(net.transformer_encoder.layers[0].self_attn)

    class Leaking(attention):
        def generate(self, own, k, v, visible=None):  # each generated gene also looks at its neighbour
            beside = tuple(x.roll(1, 2) for x in own[1:])
            wide = super().generate(own, torch.cat([k, beside[0]], 2), torch.cat([v, beside[1]], 2))
            return wide

    for layer in net.transformer_encoder.layers:
        layer.self_attn.__class__ = Leaking
    moved = masks.influence(net, np.arange(8), np.ones(8, np.float32), [4, 4])
    assert not np.array_equal(moved, masks.attention_mask(4, 4))


def test_influence_counts_its_inputs():
    with pytest.raises(ValueError, match="9 genes and values"):
        masks.influence(tiny.network(), np.arange(8), np.ones(8), [4, 5])


# --- keys and values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"if_expressed": True}, {"mvc": False}, {"num_batches": 3, "batch_tokens": True, "domain_norm": "dsbn"}],
)
def test_one_block_is_the_networks_own_forward_pass(options):
    net = network(**options)
    genes, values, asked = question()
    labels = torch.tensor([0, 2, 1]) if options.get("num_batches") else None
    pad = torch.zeros_like(genes, dtype=torch.bool)
    pad[1, 4:] = True
    prompt = torch.randn(3, 16)
    everywhere = asked.expand(3, -1)
    with torch.no_grad():
        out = net.generate_forward(genes, values, everywhere, pad, cell_prompt=prompt, batch_labels=labels)
        reader = kstep.Perceived(net, labels)
        hidden = reader.add(genes, values, pad, prompt)
        answer = reader.ask(everywhere)
    torch.testing.assert_close(hidden[~pad], out.last_hidden_state[:, :6][~pad])
    p, says = out.generated_zero_prob, out.generated
    if options.get("if_expressed"):
        torch.testing.assert_close(answer.if_on, says.clamp(1, 50))
        torch.testing.assert_close(answer.value, p * says.clamp(1, 50))
    else:
        torch.testing.assert_close(answer.value, says.clamp(0, 50))
        torch.testing.assert_close(answer.if_on, (says.clamp(0, 50) / p).clamp(1, 50))
    torch.testing.assert_close(answer.nonzero, p)
    if options.get("mvc") is False:
        assert answer.gepc is None
    else:
        gepc = out.gepc[:, 6:]
        right = out.gepc_zero_prob[:, 6:] * gepc.clamp(1, 50) if options.get("if_expressed") else gepc.clamp(0, 50)
        torch.testing.assert_close(answer.gepc, right)


def test_several_blocks_are_the_whole_pass_with_the_mask_written_out():
    net = network()
    genes, values, asked = question(n_prompt=9)
    everywhere = asked.expand(3, -1)
    blocks = [4, 2, 3]
    with torch.no_grad():
        x, (value, nonzero) = by_masked_forward(net, genes, values, blocks, everywhere)
        reader = kstep.Perceived(net)
        edges = np.cumsum([0, *blocks])
        hidden = torch.cat([reader.add(genes[:, a:b], values[:, a:b]) for a, b in itertools.pairwise(edges)], 1)
        answer = reader.ask(everywhere)
        whole = kstep.Perceived(net)
        whole.add(genes, values)
    torch.testing.assert_close(hidden, x)
    torch.testing.assert_close(answer.value, value.clamp(0, 50))
    torch.testing.assert_close(answer.nonzero, nonzero)
    assert (whole.ask(everywhere).value - answer.value).abs().max() > 0.1, "several blocks are not one block"


def test_padding_of_a_later_block_is_seen_by_nobody():
    net = network()
    genes, values, asked = question(n_prompt=8)
    pad = torch.zeros(3, 4, dtype=torch.bool)
    pad[:, 2:] = True
    with torch.no_grad():
        padded, cut = kstep.Perceived(net), kstep.Perceived(net)
        for reader in (padded, cut):
            reader.add(genes[:, :4], values[:, :4])
        padded.add(genes[:, 4:], values[:, 4:], pad)
        cut.add(genes[:, 4:6], values[:, 4:6])
    torch.testing.assert_close(padded.ask(asked.expand(3, -1)).value, cut.ask(asked.expand(3, -1)).value)


def test_asking_in_pieces_changes_nothing(monkeypatch):
    net = network()
    genes, values, asked = question()
    reader = kstep.Perceived(net)
    with torch.no_grad():
        reader.add(genes, values)
        whole = reader.ask(asked.expand(3, -1))
        monkeypatch.setattr(kstep, "SCORES_AT_ONCE", 100)
        pieces = reader.ask(asked.expand(3, -1))
    for name in ("value", "nonzero", "gepc"):
        torch.testing.assert_close(getattr(pieces, name), getattr(whole, name))


# --- K steps ----------------------------------------------------------------------------------------


@given(st.integers(1, 500), st.data())
def test_blocks_are_as_equal_as_can_be(n_genes, data):
    steps = data.draw(st.integers(1, n_genes))
    sizes = kstep.block_sizes(n_genes, steps)
    assert len(sizes) == steps
    assert sum(sizes) == n_genes
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


@pytest.mark.parametrize("measure", ["zero_prob", "variance", "dropout", "agreement", "largest", "random"])
def test_in_one_step_exact_and_block_causal_are_the_same(measure):
    net = network()
    genes, values, asked = question()
    randomness = {"order": torch.rand(3, 12), "rate": 0.3}
    if measure == "dropout":
        randomness["keep"] = (
            np.random.default_rng(0).random((4, 3, confidence.ThinnedNetworks.n_units(net.config))) > 0.3
        )
    made = []
    for exact in (True, False):
        with torch.no_grad():
            made.append(kstep.complete(net, start(genes, values, **randomness), asked, 1, measure, exact))
    for name in ("value", "nonzero", "confidence", "known_at"):
        assert torch.equal(getattr(made[0], name), getattr(made[1], name)), name


def by_hand(net, genes, values, asked, steps, measure, exact, feed):
    """K steps for one cell with nothing but whole forward passes."""
    left, blocks, found, at = asked.tolist(), [genes.shape[1]], {}, {}
    for step, size in enumerate(kstep.block_sizes(len(left), steps), start=1):
        ask = torch.tensor(left)[None]
        if exact:
            out = net.generate_forward(genes, values, ask)
            answer = answers.Answer(out.generated.clamp(0, 50), out.generated_zero_prob)
        else:
            value, nonzero = by_masked_forward(net, genes, values, blocks, ask)[1]
            answer = answers.Answer(value.clamp(0, 50), nonzero)
        order = measure(answer)[0].argsort(descending=True)[:size].tolist()
        for i in order:
            found[left[i]], at[left[i]] = answer.value[0, i].item(), step
        block = torch.tensor([left[i] for i in order])[None]
        p, mean = answer.nonzero[:, order], answer.value[:, order]
        fed = mean if feed == "expected" else torch.where(p > 0.5, (mean / p).clamp(1, 50), 0)
        genes, values = torch.cat([genes, block], 1), torch.cat([values, fed], 1)
        blocks.append(size)
        left = [gene for gene in left if gene not in found]
    return [found[gene] for gene in asked.tolist()], [at[gene] for gene in asked.tolist()]


@pytest.mark.parametrize("feed", ["likely", "expected"])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("steps", [2, 3, 12])
def test_k_steps_are_the_loop_written_out(exact, steps, feed):
    net = network()
    genes, values, asked = question()
    with torch.no_grad():
        done = kstep.complete(net, start(genes, values), asked, steps, "zero_prob", exact, feed=feed)
        for cell in range(3):
            one = slice(cell, cell + 1)
            expected = by_hand(net, genes[one], values[one], asked, steps, confidence.zero_prob_confidence, exact, feed)
            np.testing.assert_allclose(done.value[cell], expected[0], atol=1e-3)
            assert done.known_at[cell].tolist() == expected[1]
    assert torch.bincount(done.known_at[0])[1:].tolist() == kstep.block_sizes(12, steps)


def test_exact_and_block_causal_part_in_the_second_step():
    net = network()
    genes, values, asked = question()
    order = torch.rand(3, 12)  # the same genes in each step for both
    with torch.no_grad():
        exact, causal = (
            kstep.complete(net, start(genes, values, order=order), asked, 3, "random", e) for e in (True, False)
        )
    assert torch.equal(exact.known_at, causal.known_at)
    for step in (1, 2, 3):
        apart = (exact.value - causal.value)[exact.known_at == step].abs().max()
        assert apart == 0 if step == 1 else apart > 0.01, step


def test_the_random_order_is_the_given_one_and_asks_only_for_the_next_block():
    net = network()
    genes, values, asked = question()
    order = torch.rand(3, 12)
    with torch.no_grad():
        done = kstep.complete(net, start(genes, values, order=order), asked, 4, "random")
        other = kstep.complete(net, start(genes, values), asked, 4, "largest")
    for cell in range(3):
        ranks = (-order[cell]).argsort().argsort()
        assert done.known_at[cell].tolist() == (ranks // 3 + 1).tolist()
    perceived = sum(6 + 3 * i for i in range(4))
    assert done.cost["tokens"] == 3 * (perceived + 12)
    assert other.cost["tokens"] == 3 * (perceived + 12 + 9 + 6 + 3)


def test_block_causal_reads_each_gene_once():
    net = network()
    genes, values, asked = question()
    with torch.no_grad():
        done = kstep.complete(net, start(genes, values, order=torch.rand(3, 12)), asked, 4, "random", exact=False)
    assert done.cost["tokens"] == 3 * (6 + 9 + 12)  # the last block need not be perceived
    assert done.cost["looks"] == 3 * (6 * 6 + 3 * (9 + 12 + 15) + 3 * (7 + 10 + 13 + 16))


# --- confidence -------------------------------------------------------------------------------------


def answer_of(**what):
    return answers.Answer(**{name: torch.tensor([row]) for name, row in what.items()})


def test_measures_of_confidence_by_hand():
    answer = answer_of(
        value=[10.0, 20.0, 30.0],
        nonzero=[0.5, 0.0, 0.9],
        if_on=[20.0, 20.0, 10.0],
        gepc=[11.0, 25.0, 30.0],
        spread=[0.0, 2.0, 1.0],
    )
    torch.testing.assert_close(confidence.dropout_confidence(answer), torch.tensor([[0.0, -4.0, -1.0]]))
    torch.testing.assert_close(confidence.agreement_confidence(answer), torch.tensor([[-1.0, -5.0, 0.0]]))
    torch.testing.assert_close(confidence.largest_first(answer), answer.value)
    torch.testing.assert_close(confidence.variance_confidence(answer), torch.tensor([[-100.0, 0.0, -9.0]]))
    entropy = -confidence.zero_prob_confidence(answer)[0]
    torch.testing.assert_close(entropy, torch.tensor([np.log(2), 0.0, -0.9 * np.log(0.9) - 0.1 * np.log(0.1)]).float())


def test_thinned_networks_are_dropout_written_out():
    """One version with its masks put in by hand, layer by layer."""
    net = network()
    genes, values, asked = question()
    keep = np.random.default_rng(1).random((1, 3, confidence.ThinnedNetworks.n_units(net.config))) > 0.4
    thinned = confidence.ThinnedNetworks(net, keep, 0.4)
    mask = torch.from_numpy(keep[0]).float()[:, None] / 0.6
    value_mask, *parts = mask.split([16, *[16, 24, 16] * 2], -1)
    ask = asked.expand(3, -1)
    with torch.no_grad():
        x = net.encoder(genes) + net.value_encoder(values) * value_mask
        y = net.tokens(net.encoder(ask), None)
        for number, layer in enumerate(net.transformer_encoder.layers):
            m = parts[3 * number : 3 * number + 3]
            q, k, v = layer.self_attn.project(x)
            both = layer.self_attn.perceive(q, k, v), layer.self_attn.generate(layer.self_attn.project(y), k, v)
            new = []
            for tokens, attended in zip((x, y), both, strict=True):
                h = layer.norm1(tokens + attended * m[0])
                new.append(layer.norm2(h + layer.linear2(layer.linear1(h).relu() * m[1]) * m[2]))
            x, y = new
        with thinned.version(0):
            out = net.generate_forward(genes, values, ask)
        plain = net.generate_forward(genes, values, ask)
    torch.testing.assert_close(out.generated, net.decoder(y)[0])
    assert (plain.generated - out.generated).abs().max() > 0.1, "afterwards the network is whole again"
    assert not net.value_encoder.dropout._forward_hooks


def test_thinning_ends_with_an_error_too():
    net = network()
    thinned = confidence.ThinnedNetworks(
        net, np.ones((1, 3, confidence.ThinnedNetworks.n_units(net.config)), bool), 0.5
    )
    with pytest.raises(KeyError), thinned.version(0):
        raise KeyError
    assert not any(layer.dropout._forward_hooks for layer in net.transformer_encoder.layers)


def test_the_spread_is_that_of_the_versions():
    net = network()
    genes, values, asked = question()
    keep = np.random.default_rng(1).random((3, 3, confidence.ThinnedNetworks.n_units(net.config))) > 0.2
    with torch.no_grad():
        done = kstep.complete(net, start(genes, values, keep=keep, rate=0.2), asked, 1, "dropout")
        thinned = confidence.ThinnedNetworks(net, keep, 0.2)
        found = []
        for number in range(3):
            with thinned.version(number):
                found.append(net.generate_forward(genes, values, asked.expand(3, -1)).generated.clamp(0, 50))
    torch.testing.assert_close(done.confidence, -torch.stack(found).var(0), atol=1e-2, rtol=1e-4)


# --- sampling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("if_expressed", [False, True])
def test_a_coin_decides(if_expressed):
    net = network(if_expressed=if_expressed)
    genes, values, asked = question()
    coin = torch.rand(3, 12)
    with torch.no_grad():
        point = kstep.complete(net, start(genes, values), asked, 1, "zero_prob")
        drawn = kstep.complete(net, start(genes, values, coin=coin), asked, 1, "zero_prob", sample=True)
        out = net.generate_forward(genes, values, asked.expand(3, -1))
    p, says = out.generated_zero_prob, out.generated
    if_on = says.clamp(1, 50) if if_expressed else (says.clamp(0, 50) / p).clamp(1, 50)
    torch.testing.assert_close(drawn.value, torch.where(coin < p, if_on, 0.0))
    torch.testing.assert_close(drawn.nonzero, point.nonzero)


@pytest.mark.parametrize(
    ("says", "p", "if_expressed", "mean", "if_on"),
    [
        (12.0, 0.4, False, 12.0, 30.0),
        (12.0, 0.4, True, 4.8, 12.0),
        (40.0, 0.5, False, 40.0, 50.0),
        (-3.0, 0.5, False, 0.0, 1.0),
        (-3.0, 0.5, True, 0.5, 1.0),
        (70.0, 1.0, True, 50.0, 50.0),
    ],
)
def test_the_expected_bin_and_the_bin_if_expressed(says, p, if_expressed, mean, if_on):
    config = tiny.network(if_expressed=if_expressed, zero_prob=True).config
    value, on = answers.expected(torch.tensor([[says]]), torch.tensor([[p]]), config)
    assert value.item() == pytest.approx(mean)
    assert on.item() == pytest.approx(if_on)
    value, on = answers.expected(torch.tensor([[says]]), None, config)
    assert value.item() == min(max(says, 0), 50)
    assert on is None


# --- the share of expressed genes -------------------------------------------------------------------


@given(st.lists(st.floats(0.001, 0.999), min_size=2, max_size=30), st.floats(0.02, 0.98))
def test_one_shift_of_the_log_odds_gives_the_share(chances, share):
    p = torch.tensor([chances, chances[::-1]], dtype=torch.float64)
    by = answers.odds_shift(p, torch.tensor([share, 0.5], dtype=torch.float64))
    moved = answers.Answer(p * 20, p, torch.full_like(p, 20.0)).shifted(by)
    np.testing.assert_allclose(moved.nonzero.mean(1), [share, 0.5], atol=1e-4)
    np.testing.assert_allclose(moved.value, moved.nonzero * 20)
    assert (torch.argsort(moved.nonzero[0], stable=True) == torch.argsort(p[0], stable=True)).all() or len(
        set(chances)
    ) < len(chances)


def test_the_share_holds_in_the_first_step_and_its_shift_after_it():
    net = network(if_expressed=True)
    genes, values, asked = question()
    share = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
    for measure, order in (("zero_prob", None), ("random", torch.rand(3, 12))):
        with torch.no_grad():
            once = kstep.complete(net, start(genes, values, share_on=share, order=order), asked, 1, measure)
            steps = kstep.complete(net, start(genes, values, share_on=share, order=order), asked, 3, measure)
        np.testing.assert_allclose(once.nonzero.mean(1), share, atol=1e-4)
        first = steps.known_at == 1
        torch.testing.assert_close(steps.nonzero[first], once.nonzero[first])
        torch.testing.assert_close(steps.value[first], once.value[first])
    plain = kstep.complete(net, start(genes, values), asked, 1, "zero_prob")
    odds = [
        torch.special.logit(x.nonzero)
        for x in (plain, kstep.complete(net, start(genes, values, share_on=share), asked, 1, "zero_prob"))
    ]
    moved = (odds[1] - odds[0]).detach()
    np.testing.assert_allclose(moved, moved[:, :1].expand(-1, 12), atol=1e-3)


def test_samples_of_one_prompt_share_the_first_look_and_then_part():
    net = network()
    genes, values, asked = question()
    rows = torch.tensor([0, 0, 1, 2, 2])
    coin = torch.rand(5, 12)
    with torch.no_grad():
        together = kstep.complete(net, start(genes, values, of_cell=rows, coin=coin), asked, 3, "zero_prob", True, True)
        apart = kstep.complete(net, start(genes[rows], values[rows], coin=coin), asked, 3, "zero_prob", True, True)
    torch.testing.assert_close(together.value, apart.value, atol=1e-3, rtol=0)
    assert torch.equal(together.known_at, apart.known_at)
    assert not torch.equal(together.value[0], together.value[1])
    assert together.cost["tokens"] < apart.cost["tokens"]
