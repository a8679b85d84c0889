"""The templates that gptlab knows by name.

`chatml`: OpenAI's format, which Qwen, SmolLM and many others use. `llama2` and `llama3`: Meta's,
https://llama.com/docs/model-cards-and-prompt-formats. `zephyr`: of
https://arxiv.org/abs/2310.16944. `plain` is for any tokenizer that has an end of text.
"""

from collections.abc import Mapping
from types import MappingProxyType

from gptlab.tokenizer.chat.template import ChatTemplate, Turn


def _llama3(role: str) -> Turn:
    return Turn(before=f"<|start_header_id|>{role}<|end_header_id|>\n\n", after="<|eot_id|>")


def _chatml(role: str) -> Turn:
    return Turn(before=f"<|im_start|>{role}\n", after="<|im_end|>\n")


def _zephyr(role: str) -> Turn:
    return Turn(before=f"<|{role}|>\n", after="{eos}\n")


_ALL = (
    ChatTemplate(
        name="chatml",
        system=_chatml("system"),
        user=_chatml("user"),
        assistant=_chatml("assistant"),
        generation_prompt="<|im_start|>assistant\n",
        end="<|im_end|>",
        special_tokens=("<|im_start|>", "<|im_end|>"),
    ),
    ChatTemplate(
        name="llama2",
        system=Turn(before="{bos}[INST] <<SYS>>\n", after="\n<</SYS>>\n\n"),
        user=Turn(before="{bos}[INST] ", after=" [/INST]"),
        user_after_system=Turn(after=" [/INST]"),
        assistant=Turn(before=" ", after=" {eos}"),
        generation_prompt="",
        end="{eos}",
        strip=True,
    ),
    ChatTemplate(
        name="llama3",
        start="{bos}",
        system=_llama3("system"),
        user=_llama3("user"),
        assistant=_llama3("assistant"),
        generation_prompt="<|start_header_id|>assistant<|end_header_id|>\n\n",
        end="<|eot_id|>",
        special_tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        strip=True,
    ),
    ChatTemplate(
        name="zephyr",
        system=_zephyr("system"),
        user=_zephyr("user"),
        assistant=_zephyr("assistant"),
        generation_prompt="<|assistant|>\n",
        end="{eos}",
    ),
    ChatTemplate(
        name="plain",
        system=Turn(before="System: ", after="\n"),
        user=Turn(before="User: ", after="\n"),
        assistant=Turn(before="Assistant: ", after="{eos}\n"),
        generation_prompt="Assistant:",
        end="{eos}",
    ),
)

TEMPLATES: Mapping[str, ChatTemplate] = MappingProxyType({one.name: one for one in _ALL})
