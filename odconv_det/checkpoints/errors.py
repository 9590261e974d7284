"""What goes wrong with a weight file, in one line for its user."""

__all__ = ["CheckpointError", "MissingCheckpointError"]


class CheckpointError(RuntimeError):
    """A weight file cannot be used; the message says why and what to do."""


class MissingCheckpointError(CheckpointError):
    """A weight file is not there and could not be fetched."""
