"""Every setting of gptlab, as frozen models that never import torch."""

from gptlab.config.chat import ChatConfig
from gptlab.config.fine_tuning import FineTuneConfig, LoRA
from gptlab.config.heads import HeadConfig, HeadSettings
from gptlab.config.learning import LossConfig, OptimizerConfig
from gptlab.config.model import ModelConfig
from gptlab.config.preparation import FilterConfig, PrepareConfig, WindowConfig
from gptlab.config.presets import PRESETS
from gptlab.config.quantization import Quantization
from gptlab.config.sampling import SamplingConfig
from gptlab.config.settings import Settings, nearest, preset
from gptlab.config.training import DatasetConfig, TrainConfig
from gptlab.config.transformer import TransformerConfig

__all__ = [
    "PRESETS",
    "ChatConfig",
    "DatasetConfig",
    "FilterConfig",
    "FineTuneConfig",
    "HeadConfig",
    "HeadSettings",
    "LoRA",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PrepareConfig",
    "Quantization",
    "SamplingConfig",
    "Settings",
    "TrainConfig",
    "TransformerConfig",
    "WindowConfig",
    "nearest",
    "preset",
]
