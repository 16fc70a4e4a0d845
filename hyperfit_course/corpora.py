"""Trained on what, tested on what? Texts, split once into parts that share nothing, and cut into blocks of tokens.

A corpus is a plain dictionary: ``{"train": [...], "validation": [...], "prompts": [...]}``, each a list of texts.
A text belongs to one part only, and so does every block that is cut from it.
"""

from __future__ import annotations

import bz2
import json
import random
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hyperfit_course.artifacts import artifact
from hyperfit_course.assets import ASSETS, fetch

SPLITS = ("train", "validation", "prompts")
CORPORA = ("tales", "news", "wiki")
HUB_TEXTS = 2000
"""Texts that are read from a hub dataset, as many as the papers train on."""


class CorpusError(ValueError):
    """A corpus cannot be read or is too small; the message says why and what to do."""


def load_corpus(name: str | Path, seed: int = 0) -> dict[str, list[str]]:
    """The texts of a corpus in three disjoint parts: train, validation and prompts.

    Args:
        name: ``"tales"`` (short fiction written for this course, CC0, split by folder), ``"news"`` (300 articles),
            ``"wiki"`` (about 100 Wikipedia articles), a text file, a folder of ``.txt`` files, or
            ``"hub:owner/dataset"`` for the column ``text`` of a Hugging Face dataset.
        seed: decides which text goes to which part: 60 % train, 15 % validation, 25 % prompts. The tales have
            fixed parts and ignore it.

    Raises:
        CorpusError: there is no such corpus, or its text is empty, binary or too short to be split.
    """
    if name == "tales":
        return _tales()
    if name == "news":
        texts = fetch("news").read_text(encoding="utf-8").splitlines()
    elif name == "wiki":
        texts = _wiki()
    elif str(name).startswith("hub:"):
        texts = _hub_texts(str(name).removeprefix("hub:"))
    else:
        texts = _local_texts(Path(name).expanduser())
    # A text that comes twice counts once: otherwise it could stand in two parts.
    distinct = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    return _split(distinct, str(name), seed)


def _split(texts: list[str], name: str, seed: int) -> dict[str, list[str]]:
    if len(texts) < len(SPLITS):
        raise CorpusError(
            f"The corpus {name} has {len(texts)} text(s), and it takes at least {len(SPLITS)} to keep training, "
            "validation and prompts apart: add texts, separated by empty lines in a file or as files in a folder."
        )
    random.Random(seed).shuffle(texts)
    n_validation, n_prompts = max(1, round(0.15 * len(texts))), max(1, round(0.25 * len(texts)))
    validation, prompts, train = (
        texts[:n_validation],
        texts[n_validation : n_validation + n_prompts],
        texts[n_validation + n_prompts :],
    )
    return {"train": train, "validation": validation, "prompts": prompts}


def _tales() -> dict[str, list[str]]:
    root = files("hyperfit_course") / "data" / "tales"
    tales: dict[str, list[str]] = {}
    for split in SPLITS:
        paths = sorted((root / split).iterdir(), key=lambda path: path.name)
        # The first line is the title: it is for readers, not for training.
        tales[split] = [path.read_text(encoding="utf-8").split("\n\n", 1)[1].strip() for path in paths]
    return tales


def _local_texts(path: Path) -> list[str]:
    if path.is_dir():
        found = sorted(path.glob("*.txt"))
        if not found:
            raise CorpusError(f"The folder {path} holds no .txt file: put one text in each file, in UTF-8.")
        return [_read_text(file) for file in found]
    if path.is_file():
        return _passages(_read_text(path))
    raise CorpusError(
        f"There is no corpus, file or folder called {str(path)!r}: choose {', '.join(CORPORA)}, a text file, "
        "a folder of .txt files, or hub:owner/dataset."
    )


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is no text in UTF-8 (byte {error.start}): save it as UTF-8 plain text.") from error
    if "\0" in text:
        raise CorpusError(f"{path} is a binary file: give plain text in UTF-8.")
    if not text.strip():
        raise CorpusError(f"{path} is empty: give a file with text in it.")
    return text


def _passages(text: str, words: int = 300) -> list[str]:
    """Consecutive paragraphs, joined to passages of at least ``words`` words: one long file has no texts to split."""
    passages, current = [], ""
    for paragraph in re.split(r"\n\s*\n", text):
        current = f"{current}\n\n{paragraph.strip()}".strip()
        if len(current.split()) >= words:
            passages.append(current)
            current = ""
    return [*passages, current] if current else passages


def _hub_texts(name: str) -> list[str]:
    try:
        from datasets import load_dataset  # large, and only needed here
    except ImportError as error:
        raise CorpusError("Reading a dataset from the hub needs one more package: pip install datasets.") from error
    try:
        rows = load_dataset(name, split="train", streaming=True)
        return [row["text"] for row in rows.take(HUB_TEXTS)]
    except KeyError as error:
        raise CorpusError(f"The dataset {name} has no column called text: save its texts as .txt files.") from error
    except Exception as error:  # datasets and its network stack raise many kinds
        raise CorpusError(
            f"The dataset {name} cannot be read from the hub: check the spelling and the network ({error})."
        ) from error


def _wiki() -> list[str]:
    """Articles of the Wikipedia dump as plain text. Parsing takes half a minute, so its result is kept."""

    def make(folder: Path) -> None:
        print("Stripping the markup of the Wikipedia dump, once (about half a minute) ...", flush=True)
        (folder / "texts.json").write_text(json.dumps(_parse_dump(fetch("wiki"))), encoding="utf-8")

    folder = artifact("texts", {"dump": ASSETS["wiki"].sha256, "form": "paragraphs of 40 words or more"}, make)
    return list(json.loads((folder / "texts.json").read_text(encoding="utf-8")))


def _parse_dump(path: Path) -> list[str]:
    articles = []
    with bz2.open(path) as stream:
        for _, element in ElementTree.iterparse(stream):
            if element.tag.endswith("}page"):
                source = element.findtext(".//{*}text") or ""
                if element.findtext("{*}ns") == "0" and element.find("{*}redirect") is None:
                    articles.append(_plain_text(source))
                element.clear()
    return [article for article in articles if article]


def _plain_text(markup: str) -> str:
    """Running text of a wiki page: tables, pictures, lists, templates and notes are left out."""
    import mwparserfromhell  # only needed here, and slow to import

    code = mwparserfromhell.parse(markup)
    unwanted: list = [tag for tag in code.filter_tags(recursive=False) if tag.tag in ("table", "ref", "gallery")]
    unwanted += [link for link in code.filter_wikilinks(recursive=False) if ":" in str(link.title)]
    for node in unwanted:
        code.remove(node)
    paragraphs = (line.strip() for line in code.strip_code().splitlines())
    # Lists, captions and what is left of tables are short; running paragraphs are not.
    return "\n\n".join(line for line in paragraphs if len(line.split()) >= 40)


def make_blocks(
    corpus: Mapping[str, Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    n_train: int = 32,
    n_validation: int = 12,
    n_prompts: int = 30,
    block_size: int = 128,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Blocks of token ids of one length for training, validation and prompting.

    Every text is cut into as many blocks as it fills; no block spans two texts, and what is left over is dropped.
    Of a prompt text only the first block is used: its beginning is the prompt, the rest is how a human went on.

    Args:
        corpus: texts in three parts, from :func:`load_corpus`.
        tokenizer: of the model that the blocks are for.
        n_train, n_validation, n_prompts: how many blocks of each part.
        block_size: tokens a block.
        seed: decides which blocks are taken when there are more than asked for.

    Returns:
        ``{"train": (n_train, block_size), ...}``, integer tensors.

    Raises:
        CorpusError: a size is not positive, or a part holds too little text; the message says how much is missing.
    """
    wanted = {"train": n_train, "validation": n_validation, "prompts": n_prompts}
    if block_size < 2:
        raise CorpusError(f"A block of {block_size} tokens cannot be trained on: choose block_size=2 or more.")
    if min(wanted.values()) < 1:
        raise CorpusError(f"Each part needs at least one block, but {wanted} was asked for.")
    generator = torch.Generator().manual_seed(seed)
    blocks = {}
    for split, count in wanted.items():
        rows = [row for text in corpus[split] for row in _cut(text, tokenizer, block_size, split == "prompts")]
        if len(rows) < count:
            missing = count - len(rows)
            raise CorpusError(
                f"The {split} texts fill {len(rows)} blocks of {block_size} tokens, and {count} were asked for: "
                f"{missing} more, so at least {missing * block_size} tokens of text, are missing."
            )
        chosen = torch.randperm(len(rows), generator=generator)[:count].tolist()
        blocks[split] = torch.tensor([rows[i] for i in chosen])
    return blocks


def _cut(text: str, tokenizer: PreTrainedTokenizerBase, size: int, first_only: bool) -> list[list[int]]:
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    rows = [ids[start : start + size] for start in range(0, len(ids) - size + 1, size)]
    return rows[:1] if first_only else rows
