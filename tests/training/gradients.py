"""The gradients of a run's first step, for tests."""

from dataclasses import replace

import torch

from gptlab.config import TrainConfig
from gptlab.training.session import open_session
from gptlab.training.step import train_step


class Keeper:
    """In an optimizer's place: keeps the gradients that it should follow."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.param_groups = model, [{}]

    def step(self) -> None:
        self.gradients = {
            name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None
        }


def gradients(config: TrainConfig, *, parts: int) -> dict[str, torch.Tensor]:
    """What the first step follows where its batch is computed in so many parts."""
    session = open_session(config)
    with session.loader:
        keeper = Keeper(session.model)
        train_step(replace(session, parts=parts, optimizers=(keeper,)), session.module)
    return keeper.gradients


def assert_parts_give_the_same(config: TrainConfig, *, parts: tuple[int, ...]) -> None:
    """Hold the gradients of a batch in parts against those of the whole."""
    whole = gradients(config, parts=1)
    for number in parts:
        for name, gradient in gradients(config, parts=number).items():
            bound = 1e-5 * max(1e-3, whole[name].abs().max())
            assert (gradient - whole[name]).abs().max() <= bound, name
