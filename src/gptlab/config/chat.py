"""Which form conversations have."""

from gptlab.config.settings import Settings, Source

MESSAGES = "messages"
"""The field that conversations are in, where nobody names another."""


class ChatConfig(Settings):
    """Conversations in place of plain texts."""

    chat_template: Source | None = None
    """The texts are conversations of this form: chatml, llama2, llama3, zephyr, plain, a JSON file,
    or a model's folder; the loss is on what the assistant says."""
