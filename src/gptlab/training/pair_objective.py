"""What training a Transformer minimises: the targets of sources, each token after the true ones."""

from torch import Tensor

from gptlab.training.loader import DeviceBatch
from gptlab.training.objective import Objective


class PairObjective(Objective):
    """A Transformer and what is minimised of it, as of a GPT: teacher forcing.

    Williams and Zipser 1989, https://doi.org/10.1162/neco.1989.1.2.270.
    """

    def states(self, batch: DeviceBatch) -> Tensor:
        """The hidden states from which targets are predicted, (B, T, D)."""
        return self.model.hidden_states(
            batch.sources, batch.inputs, source_lengths=batch.source_lengths
        )
