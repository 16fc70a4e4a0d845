"""What is needed in Google Colab? The set-up cell of a notebook calls this after it has installed the course."""

from __future__ import annotations

import importlib
import os

import torch

from hyperfit_course import __version__
from hyperfit_course.artifacts import CACHE_VARIABLE
from hyperfit_course.assets import fetch
from hyperfit_course.models import best_device

DRIVE_FOLDER = "/content/drive/MyDrive/hyperfit-course"  #: Of the models that are kept in a reader's Google Drive.


def set_up(made_for: str, computing: str | None, keep_in_drive: bool = False) -> None:
    """Fetch the model, and say on what the notebook will compute, and for how long.

    Args:
        made_for: the version of the course that the notebook belongs to.
        computing: how long it takes, in words; nothing where that is not known.
        keep_in_drive: keep the model, and what is trained, in the reader's Google Drive.

    Raises:
        AssetError, CacheError: the model cannot be fetched or kept.
    """
    if keep_in_drive:
        importlib.import_module("google.colab.drive").mount("/content/drive")
        os.environ[CACHE_VARIABLE] = DRIVE_FOLDER
    fetch("model")
    if made_for.split(".")[:2] != __version__.split(".")[:2]:
        print(
            f"This notebook was made for version {made_for} of the course, and {__version__} is installed. If "
            "something does not work, open the notebook anew from the book."
        )
    device = best_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"no GPU, {os.cpu_count()} processor cores"
    print(f"The course is ready. Device: {name}.")
    if computing:
        print(f"Computing: {computing}, without a GPU. With one it is less: Runtime, Change runtime type, T4 GPU.")
