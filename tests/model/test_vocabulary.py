"""A larger vocabulary moves nothing that was there, and its new rows are like the old ones."""

import copy

import pytest
import tiktoken
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gptlab
from gptlab.checkpoint import add_special_tokens
from gptlab.config import ModelConfig
from gptlab.errors import ConfigError, TokenizerError
from gptlab.model import GPT, grow_vocabulary
from gptlab.testing import check_model
from gptlab.tokenizer import BPETokenizer, TiktokenTokenizer

CONFIG = ModelConfig(vocab_size=13, seq_len=16, embed_dim=8, num_layers=1, n_heads=2)
TOKENS = torch.tensor([[1, 5, 12, 3]])
TOKENIZER = BPETokenizer([(b"l", b"l"), (b"h", b"e")])


def make(dtype: torch.dtype = torch.float32, **changes: object) -> GPT:
    return GPT(CONFIG.replace(**changes), seed=0).to(dtype).eval()


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 20),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.booleans(),
)
def test_what_was_there_stays_bit_for_bit(new, tied, dtype, training):
    model = make(dtype, tie_embeddings=tied).train(training)
    before = copy.deepcopy(model.state_dict())
    grown = grow_vocabulary(model, 13 + new)
    assert grown.config == model.config.replace(vocab_size=13 + new)
    assert (grown.training, grown.embedding.weight.dtype) == (training, dtype)
    for name, tensor in grown.state_dict().items():
        rows = slice(None, 13) if name in ("embedding.weight", "lm_head.weight") else slice(None)
        assert torch.equal(tensor[rows], before[name])
        assert torch.equal(model.state_dict()[name], before[name])
        assert tensor.data_ptr() != model.state_dict()[name].data_ptr()
    assert grown.num_parameters() == GPT(grown.config).num_parameters()
    assert grown.embedding.weight.shape == (13 + new, 8)
    logits = grown(TOKENS)
    assert logits.shape == (1, 4, 13 + new)
    torch.testing.assert_close(logits[..., :13], model(TOKENS))


@pytest.mark.parametrize("tied", [True, False])
def test_a_grown_model_is_a_whole_one(tied):
    grown = grow_vocabulary(make(tie_embeddings=tied), 20)
    check_model(grown)
    assert grown.embedding(torch.tensor([19])).isfinite().all()
    assert repr(grown) == repr(GPT(grown.config).eval())


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_have_the_mean_and_the_covariance_of_the_old(tied):
    model = make(torch.float64, vocab_size=40, tie_embeddings=tied)
    mix = torch.randn(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        for matrix in model.embedding, *([] if tied else [model.lm_head]):
            matrix.weight.copy_(matrix.weight @ mix + mix[0])
    grown = grow_vocabulary(model, 40 + 100_000)

    def rows(of: GPT) -> torch.Tensor:
        return (
            of.embedding.weight if tied else torch.cat((of.embedding.weight, of.lm_head.weight), 1)
        )

    old, new = rows(model), rows(grown)[40:]
    covariance = torch.cov(old.T, correction=0)
    spread = covariance.diagonal().sqrt()
    # The deviation of a mean of 100,000 draws is 0.0032 of one draw's, that of a covariance 0.0045.
    assert ((new.mean(dim=0) - old.mean(dim=0)).abs() / spread).max() < 0.02
    error = (torch.cov(new.T) - covariance) / torch.outer(spread, spread)
    assert error.abs().max() < 0.03


def test_the_seed_decides_the_new_rows_and_nothing_else_does():
    torch.manual_seed(1)
    first = grow_vocabulary(make(), 20, seed=3).state_dict()
    torch.manual_seed(2)
    again, other = (grow_vocabulary(make(), 20, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in ("embedding.weight", "lm_head.weight"):
        assert not torch.equal(first[name][13:], other[name][13:])


def test_the_global_generator_is_left_alone():
    model = make()
    before = torch.get_rng_state()
    grow_vocabulary(model, 20)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_device_stays():
    grown = grow_vocabulary(make().to("meta"), 20)
    assert {tensor.device.type for tensor in grown.state_dict().values()} == {"meta"}


def test_frozen_rows_stay_frozen():
    model = make()
    model.embedding.weight.requires_grad_(False)
    grown = grow_vocabulary(model, 20)
    assert not grown.embedding.weight.requires_grad
    assert grown.lm_head.weight.requires_grad
    assert grown.lm_head.weight.is_leaf


def test_shrinking_is_refused():
    with pytest.raises(ConfigError, match=r"vocab_size is 12, but the model has 13 .* 13 or more"):
        grow_vocabulary(make(), 12)


@pytest.mark.parametrize("padding", [0, 1, 7])
def test_model_and_tokenizer_grow_together_and_come_back_from_a_folder(tmp_path, padding):
    model = make(vocab_size=TOKENIZER.vocab_size + padding, bias=True)
    grown, extended = gptlab.add_special_tokens(model, TOKENIZER, ["<USER>", "<BOT>"])
    assert grown.config.vocab_size == TOKENIZER.vocab_size + max(2, padding)
    user, bot = range(TOKENIZER.vocab_size, TOKENIZER.vocab_size + 2)
    prefer(grown, bot)
    gptlab.save(tmp_path / "chat", grown, extended)
    loaded, tokenizer = gptlab.load(tmp_path / "chat")
    ids = tokenizer.encode("<USER>hello", allowed_special="all")
    assert ids == [user, *TOKENIZER.encode("hello")]
    assert torch.equal(loaded(torch.tensor([ids])), grown(torch.tensor([ids])))
    greedy = gptlab.SamplingConfig(max_new_tokens=2, temperature=0)
    (new,) = gptlab.Generator(loaded, tokenizer).generate_ids([ids], greedy)
    assert new == [bot, bot]
    assert tokenizer.decode(new) == "<BOT><BOT>"


def prefer(model: GPT, token: int) -> None:
    """Make `model` predict `token` whatever comes before it."""
    with torch.no_grad():
        model.norm.weight.zero_()
        model.norm.bias.fill_(1)
        model.lm_head.weight[token] = 1


def test_the_seed_reaches_the_new_rows():
    model = make(vocab_size=TOKENIZER.vocab_size)
    first, again, other = (
        add_special_tokens(model, TOKENIZER, ["<USER>"], seed=seed)[0].embedding.weight[-1]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_tokenizer_of_others_can_not_be_extended():
    encoding = tiktoken.Encoding(
        "bytes",
        pat_str=".",
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={},
    )
    with pytest.raises(TokenizerError, match="TiktokenTokenizer can't be extended; only gptlab's"):
        add_special_tokens(make(vocab_size=256), TiktokenTokenizer(encoding), ["<USER>"])


def test_a_lone_string_is_no_list_of_tokens():
    with pytest.raises(TokenizerError, match=r"list of names: give \['日本'\]"):
        add_special_tokens(make(vocab_size=TOKENIZER.vocab_size), TOKENIZER, "日本")


def test_a_tokenizer_that_is_not_the_models_is_refused():
    with pytest.raises(ConfigError, match="tokenizer has 262 ids, but the model 261; give the"):
        add_special_tokens(make(vocab_size=261), TOKENIZER, ["<USER>"])
