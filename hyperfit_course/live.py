"""What was written in the browser, for measuring in Python: the file that the page "Write with it" saves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hyperfit_course.metrics import ngram_repetition, type_token_ratio


class LiveError(ValueError):
    """A file is not one that the page has saved; the message says what to do."""


@dataclass(frozen=True)
class LiveText:
    """A prompt and what two models wrote after it."""

    prompt: str
    prompt_tokens: list[int]
    settings: dict[str, Any]
    """``arm``, ``strength`` of its adapters, ``sample``, ``temperature``, ``penalty`` and ``seed``."""
    tokens: dict[str, list[int]]
    """Token ids by model, ``base`` and ``hyperfitted``."""
    texts: dict[str, str]
    steps: pd.DataFrame
    """One row a candidate: ``model``, ``step`` (from 0), ``written`` (the token that was), ``entropy`` (nats),
    ``place`` (from 1), ``token``, ``p`` (with the settings' temperature and penalty) and ``base_rank``."""

    def measures(self) -> pd.DataFrame:
        """Type-token ratio and bigram repetition, one row a model."""
        rows = {
            name: {"ttr": type_token_ratio(ids), "bigram_repetition": ngram_repetition(ids, 2)}
            for name, ids in self.tokens.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index")


def load(path: str | Path) -> LiveText:
    """Read a file that the page "Write with it" has saved.

    Raises:
        LiveError: there is no such file, it cannot be read, or it is another one.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != "hyperfit-live" or data["version"] != 1:
            raise KeyError("format")
        return _read(data)
    except FileNotFoundError as error:
        raise LiveError(
            f"There is no file {path}: press 'Save for the notebook' on the page 'Write with it', and give its path."
        ) from error
    except OSError as error:
        raise LiveError(
            f"{path} cannot be read ({error.strerror}): give the path of a file that the page saved."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise LiveError(
            f"{path} is no file of the page 'Write with it', or of another version of it: save it there again."
        ) from error


def _read(data: dict[str, Any]) -> LiveText:
    rows = [
        {
            "model": model["name"],
            "step": number,
            "written": step["token"],
            "entropy": step["entropy"],
            "place": place,
            "token": each["token"],
            "p": each["p"],
            "base_rank": each["rank"],
        }
        for model in data["models"]
        for number, step in enumerate(model["steps"])
        for place, each in enumerate(step["top"], start=1)
    ]
    return LiveText(
        prompt=data["prompt"]["text"],
        prompt_tokens=data["prompt"]["tokens"],
        settings=data["settings"],
        tokens={model["name"]: model["tokens"] for model in data["models"]},
        texts={model["name"]: model["text"] for model in data["models"]},
        steps=pd.DataFrame(rows),
    )
