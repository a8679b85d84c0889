"""A larger vocabulary for a model that is trained already.

Letters: N new rows, V old vocabulary, D model width.
"""

import copy

import torch
from torch import Tensor, nn

from gptlab.errors import ConfigError
from gptlab.model.stack import AnyStack, require_alone


def grow_vocabulary(model: AnyStack, vocab_size: int, *, seed: int = 0) -> AnyStack:
    """A copy of `model` with rows for more ids at the end of its embedding and its head.

    Old rows stay as they are, and so do the logits of old ids. New rows are drawn from the normal
    distribution with the mean and the covariance of the old ones: rows near zero would give
    logits near zero, which may be far above those of all old ids (Hewitt 2021, "Initializing New
    Word Embeddings for Pretrained Language Models",
    https://nlp.stanford.edu/~johnhew/vocab-expansion.html). A new id's rows in embedding and head
    are drawn together, and keep to the covariance between the two as well.

    Args:
        model: Left as it is; the copy has its device, numbers and mode.
        vocab_size: Ids of the copy.
        seed: Seed of the new rows, the same on every device up to rounding.

    Raises:
        ConfigError: `vocab_size` is less than the model's, or the model is quantized or an
            encoder-decoder.
    """
    require_alone(model, "get a larger vocabulary")
    if model.quantization is not None:
        raise ConfigError(
            f"the model has {model.quantization.bits} bits a weight, and such a one does not grow; "
            "use the one it was made from"
        )
    old_size = model.config.vocab_size
    if vocab_size < old_size:
        raise ConfigError(
            f"vocab_size is {vocab_size}, but the model has {old_size} and can only grow; "
            f"give {old_size} or more"
        )
    grown = copy.deepcopy(model)
    grown.config = model.config.replace(vocab_size=vocab_size)
    generator = torch.Generator().manual_seed(seed)
    noise_NV = torch.randn(vocab_size - old_size, old_size, generator=generator)
    grown.embedding.weight = _with_rows(model.embedding.weight, noise_NV)
    grown.embedding.num_embeddings = vocab_size
    if not model.config.tie_embeddings:
        grown.lm_head.weight = _with_rows(model.lm_head.weight, noise_NV)
        grown.lm_head.out_features = vocab_size
    return grown


@torch.no_grad()
def _with_rows(weight_VD: Tensor, noise_NV: Tensor) -> nn.Parameter:
    """`weight_VD` and, below it, one row per row of standard normal noise."""
    precise = torch.promote_types(weight_VD.dtype, torch.float32)
    rows_VD = weight_VD.to(precise)
    mean_D = rows_VD.mean(dim=0)
    # A sum of the centred rows, weighted by noise / sqrt(V), has just their covariance.
    weights_NV = noise_NV.to(rows_VD) / len(rows_VD) ** 0.5
    new_ND = (mean_D + weights_NV @ (rows_VD - mean_D)).to(weight_VD.dtype)
    return nn.Parameter(torch.cat((weight_VD, new_ND)), requires_grad=weight_VD.requires_grad)
