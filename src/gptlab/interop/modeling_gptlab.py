"""A model of gptlab as transformers computes it; gptlab must be installed.

AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from gptlab.config import ModelConfig
from gptlab.model import GPT


class GptlabConfig(PretrainedConfig):
    """The settings of a model of gptlab's, in one entry that has its name."""

    model_type = "gptlab"

    def __init__(self, gptlab: dict[str, Any] | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.gptlab = gptlab or {}


class GptlabForCausalLM(PreTrainedModel, GenerationMixin):
    """A GPT of gptlab's with the face of transformers; it keeps no cache."""

    config_class = GptlabConfig
    base_model_prefix = "model"

    def __init__(self, config: GptlabConfig) -> None:
        super().__init__(config)
        self.model = GPT(ModelConfig(**config.gptlab))
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        if isinstance(module, GPT):
            # What no file holds is made anew on the device where the model is.
            module._apply(lambda tensor: tensor)

    def get_input_embeddings(self) -> torch.nn.Module:
        """The rows of the ids."""
        embedding: torch.nn.Module = self.model.embedding
        return embedding

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_more: Any
    ) -> dict[str, Any]:
        """All that was read so far, each time."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_more: Any,
    ) -> CausalLMOutput:
        """Logits (B, T, V), and with `labels` (B, T), -100 where none, the loss."""
        apart: dict[str, Tensor] = {}
        if attention_mask is not None and not bool(attention_mask.all()):
            # Padding is a text of its own, which the other one does not see.
            positions = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
            apart = {"documents": attention_mask.long(), "positions": positions}
        logits = self.model(input_ids, **apart)
        loss = None
        if labels is not None:
            predicted, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            loss = F.cross_entropy(predicted.float(), targets, ignore_index=-100)
        return CausalLMOutput(loss=loss, logits=logits)
