"""What training an encoder minimises: tokens that are hidden from it, found from both sides.

Letters: B batch, T length, P places of hidden tokens, D model width.
"""

import torch
from torch import Tensor

from gptlab.training.loader import DeviceBatch
from gptlab.training.objective import Objective


class MaskedObjective(Objective):
    """An encoder and what is minimised of it: -log p of each hidden token.

    Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 3.1.
    """

    def states(self, batch: DeviceBatch) -> Tensor:
        """The hidden states from which targets are predicted, (B, P, D).

        Logits are computed of these alone, a share of all tokens.
        """
        assert batch.places is not None
        states_BTD = self.model.hidden_states(batch.inputs, lengths=batch.lengths)
        rows_B1 = torch.arange(len(states_BTD), device=states_BTD.device).unsqueeze(-1)
        return states_BTD[rows_B1, batch.places]
