"""Trained on what, tested on what? Texts, split once into parts that share nothing, and cut to rows of tokens.

A corpus is a plain dictionary: ``{"train": [...], "validation": [...], "prompts": [...]}``, each a list of texts.
A text belongs to one part only, and so does every row that is cut from it.
"""

from __future__ import annotations

import bz2
import json
import random
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hyperfit_course.artifacts import artifact
from hyperfit_course.assets import ASSETS, fetch
from hyperfit_course.models import begin_token
from hyperfit_course.own_texts import PASSAGE, local_texts
from hyperfit_course.own_texts import CorpusError as CorpusError  # raised here as well
from hyperfit_course.sources import code_digest

SPLITS = ("train", "validation", "prompts")
CORPORA = ("tales", "news", "wiki")
HUB_TEXTS = 2000  #: Texts that are read from a hub dataset, as many as the papers train on.


def load_corpus(name: str | Path, seed: int = 0) -> dict[str, list[str]]:
    """The texts of a corpus in three disjoint parts: train, validation and prompts.

    Args:
        name: ``"tales"`` (short fiction written for this course, CC0, split by folder), ``"news"`` (300 articles),
            ``"wiki"`` (about 100 Wikipedia articles), a file, a folder, or ``"hub:owner/dataset"`` for the column
            ``text`` of a Hugging Face dataset. A file is plain text, or a ``.jsonl`` or ``.csv`` with a column
            ``text``; in a folder each plain file and each row is a text. Fewer than three are cut into passages.
        seed: decides which text goes to which part: 60 % train, 15 % validation, 25 % prompts. The tales have
            fixed parts and ignore it.

    Raises:
        CorpusError: there is no such corpus, or it is empty, in another format, or too short to be split.
    """
    if name == "tales":
        return _tales()
    if name == "news":
        texts = fetch("news").read_text(encoding="utf-8").splitlines()
    elif name == "wiki":
        texts = _wiki()
    elif str(name).startswith("hub:"):
        texts = _hub_texts(str(name).removeprefix("hub:"))
    elif name != "" and (path := Path(name).expanduser()).exists():
        texts = local_texts(path, len(SPLITS))
    else:
        raise CorpusError(
            f"There is no corpus, file or folder called {str(name)!r}: choose {', '.join(CORPORA)}, a text file, "
            "a folder of text files, or hub:owner/dataset."
        )
    # A text that comes twice counts once: otherwise it could stand in two parts.
    distinct = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    return _split(distinct, str(name), seed)


def _split(texts: list[str], name: str, seed: int) -> dict[str, list[str]]:
    if len(texts) < len(SPLITS):
        raise CorpusError(
            f"The corpus {name} has {len(texts)} text(s), and it takes at least {len(SPLITS)} to keep training, "
            f"validation and prompts apart: add texts, or give a longer one ({3 * PASSAGE:,} characters or more). "
            "Equal texts count once."
        )
    random.Random(seed).shuffle(texts)
    n_validation, n_prompts = max(1, round(0.15 * len(texts))), max(1, round(0.25 * len(texts)))
    validation, prompts = texts[:n_validation], texts[n_validation : n_validation + n_prompts]
    return {"train": texts[n_validation + n_prompts :], "validation": validation, "prompts": prompts}


def _tales() -> dict[str, list[str]]:
    root = files("hyperfit_course") / "data" / "tales"
    tales: dict[str, list[str]] = {}
    for split in SPLITS:
        paths = sorted((root / split).iterdir(), key=lambda path: path.name)
        # The first line is the title: it is for readers, not for training.
        tales[split] = [path.read_text(encoding="utf-8").split("\n\n", 1)[1].strip() for path in paths]
    return tales


def _hub_texts(name: str) -> list[str]:
    try:
        from datasets import load_dataset  # large, and only needed here
    except ImportError as error:
        raise CorpusError("Reading a dataset from the hub needs one more package: pip install datasets.") from error
    try:
        rows = load_dataset(name, split="train", streaming=True)
        return [row["text"] for row in rows.take(HUB_TEXTS) if isinstance(row["text"], str)]
    except KeyError as error:
        raise CorpusError(f"The dataset {name} has no column called text: save its texts as .txt files.") from error
    except Exception as error:  # datasets and its network stack raise many kinds
        problem = f"The dataset {name} cannot be read from the hub: check the spelling and the network ({error})."
        raise CorpusError(problem) from error


def _wiki() -> list[str]:
    """Articles of the Wikipedia dump as plain text. Parsing takes half a minute, so its result is kept."""

    def make(folder: Path) -> None:
        print("Stripping the markup of the Wikipedia dump, once (about half a minute) ...", flush=True)
        (folder / "texts.json").write_text(json.dumps(_parse_dump(fetch("wiki"))), encoding="utf-8")

    folder = artifact("texts", {"dump": ASSETS["wiki"].sha256, "code": code_digest([Path(__file__)])}, make)
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


def make_texts(
    corpus: Mapping[str, Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    n_train: int = 32,
    n_validation: int = 12,
    n_prompts: int = 30,
    length: int = 128,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Texts of one length, as rows of token ids, for training, validation and prompting.

    Every text of the corpus is cut into as many rows as it fills; no row spans two, and what is left over is dropped.
    Of one for prompts only the first row is used: its beginning is the prompt, the rest is how a human went on.
    A :func:`~hyperfit_course.models.begin_token` is the first of the ``length`` tokens of every row, and no other.

    Args:
        corpus: texts in three parts, from :func:`load_corpus`.
        tokenizer: of the model that the texts are for.
        n_train, n_validation, n_prompts: how many texts of each part.
        length: tokens a text.
        seed: decides which texts are taken when there are more than asked for.

    Returns:
        ``{"train": (n_train, length), ...}``, integer tensors.

    Raises:
        CorpusError: a size is not positive, or a part holds too little text; the message says how many texts there are.
    """
    wanted = {"train": n_train, "validation": n_validation, "prompts": n_prompts}
    if length < 2:
        raise CorpusError(f"length is {length}, which leaves no token to predict: choose 2 or more.")
    if min(wanted.values()) < 1:
        raise CorpusError(f"Each part needs at least one text, but {wanted} was asked for: ask for more.")
    begin = begin_token(tokenizer)
    if begin is not None:
        print(f"Every text begins with {tokenizer.bos_token}, as the tokenizer of this model asks.")
    generator = torch.Generator().manual_seed(seed)
    texts = {}
    for split, count in wanted.items():
        most = 1 if split == "prompts" else None
        rows = [row for text in corpus[split] for row in _cut(text, tokenizer, begin, length)[:most]]
        if len(rows) < count:
            name = {"train": "training texts", "validation": "validation texts"}.get(split, split)
            more = (
                f"texts of at least {length} tokens, or ask for fewer" if most else "texts, or ask for fewer or shorter"
            )
            problem = f"The corpus has {len(rows)} {name} of {length} tokens, and {count} were asked for"
            raise CorpusError(f"{problem}: add {more}.")
        texts[split] = torch.tensor(rows)[torch.randperm(len(rows), generator=generator)[:count]]
    return texts


def _cut(text: str, tokenizer: PreTrainedTokenizerBase, begin: int | None, length: int) -> list[list[int]]:
    first = [] if begin is None else [begin]
    size = length - len(first)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    ids = [index for index in ids if index != begin]  # some texts carry the token as their first word
    return [first + ids[start : start + size] for start in range(0, len(ids) - size + 1, size)]
