"""Conversations to ids: templates as data, and what renders them."""

from gptlab.tokenizer.chat.builtin import TEMPLATES
from gptlab.tokenizer.chat.encoder import ChatEncoder, Rendered
from gptlab.tokenizer.chat.find import find_template, template_in
from gptlab.tokenizer.chat.jinja import to_jinja
from gptlab.tokenizer.chat.template import TEMPLATE_FILE, ChatTemplate, Turn
from gptlab.tokenizer.chat.vocabulary import missing_tokens, with_template_tokens

__all__ = [
    "TEMPLATES",
    "TEMPLATE_FILE",
    "ChatEncoder",
    "ChatTemplate",
    "Rendered",
    "Turn",
    "find_template",
    "missing_tokens",
    "template_in",
    "to_jinja",
    "with_template_tokens",
]
