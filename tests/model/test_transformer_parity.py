"""With their weights, ours computes, learns and writes what the Transformers of others do."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from gptlab.config import SamplingConfig, TransformerConfig
from gptlab.generation.beam import beam_search
from gptlab.generation.engine import continue_rows
from gptlab.generation.rows import Row

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
peers = importlib.import_module("transformer_peers")

SHAPE = {
    "vocab_size": 23,
    "seq_len": 12,
    "embed_dim": 12,
    "num_layers": 2,
    "encoder_layers": 3,
    "n_heads": 2,
    "expansion_factor": 2,
}
PAPER = {"positions": "sinusoidal", "bias": True, "qk_norm": False, "share_embeddings": False}
BOUNDS = {torch.float64: 1e-11, torch.float32: 1e-5}


def torch_peer(place, activation):
    settings = {**SHAPE, **PAPER, "norm_place": place, "activation": activation}
    config = TransformerConfig(**settings, src_vocab_size=19)
    return lambda dtype: peers.torch_peer(config, dtype)


def huggingface_peer(make, **options):
    return lambda dtype, **shape: make({**SHAPE, **shape}, dtype, **options)


PEERS = {
    **{
        f"torch, {place}, {activation}": torch_peer(place, activation)
        for place in ("post", "pre")
        for activation in ("relu", "gelu")
    },
    "Marian": huggingface_peer(peers.marian_peer),
    "Marian, plain embedding": huggingface_peer(peers.marian_peer, scale=False),
    "M2M": huggingface_peer(peers.m2m_peer),
    "M2M, plain embedding": huggingface_peer(peers.m2m_peer, scale=False),
}


def batch(seed=0):
    """Sources, their lengths, targets and theirs; all filled up by more than the longest needs."""
    source = peers.rows([7, 3, 10], vocab_size=19, longest=11, seed=seed)
    return *source, *peers.rows([8, 2, 5], vocab_size=23, longest=9, seed=seed + 1)


def both(ours, peer, rows):
    source, lengths, target, _ = rows
    return ours(source, target, source_lengths=lengths), peer.logits(*rows)


def differences(found, expected):
    """Of each tensor, in units of its largest number, or a thousandth of the largest of all.

    The gradient of a key's bias is zero but for rounding: it moves all scores of a query alike.
    """
    assert found.keys() == expected.keys()
    largest = max(tensor.abs().max() for tensor in expected.values())
    return {
        name: ((found[name] - one).abs().max() / one.abs().max().clamp_min(largest / 1000)).item()
        for name, one in expected.items()
    }


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", PEERS)
def test_logits_loss_and_gradients(name, dtype):
    peer, rows = PEERS[name](dtype), batch()
    ours, bound = peer.ours(), BOUNDS[dtype]
    found, expected = both(ours, peer, rows)
    is_real = ~peers.filling(rows[2], rows[3])
    assert (found - expected)[is_real].abs().max() < bound * expected[is_real].abs().max()
    losses = [peers.loss_of(logits, *rows[2:]) for logits in (found, expected)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=bound)
    for loss in losses:
        loss.backward()
    gradients = peer.to_theirs({name: p.grad for name, p in ours.named_parameters()})
    wanted = {name: p.grad for name, p in peer.trained().items()}
    worst = differences(gradients, wanted)
    assert max(worst.values()) < 10 * bound, max(worst, key=worst.get)


@pytest.mark.parametrize("name", [name for name in PEERS if "torch" in name or name == "Marian"])
def test_five_steps_of_adamw_stay_together(name):
    peer = PEERS[name](torch.float64)
    ours = peer.ours()
    models = (ours, peer.model)
    optimizers = [torch.optim.AdamW(one.parameters(), lr=1e-3, eps=1e-4) for one in models]
    before = {name: p.detach().clone() for name, p in peer.trained().items()}
    for step in range(5):
        rows = batch(seed=2 * step)
        losses = [peers.loss_of(logits, *rows[2:]) for logits in both(ours, peer, rows)]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-10)
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    weights = peer.to_theirs(dict(ours.named_parameters()))
    after = {name: p.detach() for name, p in peer.trained().items()}
    assert max(differences(weights, after).values()) < 1e-9
    assert min((after[name] - one).abs().max() for name, one in before.items()) > 0


@pytest.mark.parametrize("name", ["Marian", "M2M, plain embedding"])
def test_there_and_back_every_weight_is_where_it_was(name):
    peer = PEERS[name](torch.float64)
    back = peer.to_theirs(peer.to_ours(peer.trained()))
    assert all(torch.equal(back[name], value) for name, value in peer.trained().items())


def generated(peer, source, **settings):
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=8,
        do_sample=False,
        decoder_start_token_id=peers.START,
        eos_token_id=peers.END,
        pad_token_id=peers.PAD,
        output_scores=True,
        return_dict_in_generate=True,
        **settings,
    )
    tokens = torch.tensor([source])
    found = peer.model.generate(
        tokens, attention_mask=torch.ones_like(tokens), generation_config=config
    )
    rows = [row.tolist()[1:] for row in found.sequences]
    rows = [row[: row.index(peers.END) + 1] if peers.END in row else row for row in rows]
    return rows, getattr(found, "sequences_scores", None)


# Both searches keep the likeliest live texts, let those end that come to the last token among
# the first `num_beams` of twice as many candidates, and rank by the mean log-probability, the last
# token included. `early_stopping=False` is what ours does: it goes on until no live text scores, as
# long as it is now, above the worst of `num_beams` that have ended. The token that transformers
# forces at the greatest length is left out. Where a search comes to that length, transformers
# leaves out texts that ours still lists behind the best ones.
@pytest.mark.parametrize(("name", "vocab_size", "lean"), [("Marian", 9, 0.0), ("M2M", 5, 1.0)])
def test_greedy_and_beam_search_write_what_transformers_does(name, vocab_size, lean):
    peer = PEERS[name](torch.float64, vocab_size=vocab_size)
    peers.drawn(peer.model, std=0.3, seed=1)
    if lean:
        # Towards the token that ends a text, which is else never among the likeliest.
        with torch.no_grad():
            end = peer.model.model.shared.weight[peers.END]
            peer.model.model.decoder.layer_norm.bias += lean * end
    ours, endings, lengths = peer.ours(), set(), set()
    for seed in range(12):
        tokens, _ = peers.rows([3 + seed % 6], vocab_size=vocab_size, seed=seed)
        source = [*tokens[0].tolist(), peers.END]
        config = SamplingConfig(max_new_tokens=8, temperature=0.0)
        row = Row([peers.START], config, source=source, eos_id=peers.END)
        for _ in continue_rows(ours, [row]):
            pass
        greedy = [*row.new_ids, *([peers.END] if row.ending == "eos" else [])]
        expected, _ = generated(peer, source, num_beams=1)
        assert greedy == expected[0]
        endings.add(row.ending)
        rows, scores = generated(
            peer,
            source,
            num_beams=3,
            num_return_sequences=3,
            length_penalty=1.0,
            early_stopping=False,
        )
        found = beam_search(
            ours, [peers.START], source=source, beams=3, max_new_tokens=8, eos_id=peers.END
        )
        assert list(found[0].ids) == rows[0]
        lengths.add(len(rows[0]))
        assert found[0].score == pytest.approx(scores[0].item(), rel=1e-5)
        if all(beam.ids[-1] == peers.END for beam in found):
            assert [list(beam.ids) for beam in found] == rows
            endings.add("all beams")
    assert endings >= {"eos", "all beams"}
    assert len(lengths) > 2
