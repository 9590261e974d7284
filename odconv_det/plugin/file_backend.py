"""A file backend of MMEngine's whose files appear whole or not at all."""

from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from odconv_det.checkpoints.errors import CheckpointError
from odconv_det.checkpoints.files import whole_file
from odconv_det.plugin.errors import NO_ROOM

__all__ = ["WHOLE_FILES", "WholeFileBackend"]

WHOLE_FILES = "whole_files"


class WholeFileBackend(LocalBackend):
    """The local disk, written by way of a temporary file in the same folder.

    The content is on the disk before the file gets its name, so that neither kill -9
    nor a full disk nor a power cut leaves a part of it there.

    Raises:
        CheckpointError: if the disk takes no more; what was there before still is.
    """

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        self._write(Path(filepath), obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        self._write(Path(filepath), obj.encode(encoding))

    def _write(self, path: Path, content: bytes | memoryview) -> None:
        try:
            with whole_file(path) as part:
                part.write_bytes(content)
        except OSError as error:
            mend = "see to the folder"
            if error.errno in NO_ROOM:
                mend = f"make room for {len(content) / 2**20:.0f} MiB there"
            raise CheckpointError(
                f"{path} could not be written ({error.strerror}), earlier checkpoints "
                f"are untouched: {mend} and go on with --resume"
            ) from error


register_backend(WHOLE_FILES, WholeFileBackend, force=True)
