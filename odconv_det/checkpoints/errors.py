"""What goes wrong with a weight file, in one line for its user."""

__all__ = ["CheckpointError", "MissingCheckpointError", "shown"]


class CheckpointError(RuntimeError):
    """A weight file cannot be used; the message says why and what to do."""


class MissingCheckpointError(CheckpointError):
    """A weight file is not there and could not be fetched."""


def shown(value: object, length: int = 80) -> str:
    """What a file says, fit for a line of a message.

    Of anything but text only its type: the ``repr`` of a small file's object can be
    without end.
    """
    if not isinstance(value, str):
        return f"a {type(value).__name__}"
    return "".join(c if c.isprintable() else "?" for c in value[:length])
