"""When is a student better than its teacher? A small tagger that learns company names from labels with errors."""

from __future__ import annotations

import itertools
import json
import random
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from hyperfit_course.study.recording import Row, Task

OUTSIDE, BEGIN, INSIDE = range(3)
Spans = tuple[tuple[int, int], ...]  #: Names in a headline: the first word of each, and the word after its last.

SPLITS = ("train", "validation", "test")  #: In the order of time.
COMPANIES = {"train": 200, "validation": 100, "test": 300}
SIZES = {"train": 600, "validation": 100, "test": 500}
DATA = json.loads(Path(__file__).with_name("teacher_labels.json").read_text(encoding="utf-8"))
"""What headlines are made of: parts of names (``words`` are roots that are ordinary words as well), people, products,
and templates by split. A headline of a split has a template of its own time or of an earlier one."""
LOWER = 0.05  #: Share of headlines without any capitals.
RULE = {"holdings": "cut", "group": "cut", "plc": "lost"}  #: Last words of names on which the teacher with a rule errs.
TEACHERS = ("chance", "company", "rule")
"""Who decides whether a name gets a wrong label: a coin for each mention, a coin for each company, or ``RULE``."""


class Headline(NamedTuple):
    """A headline and the companies in it."""

    words: tuple[str, ...]
    spans: Spans

    def name(self, span: tuple[int, int]) -> str:
        """The company of a span, in lower case."""
        return " ".join(self.words[slice(*span)]).lower()


def companies(split: str, seed: int) -> list[str]:
    """Names of companies; no two splits share a first word. A ``ValueError`` if there is no such split."""
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}: choose from {', '.join(SPLITS)}.")
    draw = random.Random(f"companies {seed}")
    made = ["".join(parts) for parts in itertools.product(DATA["starts"], DATA["ends"])]
    draw.shuffle(made)
    ordinary = draw.sample(DATA["words"], len(DATA["words"]))
    number = SPLITS.index(split)
    names = itertools.product(made[number::3] + ordinary[number::3], DATA["tails"], DATA["forms"])
    return draw.sample([" ".join(filter(None, parts)) for parts in names], COMPANIES[split])


def headlines(split: str, count: int, seed: int) -> list[Headline]:
    """Headlines with exact spans, the same for one seed. A ``ValueError`` if there is no such split or no headline."""
    if count < 1:
        raise ValueError(f"A split needs a headline at least, and {count} are asked for.")
    names, draw = companies(split, seed), random.Random(f"headlines {split} {seed}")
    known = [each for other in SPLITS[: SPLITS.index(split) + 1] for each in DATA["templates"][other]]
    return [_headline(draw.choice(known), names, draw) for _ in range(count)]


def _headline(template: str, names: Sequence[str], draw: random.Random) -> Headline:
    a, b = draw.sample(names, 2)
    filled = {"n": draw.randint(2, 90), "person": draw.choice(DATA["people"]), "product": draw.choice(DATA["products"])}
    words: list[str] = []
    spans = []
    for part in template.split():
        new = part.format(a=a, b=b, **filled).split()
        if part in ("{a}", "{b}"):
            spans.append((len(words), len(words) + len(new)))
        words += new
    if draw.random() < LOWER:
        words = [word.lower() for word in words]
    return Headline(tuple(words), tuple(spans))


def taught(given: Sequence[Headline], teacher: str, rate: float, seed: int) -> list[Spans]:
    """Labels of a teacher. A wrong one lacks the last word of a name (two of three, where a coin decides), or is none.

    Args:
        teacher: one of ``TEACHERS``; a ``ValueError`` if it is not.
        rate: share of wrong labels, where a coin decides; a ``ValueError`` if it is no share.
        seed: of the coins.
    """
    if teacher not in TEACHERS:
        raise ValueError(f"There is no teacher {teacher!r}: choose from {', '.join(TEACHERS)}.")
    if not 0 <= rate <= 1:
        raise ValueError(f"A rate of wrong labels is between 0 and 1, and this is {rate}.")
    draw = random.Random(f"teacher {seed}")

    def fate(headline: Headline, span: tuple[int, int]) -> str:
        if teacher == "rule":
            return RULE.get(headline.words[span[1] - 1].lower(), "kept")
        coin = random.Random(f"{seed} {headline.name(span)}") if teacher == "company" else draw
        return coin.choice(("cut", "cut", "lost")) if coin.random() < rate else "kept"

    def end(headline: Headline, span: tuple[int, int]) -> int:
        return {"kept": span[1], "cut": span[1] - 1, "lost": span[0]}[fate(headline, span)]

    labels = [[(span[0], end(headline, span)) for span in headline.spans] for headline in given]
    return [tuple(span for span in spans if span[0] < span[1]) for spans in labels]


def counted(gold: Sequence[Spans], predicted: Sequence[Spans]) -> np.ndarray:
    """For each headline the spans that are in both, in gold, and in the prediction, shape (headlines, 3)."""
    rows = [(len({*g} & {*p}), len(g), len(p)) for g, p in zip(gold, predicted, strict=True)]
    return np.array(rows).reshape(-1, 3)


def f1(gold: Sequence[Spans], predicted: Sequence[Spans]) -> float:
    """The F1 of exact spans over all headlines: 2 x right / (gold + predicted); 1 if there are neither."""
    right, wanted, found = counted(gold, predicted).sum(0)
    return float(2 * right / (wanted + found)) if wanted + found else 1.0


def resampled(counts: np.ndarray, size: int, draws: int, seed: int) -> np.ndarray:
    """F1 on sets of ``size`` headlines that are drawn with replacement from those of ``counted``, shape (draws,). A
    ``ValueError`` if there is none."""
    if not len(counts):
        raise ValueError("There is no headline to draw: give the counts of one at least.")
    picks = np.random.default_rng(seed).integers(len(counts), size=(draws, size))
    right, wanted, found = counts[picks].sum(1).T
    return 2 * right / np.maximum(wanted + found, 1)


def tags_of(spans: Spans, length: int) -> list[int]:
    """One tag a word, in the form IOB2."""
    tags = [OUTSIDE] * length
    for first, end in spans:
        tags[first:end] = [BEGIN] + [INSIDE] * (end - first - 1)
    return tags


def spans_of(tags: Sequence[int]) -> Spans:
    """The spans of some tags, read strictly: one begins with ``BEGIN`` only."""
    ends = [place for place, tag in enumerate(tags) if tag != INSIDE] + [len(tags)]
    return tuple((place, min(end for end in ends if end > place)) for place, tag in enumerate(tags) if tag == BEGIN)


# The student

BUCKETS, PADDING, IGNORED = 2048, 0, -100
EMBEDDING, CHANNELS = 32, 48
BATCH, RATE = 32, 3e-3
MEASURED = (
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    10,
    15,
    20,
    30,
)  #: Epochs after which a student is tested; the last one ends its training.


def features(word: str) -> list[int]:
    """What the student sees of a word: itself, its first and last three letters and its shape, as hashed numbers."""
    shape = "".join("X" if c.isupper() else "x" if c.islower() else "9" if c.isdigit() else c for c in word[:3])
    seen = (f"w {word.lower()}", f"p {word[:3].lower()}", f"s {word[-3:].lower()}", f"c {shape}")
    return [1 + zlib.crc32(each.encode()) % (BUCKETS - 1) for each in seen]


def encoded(given: Sequence[Headline]) -> Tensor:
    """Features of headlines, shape (headlines, words of the longest, 4), padded; a ``ValueError`` if there is none."""
    if not given:
        raise ValueError("There is no headline to read: give one at least.")
    rows = [torch.tensor([features(word) for word in headline.words]) for headline in given]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING)


class Tagger(nn.Module):
    """Embedded features and two convolutions: each word is tagged by itself and two words on both sides."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(BUCKETS, EMBEDDING, padding_idx=PADDING)
            self.embedding.weight.data *= 0.1  # so that what was never seen says little
            self.first = nn.Conv1d(EMBEDDING, CHANNELS, 3, padding=1)
            self.second = nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1)
            self.head = nn.Linear(CHANNELS, 3)

    def forward(self, seen: Tensor) -> Tensor:
        """Logits of the tags, shape (headlines, words, 3), of features, shape (headlines, words, 4)."""
        there = (seen[..., 0] != PADDING)[:, None]
        states = self.first(self.embedding(seen).sum(-2).mT).relu()
        # A padded position is 0 for the second convolution, as what lies beyond the end of the longest headline.
        return self.head(self.second(states * there).relu().mT)

    @torch.no_grad()
    def spans(self, seen: Tensor) -> list[Spans]:
        """The spans that it finds."""
        tags, there = self(seen).argmax(-1), seen[..., 0] != PADDING
        return [spans_of(row[:length]) for row, length in zip(tags.tolist(), there.sum(1).tolist(), strict=True)]


class Lesson(NamedTuple):
    """What a student learns from and is measured on, by split."""

    given: dict[str, list[Headline]]
    gold: dict[str, list[Spans]]
    taught: dict[str, list[Spans]]  #: Labels of the teacher; the student learns those of ``train``.


@dataclass(frozen=True)
class Arm:
    """Labels that a student learns from; gold ones are those of chance with a rate of 0."""

    name: str
    teacher: str
    rate: float = 0.0

    def lesson(self, seed: int) -> Lesson:
        """Headlines and labels of a seed; arms of one seed have the same headlines."""
        given = {split: headlines(split, SIZES[split], seed) for split in SPLITS}
        gold = {split: [each.spans for each in given[split]] for split in SPLITS}
        return Lesson(given, gold, {split: taught(given[split], self.teacher, self.rate, seed) for split in SPLITS})


def train(student: Tagger, lesson: Lesson, seed: int, progress: str | None = None) -> Iterator[dict[str, float]]:
    """Train a student in place, with AdamW at a constant rate; ``seed`` is that of the order of the headlines.

    Yields:
        After each epoch of ``MEASURED``: ``epoch``, ``loss`` (mean of the epoch, nats a word), and the F1
        of the student on each split, against gold (``test``) and against the labels of the teacher (``test taught``).

    Raises:
        ValueError: no headline has a label, so that there is nothing to learn.
    """
    if not any(lesson.taught["train"]):
        raise ValueError("No headline has a company in its labels: give more headlines, or a teacher that errs less.")
    seen = {split: encoded(given) for split, given in lesson.given.items()}
    truth = lesson.gold | {f"{split} taught": spans for split, spans in lesson.taught.items()}
    pairs = zip(lesson.given["train"], lesson.taught["train"], strict=True)
    rows = [torch.tensor(tags_of(spans, len(headline.words))) for headline, spans in pairs]
    tags = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE)
    generator = torch.Generator().manual_seed(seed)
    for epoch in tqdm(range(1, MEASURED[-1] + 1), desc=progress, disable=progress is None, mininterval=1):
        losses = []
        for batch in torch.randperm(len(tags), generator=generator).split(BATCH):
            loss = functional.cross_entropy(student(seen["train"][batch]).flatten(0, 1), tags[batch].flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        if epoch in MEASURED:
            found = {split: student.spans(each) for split, each in seen.items()}
            scores = {name: f1(spans, found[name.split()[0]]) for name, spans in truth.items()}
            yield {"epoch": epoch, "loss": float(np.mean(losses)), **scores}


SEEDS = (0, 1, 2, 3, 4)
ARMS = (
    Arm("gold", "chance"),
    Arm("chance, 10 %", "chance", 0.1),
    Arm("chance, 30 %", "chance", 0.3),
    Arm("company, 30 %", "company", 0.3),
    Arm("rule", "rule"),
)
"""Labels that are compared. Those of the rule are wrong for 30 % of the companies too, or nearly."""


def run(arm: Arm, seed: int) -> Iterator[Row]:
    """Train one student and give its row: the F1 of its teacher on new headlines, and its own by epoch."""
    lesson, started = arm.lesson(seed), time.process_time()
    history = list(train(Tagger(seed), lesson, seed))
    yield {
        "arm": arm.name,
        "seed": seed,
        "teacher": round(f1(lesson.gold["test"], lesson.taught["test"]), 4),
        "seconds": round(time.process_time() - started, 2),
        **{name: [round(each[name], 4) for each in history] for name in history[0]},
    }


def tasks() -> list[Task]:
    """What is recorded: one seed after the other."""
    student = {"buckets": BUCKETS, "embedding": EMBEDDING, "channels": CHANNELS, "batch": BATCH, "learning_rate": RATE}
    settings = {"sizes": SIZES, "companies": COMPANIES, "student": student, "epochs": [*MEASURED]}
    return [
        Task(f"{arm.name}, seed {seed}", {"labels": asdict(arm), **settings, "seed": seed}, partial(run, arm, seed))
        for seed in SEEDS
        for arm in ARMS
    ]
