from __future__ import annotations

import bz2
import sys
import unicodedata
from collections.abc import Iterator
from importlib.resources import files
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from hyperfit_course import corpora
from hyperfit_course.corpora import HUB_TEXTS, SPLITS, CorpusError, load_corpus, make_blocks

TALES = Path(str(files("hyperfit_course"))) / "data" / "tales"
TALE_FILES = sorted(TALES.rglob("*.txt"))
Corpus = dict[str, list[str]]


def all_texts(corpus: Corpus) -> list[str]:
    return list(chain.from_iterable(corpus.values()))


def assert_disjoint(corpus: Corpus) -> None:
    assert set(corpus) == set(SPLITS)
    assert all(corpus.values())
    assert len(all_texts(corpus)) == len(set(all_texts(corpus)))


def running_text(start: int, words: int = 60) -> str:
    return " ".join(f"word{number}" for number in range(start, start + words))


# The tales


def test_tales_are_as_many_as_the_course_needs() -> None:
    tales = load_corpus("tales")
    assert_disjoint(tales)
    assert len(all_texts(tales)) >= 60
    assert sum(len(text.split()) for text in all_texts(tales)) >= 14_000
    assert len(tales["prompts"]) >= 24
    assert min(len(text.split()) for text in tales["prompts"]) >= 200


def test_no_paragraph_of_the_tales_occurs_in_two_of_them() -> None:
    paragraphs = [paragraph for text in all_texts(load_corpus("tales")) for paragraph in set(text.split("\n\n"))]
    long = [paragraph for paragraph in paragraphs if len(paragraph.split()) >= 12]
    assert len(long) == len(set(long))


def test_every_tale_is_loaded_once_and_without_its_title() -> None:
    bodies = {path.read_text(encoding="utf-8").split("\n", 1)[1].strip() for path in TALE_FILES}
    assert set(all_texts(load_corpus("tales"))) == bodies
    assert len(bodies) == len(TALE_FILES)


@pytest.mark.parametrize("path", TALE_FILES, ids=lambda path: path.stem)
def test_tale_is_a_title_an_empty_line_and_clean_text(path: Path) -> None:
    text = path.read_bytes().decode("utf-8")
    title, empty, first = text.split("\n")[:3]
    assert title.strip() == title != ""
    assert len(title.split()) <= 12
    assert empty == ""
    assert first.strip()
    assert not [letter for letter in text if unicodedata.category(letter)[0] == "C" and letter != "\n"]
    assert unicodedata.is_normalized("NFC", text)


def test_tales_ignore_the_seed() -> None:
    assert load_corpus("tales", seed=1) == load_corpus("tales", seed=2)


# Text files and folders


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(running_text(60 * part) for part in range(100)), encoding="utf-8")
    return path


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for part in range(20):
        (folder / f"{part}.txt").write_text(f"\n{running_text(60 * part)}\n", encoding="utf-8")
    (folder / "notes.md").write_text("not a text")
    return folder


def test_text_file_is_cut_into_passages_that_lose_nothing(text_file: Path) -> None:
    corpus = load_corpus(text_file)
    assert_disjoint(corpus)
    assert all(len(text.split()) >= 300 for text in all_texts(corpus))
    words = sorted(word for text in all_texts(corpus) for word in text.split())
    assert words == sorted(text_file.read_text().split())


def test_rest_of_a_text_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n \n".join([*(running_text(n, 300) for n in range(3)), "the end"]))
    assert "the end" in all_texts(load_corpus(tmp_path / "a.txt"))


def test_folder_gives_a_text_a_file(text_folder: Path) -> None:
    corpus = load_corpus(str(text_folder))
    assert_disjoint(corpus)
    assert set(all_texts(corpus)) == {running_text(60 * part) for part in range(20)}
    assert {split: len(texts) for split, texts in corpus.items()} == {"train": 12, "validation": 3, "prompts": 5}


@pytest.mark.parametrize("fixture", ["text_file", "text_folder"])
def test_seed_decides_the_parts(fixture: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(fixture)
    assert load_corpus(path, seed=1) == load_corpus(path, seed=1)
    assert sorted(load_corpus(path, seed=1)["train"]) != sorted(load_corpus(path, seed=2)["train"])


def test_text_that_occurs_twice_is_not_trained_and_tested_on(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number}.txt").write_text(running_text(60 * (number // 2)))
    parts = [set(texts) for texts in load_corpus(tmp_path).values()]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_three_texts_give_one_to_each_part(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(running_text(60 * number))
    assert [len(texts) for texts in load_corpus(tmp_path).values()] == [1, 1, 1]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
def test_byte_order_mark_and_line_ends_are_no_text(tmp_path: Path, encoding: str) -> None:
    text = "\n\n".join(running_text(n, 300) for n in range(3))
    (tmp_path / "a.txt").write_bytes(text.replace("\n", "\r\n").encode(encoding))
    (tmp_path / "b.txt").write_text(text)
    assert load_corpus(tmp_path / "a.txt") == load_corpus(tmp_path / "b.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n\t", "is empty"),
        (b"a\0b\0c", "is a binary file"),
        ("café".encode("latin-1"), r"is no text in UTF-8 \(byte 3\): save it as UTF-8"),
        (b"PK\x03\x04\xff\xfe", r"is no text in UTF-8 \(byte 4\)"),
        (running_text(0, 2000).encode(), "has 1 text.* at least 3 .* add texts, separated by empty lines"),
        (f"{running_text(0, 400)}\n\n{running_text(9, 400)}".encode(), "has 2 text"),
    ],
    ids=["empty", "blank", "binary", "latin-1", "archive", "one paragraph", "two paragraphs"],
)
def test_file_that_is_no_corpus_is_reported(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(CorpusError, match=f"a\\.txt {message}"):
        load_corpus(tmp_path / "a.txt")


def test_bad_file_in_a_folder_is_named(text_folder: Path) -> None:
    (text_folder / "7.txt").write_bytes(b"\xff")
    with pytest.raises(CorpusError, match=r"7\.txt is no text in UTF-8 \(byte 0\)"):
        load_corpus(text_folder)


def test_folder_without_a_text_is_reported(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("not a text")
    with pytest.raises(CorpusError, match=r"holds no \.txt file"):
        load_corpus(tmp_path)


def test_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(CorpusError, match="called 'tails': choose tales, news, wiki, a text file"):
        load_corpus("tails")


# News, Wikipedia and the hub


def test_news_are_a_text_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    articles = [running_text(60 * part) for part in range(20)]
    (tmp_path / "news.cor").write_text("\n".join(articles) + "\n\n", encoding="utf-8")
    monkeypatch.setattr(corpora, "fetch", {"news": tmp_path / "news.cor"}.__getitem__)
    corpus = load_corpus("news")
    assert_disjoint(corpus)
    assert sorted(all_texts(corpus)) == sorted(articles)
    assert corpus != load_corpus("news", seed=1)


def test_running_text_of_a_wiki_page_is_kept_without_its_markup() -> None:
    words = running_text(0, 40)
    first = f"'''Bold''' and ''slanted'' [[Page|shown]] [[plain]] {words}"
    markup = (
        "{{Infobox|name=templated}}\n[[File:a.png|thumb|pictured " + words + "]]\n"
        f"{first}{{{{cite|quoted}}}}<ref>noted {words}</ref>.\n\n== Heading ==\n"
        "{| class=wikitable\n|-\n| tabled " + words + "\n|}\n"
        "* listed\nToo short to be a paragraph.\n\n" + running_text(100, 45) + "\n[[Category:Things]]"
    )
    expected = f"Bold and slanted shown plain {words}.\n\n{running_text(100, 45)}"
    assert corpora._plain_text(markup) == expected


@pytest.mark.parametrize(("words", "kept"), [(39, False), (40, True)])
def test_paragraph_of_a_wiki_page_needs_forty_words(words: int, kept: bool) -> None:
    assert corpora._plain_text(running_text(0, words)) == (running_text(0, words) if kept else "")


def write_dump(path: Path, pages: list[tuple[str, str, str]]) -> None:
    """A dump of pages: namespace, further elements, text."""
    body = "".join(
        f"<page><title>T</title><ns>{ns}</ns>{more}<revision><text>{text}</text></revision></page>"
        for ns, more, text in pages
    )
    path.write_bytes(bz2.compress(f'<mediawiki xmlns="http://export/0.10/">{body}</mediawiki>'.encode()))


def test_dump_gives_its_articles_and_neither_redirects_nor_other_pages(tmp_path: Path) -> None:
    pages = [
        ("0", "", running_text(0)),
        ("0", '<redirect title="Other" />', running_text(100)),
        ("1", "", running_text(200)),  # a talk page
        ("10", "", running_text(300)),  # a template
        ("0", "", "Nothing but a stub."),
        ("0", "", running_text(400)),
    ]
    write_dump(tmp_path / "dump.bz2", pages)
    assert corpora._parse_dump(tmp_path / "dump.bz2") == [running_text(0), running_text(400)]


def test_wiki_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dump(tmp_path / "dump.bz2", [("0", "", running_text(60 * part)) for part in range(10)])
    monkeypatch.setattr(corpora, "fetch", {"wiki": tmp_path / "dump.bz2"}.__getitem__)
    corpus = load_corpus("wiki")
    assert_disjoint(corpus)
    assert set(all_texts(corpus)) == {running_text(60 * part) for part in range(10)}
    monkeypatch.setattr(corpora, "_parse_dump", lambda _: pytest.fail("it was parsed again"))
    assert load_corpus("wiki") == corpus


class Rows:
    def __init__(self, column: str) -> None:
        self.column = column

    def take(self, count: int) -> Iterator[dict[str, str]]:
        return ({self.column: running_text(60 * row)} for row in range(min(count, HUB_TEXTS + 10)))


def install_datasets(monkeypatch: pytest.MonkeyPatch, column: str) -> None:
    def load_dataset(name: str, split: str, streaming: bool) -> Rows:
        if name != "owner/set":
            raise ConnectionError("no such dataset")
        assert (split, streaming) == ("train", True)
        return Rows(column)

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hub_dataset_is_read_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    install_datasets(monkeypatch, "text")
    corpus = load_corpus("hub:owner/set")
    assert_disjoint(corpus)
    assert len(all_texts(corpus)) == HUB_TEXTS


def test_hub_dataset_without_texts_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    install_datasets(monkeypatch, "content")
    with pytest.raises(CorpusError, match="owner/set has no column called text"):
        load_corpus("hub:owner/set")


def test_hub_dataset_that_cannot_be_reached_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    install_datasets(monkeypatch, "text")
    with pytest.raises(CorpusError, match=r"owner/sett cannot be read .* network \(no such dataset\)"):
        load_corpus("hub:owner/sett")


def test_hub_needs_a_package_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match="pip install datasets"):
        load_corpus("hub:owner/set")


# Blocks

SIZES = {"n_train": 6, "n_validation": 3, "n_prompts": 4, "block_size": 16}


@pytest.fixture
def letters() -> Corpus:
    """Texts that each consist of a letter and a running number: a block shows from which text, and where, it is."""
    names = iter("abcdefghijklmnopqrstuvwxyz")
    return {
        split: [
            "".join(f"{next_name}{place:03}" for place in range(25)) for next_name in (next(names) for _ in range(n))
        ]
        for split, n in (("train", 4), ("validation", 3), ("prompts", 6))
    }


def decoded(blocks: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [str(tokenizer.decode(row)) for row in blocks]


def test_blocks_have_the_sizes_asked_for(letters: Corpus, tokenizer: PreTrainedTokenizerBase) -> None:
    blocks = make_blocks(letters, tokenizer, **SIZES)
    assert {split: tuple(rows.shape) for split, rows in blocks.items()} == {
        "train": (6, 16),
        "validation": (3, 16),
        "prompts": (4, 16),
    }
    assert all(rows.dtype == torch.long for rows in blocks.values())


def test_block_is_a_consecutive_piece_of_one_text_of_its_part(
    letters: Corpus, tokenizer: PreTrainedTokenizerBase
) -> None:
    sizes = SIZES | {"n_train": 24, "n_validation": 18}  # all there are
    for split, rows in make_blocks(letters, tokenizer, **sizes).items():
        pieces = decoded(rows, tokenizer)
        assert len(set(pieces)) == len(pieces)
        assert all(sum(piece in text for text in letters[split]) == 1 for piece in pieces)


def test_prompts_are_the_beginnings_of_texts_and_one_a_text(
    letters: Corpus, tokenizer: PreTrainedTokenizerBase
) -> None:
    pieces = decoded(make_blocks(letters, tokenizer, **SIZES | {"n_prompts": 6})["prompts"], tokenizer)
    assert sorted(pieces) == [text[:16] for text in letters["prompts"]]


def test_blocks_are_decided_by_the_seed(letters: Corpus, tokenizer: PreTrainedTokenizerBase) -> None:
    first, again, other = (make_blocks(letters, tokenizer, **SIZES, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[split], again[split]) for split in SPLITS)
    for split in SPLITS:
        assert sorted(first[split].tolist()) != sorted(other[split].tolist())


def test_number_of_training_blocks_does_not_change_their_order(
    letters: Corpus, tokenizer: PreTrainedTokenizerBase
) -> None:
    few = make_blocks(letters, tokenizer, **SIZES)["train"]
    more = make_blocks(letters, tokenizer, **SIZES | {"n_train": 10})["train"]
    assert torch.equal(few, more[:6])


def test_what_a_tokenizer_adds_by_itself_is_left_out(letters: Corpus, tokenizer: PreTrainedTokenizerBase) -> None:
    class Adding:
        def __call__(self, text: str, add_special_tokens: bool = True, **options: object) -> dict[str, list[int]]:
            ids = tokenizer(text)["input_ids"]
            return {"input_ids": [256, *ids] if add_special_tokens else ids}

    assert 256 not in make_blocks(letters, Adding(), **SIZES)["prompts"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_train": 27}, "train texts fill 24 blocks of 16 tokens, and 27 .* 3 more, so at least 48 tokens"),
        ({"n_validation": 19}, "validation texts fill 18 blocks .* 1 more, so at least 16 tokens"),
        ({"n_prompts": 7}, "prompts texts fill 6 blocks .* 1 more"),
        ({"block_size": 101}, "train texts fill 0 blocks of 101 tokens, and 6 .* at least 606 tokens"),
        ({"block_size": 0}, "block of 0 tokens cannot be trained on: choose block_size=2"),
        ({"block_size": 1}, "block of 1 tokens"),
        ({"block_size": -5}, "block of -5 tokens"),
        ({"n_train": 0}, "Each part needs at least one block"),
        ({"n_prompts": -1}, "Each part needs at least one block"),
    ],
)
def test_sizes_that_cannot_be_had_are_refused(
    letters: Corpus, tokenizer: PreTrainedTokenizerBase, sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        make_blocks(letters, tokenizer, **SIZES | sizes)


def test_text_that_just_fills_a_block_gives_one(tokenizer: PreTrainedTokenizerBase) -> None:
    corpus = {"train": ["a" * 16], "validation": ["b" * 17], "prompts": ["c" * 16]}
    blocks = make_blocks(corpus, tokenizer, 1, 1, 1, block_size=16)
    assert decoded(blocks["train"], tokenizer) == ["a" * 16]
    assert decoded(blocks["validation"], tokenizer) == ["b" * 16]
