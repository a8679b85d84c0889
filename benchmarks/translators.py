"""The same Transformer in gptlab and in torch.nn.Transformer, trained and used by either's own way.

A library has a function for each kind of work, which makes its `Translator`. `training` is of one
random batch, `pairs` of the shipped ones, `generation` of random sources.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from peer_transformer import DROPOUT, PAD, PeerTransformer, peer_batches
from torch import Tensor, nn
from transformer_weights import TORCH
from transformer_weights import Peer as Weights

if TYPE_CHECKING:
    from gptlab import Transformer
    from gptlab.data.pairs import PairDataset

# The arrangement of 2017, in gptlab's settings.
PAPER = {
    "positions": "sinusoidal",
    "norm_place": "post",
    "activation": "relu",
    "bias": True,
    "qk_norm": False,
}
_FILE = Path(__file__).parents[1] / "toy_data" / "tiny_pairs_train.tsv"
_SEQ_LEN, _RATE, _DECAY, _BETA = 128, 3e-4, 0.01, 0.999
START, END = 1, 2


@dataclass(frozen=True)
class Work:
    """What every library is to do."""

    shape: Mapping[str, int]
    batch_size: int
    length: int
    new_tokens: int
    precision: str
    is_compiled: bool
    has_own_parts: bool
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of products."""
        return torch.float32 if self.precision == "fp32" else torch.bfloat16

    def random_ids(self, *, seed: int) -> Tensor:
        """Ids that are no special token's, (B, T) int64, the same for every library."""
        generator = torch.Generator().manual_seed(seed)
        size = (self.batch_size, self.length)
        ids = torch.randint(END + 1, self.shape["vocab_size"], size, generator=generator)
        return ids.to(self.device)


class Batch(NamedTuple):
    """Sources (B, S), what the decoder reads and what it is to predict, (B, T) each."""

    sources: Tensor
    inputs: Tensor
    targets: Tensor

    @property
    def tokens(self) -> int:
        """How many are no filling, of the sources and the targets."""
        return int((self.sources != PAD).sum() + (self.targets != PAD).sum())


class Translator:
    """Something to do again and again, and what shows that it is done right.

    Args:
        work: Does it once; the tokens that it came to.
        check: The loss of a batch without dropout, or the ids that are generated.
        device: Where.
    """

    def __init__(
        self, work: Callable[[], int], check: Callable[[], Any], *, device: torch.device
    ) -> None:
        self.work, self.check, self._device = work, check, device

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()


class Gptlab:
    """gptlab, as gptlab-train and gptlab-generate use it."""

    @classmethod
    def training(cls, work: Work) -> Translator:
        """Steps on one batch of rows of one length."""
        from gptlab.training.loader import DeviceBatch

        use_memory_well(work)
        batch = random_batch(work)
        lengths = torch.full((work.batch_size,), work.length, device=work.device)
        weights = torch.ones(batch.targets.shape, device=work.device)
        device_batch = DeviceBatch(
            batch.inputs, batch.targets, weights, sources=batch.sources, source_lengths=lengths
        )
        return cls._trainer(work, lambda: (device_batch, batch.tokens), device_batch)

    @classmethod
    def pairs(cls, work: Work) -> Translator:
        """Steps on the shipped pairs, those of like length together."""
        from gptlab.data.pair_sampler import PairSampler
        from gptlab.training.loader import BatchLoader, DeviceBatch

        use_memory_well(work)
        dataset = read_dataset()
        sampler = PairSampler(dataset, batch_size=work.batch_size, seed=0, shuffle=True)
        loader = BatchLoader(sampler, device=work.device)
        steps = iter(range(1 << 40))

        def next_batch() -> tuple[DeviceBatch, int]:
            batch = loader.batch(next(steps))
            assert batch.source_lengths is not None
            assert batch.weights is not None
            return batch, int(batch.source_lengths.sum() + batch.weights.sum())

        held = next(dataset.batches(batch_size=work.batch_size))
        held_batch = DeviceBatch.of(held).each(lambda part: part.to(work.device))
        return cls._trainer(work, next_batch, held_batch)

    @classmethod
    def generation(cls, work: Work) -> Translator:
        """A Generator over ids."""
        import gptlab

        model = own_model(work).to(work.device, work.dtype)
        generator = gptlab.Generator(
            model, Ids(work.shape["vocab_size"]), compile="on" if work.is_compiled else "off"
        )
        config = gptlab.SamplingConfig(
            max_new_tokens=work.new_tokens, temperature=0, ignore_eos=True
        )
        sources = work.random_ids(seed=1).tolist()

        def generate() -> list[list[int]]:
            return generator.generate_ids(sources, config)

        return Translator(lambda: sum(map(len, generate())), generate, device=work.device)

    @staticmethod
    def _trainer(work: Work, next_batch: Callable[[], tuple[Any, int]], held: Any) -> Translator:
        from gptlab.config import OptimizerConfig
        from gptlab.training.optimizers import make_optimizers
        from gptlab.training.pair_objective import PairObjective
        from gptlab.training.precision import Arithmetic
        from gptlab.training.tuning import choose_attention

        model = own_model(work).to(work.device).train()
        arithmetic = Arithmetic(work.device, work.precision)
        rows = work.batch_size
        model.use_attention(choose_attention(model.config, arithmetic, rows=rows))
        objective = PairObjective(model, arithmetic=arithmetic)
        forward = torch.compile(objective, dynamic=False) if work.is_compiled else objective
        config = OptimizerConfig(learning_rate=_RATE, weight_decay=_DECAY, beta2=_BETA)
        optimizers = make_optimizers(model, config, products=work.dtype)

        def step() -> int:
            batch, tokens = next_batch()
            sums = forward(batch)
            update(model, optimizers, sums.objective / sums.weight)
            return tokens

        @torch.no_grad()
        def loss() -> float:
            model.eval()
            sums = objective(held)
            model.train()
            return float(sums.objective / sums.weight)

        return Translator(step, loss, device=work.device)


class Peer:
    """torch.nn.Transformer, as PyTorch's tutorial uses it."""

    @classmethod
    def training(cls, work: Work) -> Translator:
        """Steps on one batch of rows of one length."""
        batch = random_batch(work)
        return cls._trainer(work, lambda: (batch, batch.tokens), batch)

    @classmethod
    def pairs(cls, work: Work) -> Translator:
        """Steps on the shipped pairs, shuffled and filled up."""
        dataset = read_dataset()
        rows = (dataset.batch(np.array([number])) for number in range(len(dataset)))
        pairs = [
            tuple(torch.from_numpy(side[0]) for side in (row.sources, row.inputs, row.targets))
            for row in rows
        ]
        batches = peer_batches(pairs, batch_size=work.batch_size)

        def next_batch() -> tuple[Batch, int]:
            batch = Batch(*next(batches))
            return Batch(*(part.to(work.device) for part in batch)), batch.tokens

        held = next(dataset.batches(batch_size=work.batch_size))
        # A dataset fills up with the id that is PAD.
        sides = map(torch.from_numpy, (held.sources, held.inputs, held.targets))
        return cls._trainer(work, next_batch, Batch(*(side.to(work.device) for side in sides)))

    @classmethod
    def generation(cls, work: Work) -> Translator:
        """The loop of the tutorial, over all tokens so far."""
        model = peer_model(work).to(work.device, work.dtype).eval()
        sources = work.random_ids(seed=1)

        @torch.no_grad()
        def generate() -> list[list[int]]:
            return model.greedy(sources, start=START, new_tokens=work.new_tokens).tolist()

        return Translator(lambda: sum(map(len, generate())), generate, device=work.device)

    @staticmethod
    def _trainer(
        work: Work, next_batch: Callable[[], tuple[Batch, int]], held: Batch
    ) -> Translator:
        model = peer_model(work).to(work.device).train()
        forward = torch.compile(model, dynamic=False) if work.is_compiled else model
        loss_function = nn.CrossEntropyLoss(ignore_index=PAD)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=_RATE, betas=(0.9, _BETA), weight_decay=_DECAY, fused=True
        )

        def loss_of(batch: Batch, network: Callable[..., Tensor]) -> Tensor:
            enabled = work.precision != "fp32"
            with torch.autocast(work.device.type, torch.bfloat16, enabled=enabled):
                logits = network(batch.sources, batch.inputs)
                return loss_function(logits.flatten(0, 1), batch.targets.flatten())

        def step() -> int:
            batch, tokens = next_batch()
            update(model, [optimizer], loss_of(batch, forward))
            return tokens

        def loss() -> float:
            # Without gradients it takes a way that knows no autocast.
            model.eval()
            value = loss_of(held, model).item()
            model.train()
            return value

        return Translator(step, loss, device=work.device)


LIBRARIES = {"gptlab": Gptlab, "torch": Peer}


class Ids:
    """Stands for a tokenizer where ids are all that comes and goes."""

    bos_id, eos_id = START, END

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size


def own_model(work: Work) -> "Transformer":
    """gptlab's, of the same first weights whenever it is made."""
    from gptlab import Transformer
    from gptlab.config import TransformerConfig

    config = TransformerConfig(
        **work.shape,
        seq_len=_SEQ_LEN,
        dropout=DROPOUT,
        share_embeddings=False,
        **({} if work.has_own_parts else PAPER),
    )
    return Transformer(config, seed=0)


def peer_model(work: Work) -> PeerTransformer:
    """The peer's, with the weights of gptlab's."""
    model = PeerTransformer(
        vocab_size=work.shape["vocab_size"],
        width=work.shape["embed_dim"],
        layers=work.shape["num_layers"],
        heads=work.shape["n_heads"],
    )
    own = own_model(work)
    weights = Weights(model, own.config, TORCH, model).to_theirs(own.state_dict())
    # The norms behind its encoder and its decoder change nothing: what they read is of a norm.
    model.load_state_dict(weights, strict=False)
    return model


def use_memory_well(work: Work) -> None:
    """What a session of gptlab does before its first tensor."""
    from gptlab.training.allocation import keep_freed_memory, prefer_huge_pages

    prefer_huge_pages()
    if work.device.type == "cpu":
        keep_freed_memory()


def random_batch(work: Work) -> Batch:
    """The same for every library."""
    return Batch(*(work.random_ids(seed=seed) for seed in (1, 2, 3)))


def read_dataset() -> "PairDataset":
    """The shipped pairs as ids of a tokenizer of their own; PAD, the byte 0, is none of them."""
    import gptlab
    from gptlab.corpus.pairs import PairFields, read_pairs
    from gptlab.data.pairs import PairDataset

    pairs = read_pairs([_FILE], fields=PairFields())
    texts: Iterator[str] = (text for pair in pairs for text in (pair.source, pair.target))
    tokenizer = gptlab.train_bpe(texts=texts, vocab_size=1000)
    return PairDataset(pairs, tokenizer, tokenizer, length=_SEQ_LEN)


def update(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], loss: Tensor) -> None:
    """What follows a forward pass in a step."""
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
