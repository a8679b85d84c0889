"""An encoder alone: it reads both ways, and filling comes to nothing."""

import pytest
import torch

import gptlab
from gptlab.config import HeadSettings, ModelConfig
from gptlab.errors import ConfigError
from gptlab.model import Encoder
from gptlab.model.heads import add_head

SHAPE = {"vocab_size": 280, "seq_len": 12, "embed_dim": 16, "num_layers": 2, "n_heads": 4}
TOKENIZER = gptlab.train_bpe(texts=["the cat sat on the mat. " * 9], vocab_size=262)


def make(**changes):
    return Encoder(ModelConfig(**{**SHAPE, **changes}), seed=0).double().eval()


@pytest.mark.parametrize("backend", ["reference", "sdpa", "blocked"])
@pytest.mark.parametrize("positions", ["rope", "sinusoidal", "learned"])
def test_every_token_sees_all_others_and_no_filling(backend, positions):
    model = make(positions=positions, attention=backend, norm_place="post")
    tokens = torch.randint(280, (1, 7), generator=torch.Generator().manual_seed(0))
    logits = model(tokens)
    assert logits.shape == (1, 7, 280)
    for place in range(7):
        edited = tokens.clone()
        edited[0, place] = (edited[0, place] + 1) % 280
        moved = (model(edited) - logits).abs().amax(dim=-1)[0]
        assert (moved > 1e-9).all()
    for length in (8, 12):
        longer = torch.randint(280, (2, length))
        longer[0, :7] = tokens[0]
        found = model(longer, lengths=torch.tensor([7, length]))
        torch.testing.assert_close(found[0, :7], logits[0])
        torch.testing.assert_close(
            model.logits(model.read_texts(longer, torch.tensor([7, length]))), found
        )
        torch.testing.assert_close(found[1:], model(longer[1:]))


def test_only_positions_tell_places_apart():
    tokens = torch.tensor([[1, 2, 3, 4]])
    without = make(positions="none")
    torch.testing.assert_close(without(tokens.flip(1)), without(tokens).flip(1))
    assert not torch.allclose(make()(tokens.flip(1)), make()(tokens).flip(1))


def flat(answer):
    """All numbers of an answer."""
    if isinstance(answer, dict | list):
        parts = answer.values() if isinstance(answer, dict) else answer
        return [number for part in parts for number in flat(part)]
    return [answer] if isinstance(answer, float) else []


@pytest.mark.parametrize("head", ["sequence_classification", "token_classification", "embedding"])
def test_a_head_stands_on_it_and_texts_do_not_come_to_each_other(head, tmp_path):
    backbone = make()
    labels = () if head == "embedding" else ("a", "b")
    add_head(backbone, HeadSettings(head=head, labels=labels), seed=0)
    model = gptlab.ModelWithHead(backbone, TOKENIZER)
    texts = ["the cat", "the cat sat on the", "mat"]
    together = model.predict(texts)
    model.save(tmp_path / "model")
    again = gptlab.ModelWithHead.load(tmp_path / "model")
    assert isinstance(again.backbone, Encoder)
    assert [flat(x) for x in again.predict(texts)] == [flat(x) for x in together]
    for text, answer in zip(texts, together, strict=True):
        assert flat(model.predict([text])[0]) == pytest.approx(flat(answer), abs=1e-9)


def test_it_trains_to_fill_in_what_is_masked():
    model = make().train()
    tokens = torch.tensor([[5, 6, 7, 8, 9, 10]]).repeat(6, 1)
    masked = tokens.clone().fill_diagonal_(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        logits = model(masked).diagonal().T
        loss = torch.nn.functional.cross_entropy(logits, tokens[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_what_it_can_not_do_is_said_in_a_line():
    model = make()
    with pytest.raises(
        ConfigError, match=r"^a network of architecture 'encoder' reads texts and w"
    ):
        gptlab.Generator(model, TOKENIZER)
    with pytest.raises(
        ConfigError, match=r"^13 tokens exceed the model's seq_len of 12; give fewer"
    ):
        model(torch.zeros(1, 13, dtype=torch.int64))
    with pytest.raises(
        ConfigError, match=r"^lengths are \(2,\), but 1 rows came; give one for each"
    ):
        model(torch.zeros(1, 3, dtype=torch.int64), lengths=torch.tensor([3, 3]))
    with pytest.raises(
        ConfigError, match=r"^window is 3, but an encoder looks both ways; leave it o"
    ):
        make(window=3)
