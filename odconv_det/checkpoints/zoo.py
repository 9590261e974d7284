"""The authors' files under ``odconv://`` addresses.

Files lie in ``$ODCONV_HOME`` (by default ``odconv_det`` in the user's cache folder).
The release hosts them on Google Drive, without hashes.
"""

from __future__ import annotations

import os
from pathlib import Path

from odconv_det.checkpoints.download import SCHEMES, fetch
from odconv_det.checkpoints.errors import CheckpointError, MissingCheckpointError
from odconv_det.checkpoints.files import read_tensors, whole_file

__all__ = ["DETECTORS", "IMAGENET", "SCHEME", "home", "is_remote", "locate"]

SCHEME = "odconv://"

# Google Drive ids of the release (OSVAI/ODConv, README).
IMAGENET = {
    "resnet18": "10eYio_FYm0LpalEJ8PkW4_twXGcxF8Of",
    "resnet18_1x": "1AxCKAHJve3fbe2SnvoHsSucNvjv5Dxow",
    "resnet18_4x": "1Krsaa0fBKluFCyO7nmg-R9LlsoSUjJj2",
    "resnet50": "1dFMbV1QkKQOain1_4JhAuHAW9Xq_ZzCS",
    "resnet50_1x": "1Aqwv6uQ9iI8a8Z5vjqmKuSTar0U8gfVJ",
    "resnet50_4x": "1uO774twnIYLiDV2BAsVM136k4EAhs6oh",
    "resnet101": "1ECAeSTM7Z9DLe4LbWkUsd-WZqoLUYad2",
    "resnet101_1x": "1PJNcrw2RP9xG-18gw2NE93mwVmQBIbeM",
    "resnet101_2x": "1ph0woQfR2Ut2JfV4RKQPB6tAXf9pZmTo",
    "mobilenetv2_100": "1bcqVXDLqHW3cid4eMZ_992QHBRMalrMZ",
    "mobilenetv2_100_1x": "1Du_AH_pvtFE8ABg_FLjtPccVypw5AajU",
    "mobilenetv2_100_4x": "1HfwoBWOGsiiuhoOyetoQeJ8iXrCi5lJv",
    "mobilenetv2_075": "1skF04XZ-chidb9ryQy5AnogCZ4PCC9P1",
    "mobilenetv2_075_1x": "1g3_OppE5jXW5eO7jy2vbw9mfVqNz-_Tk",
    "mobilenetv2_075_4x": "1bGloR4WUAsGEQpbmqLO-hShIcoV0ut42",
    "mobilenetv2_050": "18ehlfZCMKSB-BNFhzyTFg0UCceaX76-t",
    "mobilenetv2_050_1x": "137qpjBdLjQ6MNNQ-YbqgWZeTEAq7AM_2",
    "mobilenetv2_050_4x": "1x2bB8GxNAKfvO-_MX-9Z9mqABBfHkYed",
}
DETECTORS = {
    "faster-rcnn_r50": "1JoRu74q3qE_L3jCltN6Y_Z4M_Bvc-O9U",
    "faster-rcnn_r50_4x": "1fMHVWL6blFMw1ZzT35KPb1hnOYVy-8dH",
    "faster-rcnn_mobilenetv2": "1XMHmOg-CclIc9XiuEOod_3bnamRCBCOa",
    "faster-rcnn_mobilenetv2_4x": "1vWtQpQ-KK_-Tfr9vXOyVh2POWkhCpAvi",
    "mask-rcnn_r50": "1dz7HecPGQBSCYUefCPo3acmh9K7g0H9P",
    "mask-rcnn_r50_4x": "1NZKfB0dttJSmnlNbCVPc1OIIhkc2OjMe",
    "mask-rcnn_mobilenetv2": "1OtZvIP-8ktdQsmI3Pss6PSEQvRh5NAgg",
    "mask-rcnn_mobilenetv2_4x": "1p_gqy6xIquEZtu1TEuWKid-0gD2Jv2Z4",
}
_SUFFIXES = (".pth.tar", ".pth", ".safetensors")


def home() -> Path:
    """The folder of the files: ``$ODCONV_HOME``, else in the user's cache folder."""
    if folder := os.environ.get("ODCONV_HOME"):
        return Path(folder).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "odconv_det"


def is_remote(address: str) -> bool:
    """Whether :func:`locate` may have to download the file."""
    return address.startswith((SCHEME, *SCHEMES))


def locate(address: str, *, download: bool = True) -> Path:
    """The file behind a path, an ``odconv://`` or an ``https://...#sha256=`` address.

    A remote file that is not there is downloaded, unless ``download`` is false.

    Raises:
        MissingCheckpointError: if the file is not there and cannot be downloaded.
        CheckpointError: for an unknown name, an address without a hash and another kind
            of address.
    """
    if address.startswith(SCHEMES):
        return fetch(address, home() / "downloads", download=download)
    if not address.startswith(SCHEME):
        if "://" in address:
            raise CheckpointError(
                f"{address} is refused, since nothing says what it should hold: "
                "download the file yourself and give its path, or an address "
                f"'https://...#sha256=...' or {SCHEME}..."
            )
        path = Path(os.path.expanduser(address))
        if not os.path.isfile(path):  # Path.is_file raises for a path that is too long
            raise MissingCheckpointError(f"no weight file at {path}")
        return path
    name = address.removeprefix(SCHEME)
    drive_id = (IMAGENET | DETECTORS).get(name)
    if drive_id is None:
        raise CheckpointError(
            f"unknown weights {address}: choose from "
            f"{', '.join([*IMAGENET, *DETECTORS])}"
        )
    candidates = [home() / f"{name}{suffix}" for suffix in _SUFFIXES]
    for path in candidates:
        if path.is_file():
            return path
    if not download:
        raise MissingCheckpointError(f"{address} is not at {candidates[0]}")
    return _download(address, drive_id, candidates[0])


def _download(address: str, drive_id: str, path: Path) -> Path:
    page = f"https://drive.google.com/file/d/{drive_id}/view"
    by_hand = f"get {page} and save it as {path}"
    try:
        import gdown
    except ImportError:
        raise MissingCheckpointError(
            f"{address} is not there and gdown is not installed: `pip install gdown`, "
            f"or {by_hand}"
        ) from None
    try:
        with whole_file(path) as part:
            gdown.download(id=drive_id, output=str(part), quiet=False)
            read_tensors(part)  # a page that says "quota exceeded" downloads as well
    except Exception as error:  # gdown and requests raise many kinds
        raise MissingCheckpointError(
            f"downloading {address} failed ({type(error).__name__}): {by_hand}"
        ) from error
    return path
