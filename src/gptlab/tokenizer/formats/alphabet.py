"""GPT-2's alphabet: each of the 256 bytes as one printable character (Radford et al. 2019).

Hugging Face's files spell the tokens of a byte-level BPE in it.
"""


def _alphabet() -> tuple[str, ...]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(stand_ins)) for byte in range(256))


BYTE_TO_CHARACTER = _alphabet()

_SPELL = dict(enumerate(BYTE_TO_CHARACTER))
_NO_BYTE = "\uffff"
_READ = dict.fromkeys(range(256), _NO_BYTE) | {
    ord(character): chr(byte) for byte, character in enumerate(BYTE_TO_CHARACTER)
}


def spell(data: bytes) -> str:
    """Bytes in GPT-2's alphabet, one character for each."""
    return data.decode("latin-1").translate(_SPELL)


def spelled_bytes(token: str) -> bytes | None:
    """The bytes that a token spells; None where a character is not of the alphabet."""
    try:
        return token.translate(_READ).encode("latin-1")
    except UnicodeEncodeError:
        return None
