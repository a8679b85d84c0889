"""A template in the language of Hugging Face's libraries, for their `tokenizer_config.json`."""

from gptlab.tokenizer.chat.template import BOS, EOS, ChatTemplate, Turn

_VARIABLES = {BOS: "bos_token", EOS: "eos_token"}


def to_jinja(template: ChatTemplate) -> str:
    """The `chat_template` with which transformers renders as `template` says."""
    content = "message['content'] | trim" if template.strip else "message['content']"
    user = _turn(template, template.user, content)
    if template.user_after_system is not None:
        after = _turn(template, template.user_after_system, content)
        user = f"{{% if state.former == 'system' %}}{after}{{% else %}}{user}{{% endif %}}"
    start = _output(template, template.start)
    former = "none"
    if template.default_system is not None:
        said = template.default_system.strip() if template.strip else template.default_system
        default = _turn(template, template.system, _quoted(said))
        start += f"{{% if messages[0]['role'] != 'system' %}}{default}{{% endif %}}"
        former = "'system'"
    return "".join(
        [
            f"{{% set state = namespace(former={former}) %}}",
            start,
            "{% for message in messages %}",
            "{% if message['role'] == 'system' %}",
            _turn(template, template.system, content),
            "{% elif message['role'] == 'user' %}",
            user,
            "{% elif message['role'] == 'assistant' %}",
            _turn(template, template.assistant, content),
            "{% else %}",
            "{{ raise_exception('unknown role ' + message['role']) }}",
            "{% endif %}",
            "{% set state.former = message['role'] %}",
            "{% endfor %}",
            "{% if add_generation_prompt %}",
            _output(template, template.generation_prompt),
            "{% endif %}",
        ]
    )


def _turn(template: ChatTemplate, turn: Turn, content: str) -> str:
    parts = [*_terms(template, turn.before), f"({content})", *_terms(template, turn.after)]
    return f"{{{{ {' + '.join(parts)} }}}}"


def _output(template: ChatTemplate, text: str) -> str:
    terms = _terms(template, text)
    return f"{{{{ {' + '.join(terms)} }}}}" if terms else ""


def _terms(template: ChatTemplate, text: str) -> list[str]:
    return [_VARIABLES.get(part) or _quoted(part) for part, _ in template.tokens_in(text)]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
