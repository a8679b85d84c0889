"""What can go wrong by a user's hand, as one small hierarchy.

Every message is one line that names the thing, the value and the way out. Command lines print
it to standard error and exit with code 2.
"""


class GptlabError(Exception):
    """Base of every error that gptlab raises on purpose."""


class ConfigError(GptlabError):
    """A setting is unknown, out of range, or does not fit another one."""


class TokenizerError(GptlabError):
    """A tokenizer can't be trained, loaded, or used for these ids."""


class DataError(GptlabError):
    """A corpus or a prepared dataset is missing, unreadable, damaged or too small."""


class CheckpointError(GptlabError):
    """A checkpoint is missing, damaged, or does not fit what is asked of it."""


class ExportError(CheckpointError):
    """A model can't be written in a format of others, or is not the same there."""


class BackendError(GptlabError):
    """A named attention backend, device or precision can't serve here."""


class TrainingError(GptlabError):
    """A run can't go on: its numbers are no longer finite."""


class GenerationError(GptlabError):
    """A text can't be generated."""


class QueueFullError(GenerationError):
    """As many texts are waiting to be generated as may."""


class WorkerError(GptlabError):
    """A process that shared the work was killed."""


class PeerError(GptlabError):
    """Another process of the job has failed, and says why."""
