from __future__ import annotations

import bz2
import csv
import json
import sys
import unicodedata
from collections.abc import Iterator
from importlib.resources import files
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hyperfit_course import corpora, own_texts
from hyperfit_course.corpora import HUB_TEXTS, SPLITS, CorpusError, load_corpus, make_texts
from hyperfit_course.own_texts import PASSAGE

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
    (folder / "notes.rst").write_text("not a text")
    return folder


def test_text_file_is_cut_into_passages_that_lose_nothing(text_file: Path) -> None:
    corpus = load_corpus(text_file)
    assert_disjoint(corpus)
    assert all(PASSAGE <= len(text) < PASSAGE + 600 for text in all_texts(corpus)[:-1])
    paragraphs = set(text_file.read_text().split("\n\n"))
    assert all(set(text.split("\n\n")) <= paragraphs for text in all_texts(corpus))
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
        (running_text(0, 100).encode(), "has 1 text.* at least 3 .* add texts, or give a longer one .5,100 characters"),
        (f"{running_text(0, 150)}\n\n{running_text(9, 150)}".encode(), "has 2 text"),
        (b"again and again\n\n" * 2000, "has 1 text"),
    ],
    ids=["empty", "blank", "binary", "latin-1", "archive", "one paragraph", "two paragraphs", "repeated"],
)
def test_file_that_is_no_corpus_is_reported(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(CorpusError, match=f"a\\.txt {message}"):
        load_corpus(tmp_path / "a.txt")


LINES = [f"Line {number} of a poem, which has no empty lines" for number in range(300)]
LONG = {
    "verse": "\n".join(LINES),
    "one line": " ".join(f'He said "number {number}." And then ({number}?) "no more!"' for number in range(200)),
    "words": running_text(0, 2000),
    "chinese": "".join(f"第{number}天，他走了很远的路，没有说一句话。" for number in range(500)),
    "thai": "กาลครั้งหนึ่งนานมาแล้ว" * 9 + "".join(f"วัน{number}เดินทางไกล" for number in range(500)),
    "windows": "\r\n".join(LINES),
}


@pytest.mark.parametrize("kind", LONG)
def test_long_text_without_empty_lines_is_cut_into_passages(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.txt").write_bytes(LONG[kind].encode())
    passages = all_texts(load_corpus(tmp_path / "a.txt"))
    assert sorted("".join("".join(passages).split())) == sorted("".join(LONG[kind].split()))
    assert len(passages) == pytest.approx(len(LONG[kind]) / PASSAGE, abs=1.5)
    assert max(map(len, passages)) < PASSAGE + 60


@pytest.mark.parametrize(
    ("kind", "ends"), [("verse", ("lines",)), ("one line", ('."', "?)", '!"')), ("chinese", ("。",))]
)
def test_passage_ends_where_a_line_or_a_sentence_ends(kind: str, ends: tuple[str, ...]) -> None:
    passages = own_texts.passages_of(LONG[kind], PASSAGE)
    assert len(passages) > 3
    assert all(passage.endswith(ends) for passage in passages)


def test_only_a_paragraph_that_is_too_long_is_cut_at_its_sentences() -> None:
    short = [running_text(60 * part) for part in range(9)]
    passages = own_texts.passages_of("\n\n".join([*short, LONG["one line"], *short]), PASSAGE)
    assert all(any(paragraph in passage for passage in passages) for paragraph in short)
    assert max(map(len, passages)) < PASSAGE + 600


def test_passages_of_english_have_about_three_hundred_words() -> None:
    text = "\n\n".join(load_corpus("tales")["train"])
    words = [len(passage.split()) for passage in own_texts.passages_of(text, PASSAGE)[:-1]]
    assert 280 < sum(words) / len(words) < 360


@given(st.text(alphabet="ab. \n。!字\u0e01\u0301", max_size=400), st.integers(1, 30))
def test_passages_lose_and_repeat_nothing(text: str, size: int) -> None:
    passages = own_texts.passages_of(text, size)
    assert "".join("".join(passages).split()) == "".join(text.split())
    assert all(passage == passage.strip() != "" for passage in passages)


@given(st.text(alphabet="ab。,字", min_size=200, max_size=600))
def test_text_without_spaces_gives_three_passages_and_none_is_too_long(text: str) -> None:
    passages = own_texts.passages_of(text, 30)
    assert len(passages) >= 3
    assert max(map(len, passages)) < 3 * 30


def test_two_long_books_in_a_folder_are_cut_as_well(tmp_path: Path) -> None:
    for name in ("verse", "chinese"):
        (tmp_path / f"{name}.txt").write_text(LONG[name], encoding="utf-8")
    assert len(all_texts(load_corpus(tmp_path))) > 10


def test_short_text_of_three_paragraphs_is_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join("it is so " * 101 for _ in range(2)) + "\n\n" + "we go on " * 99)
    with pytest.raises(CorpusError, match="has 2 text"):  # two of the three are equal
        load_corpus(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("\n\n".join(f"{word} is so " * 101 for word in ("it", "he", "go")))
    assert [len(texts) for texts in load_corpus(tmp_path / "a.txt").values()] == [1, 1, 1]


# Folders and tables


def write_jsonl(path: Path, rows: list[object]) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


def test_folder_is_read_with_all_its_folders_and_kinds_of_files(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / "b" / "c" / "A.TXT").write_text("capital")
    (tmp_path / "b" / "notes.md").write_text("# marked")
    write_jsonl(tmp_path / "rows.JSONL", [{"text": "first"}, {"text": "second", "id": 2}])
    write_csv(tmp_path / "rows.csv", [["id", "text"], ["1", "third"], ["2", "fourth"]])
    for hidden in (".git/a.txt", ".hidden.txt", "b/.c.md"):
        (tmp_path / hidden).write_text("hidden")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert own_texts.local_texts(tmp_path, 3) == ["capital", "# marked", "first", "second", "third", "fourth"]


ROWS = [f"Row {number}, with \u2028 and a comma,\nand 'more' \"lines\"." for number in range(20)]


def test_rows_of_a_table_are_texts(tmp_path: Path) -> None:
    lines = write_jsonl(tmp_path / "a.jsonl", [{"id": number, "text": text} for number, text in enumerate(ROWS)])
    table = write_csv(tmp_path / "a.csv", [["text", "id"], *([text, str(number)] for number, text in enumerate(ROWS))])
    for path in (lines, table):
        corpus = load_corpus(path)
        assert_disjoint(corpus)
        assert sorted(all_texts(corpus)) == sorted(ROWS)


def test_rows_without_a_text_are_left_out(tmp_path: Path) -> None:
    rows: list[object] = [{"text": "one"}, {"text": None}, {"id": 3}, {"text": " "}, {"text": 5}, {"text": "two"}]
    assert own_texts.local_texts(write_jsonl(tmp_path / "a.jsonl", [*rows, {"text": "three"}]), 3) == [
        "one",
        "two",
        "three",
    ]


def test_cell_may_be_as_long_as_a_book(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "a.csv", [["text"], *([letter * 200_000] for letter in "abc")])
    assert {len(text) for text in all_texts(load_corpus(table))} == {200_000}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '{"id": 1, "body": "x"}\n{"body": "y", "date": 2}',
            r"no texts in a column called text \(it has: id, body, date\): call that of the texts 'text'",
        ),
        ("a.csv", "id,body\n1,x\n", r"no texts in a column called text \(it has: id, body\): call that"),
        ("a.csv", "id,text\n1,\n", r"no texts in a column called text \(it has: id, text\)"),
        (
            "a.csv",
            "id;text\n1;x\n",
            r"no texts in a column called text \(it has: id;text\): .* commas between columns",
        ),
        ("a.csv", "id,text\n1,Well, yes\n", "rows of more cells than columns: put texts with commas into quotes"),
        ("a.csv", 'text\n"open', r"is no CSV table \(unexpected end of data\): correct its quotes"),
        ("a.jsonl", '{"text": "x"}\n{"text": "y"\n', "has no JSON object in line 2: write each line as"),
        ("a.jsonl", '{"text": "x"}\n\n{"text": "y"\n', "in line 3:"),
        ("a.jsonl", '{"text": "x"}\n5\n', "has no JSON object in line 2"),
        ("a.jsonl", '"text"\n', "has no JSON object in line 1"),
        ("a.csv", "", "is empty"),
    ],
)
def test_table_that_is_none_or_has_no_texts_is_reported(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=rf"{name[2:]} .*{message}"):
        load_corpus(tmp_path / name)


def test_bad_files_among_good_ones_are_named_and_left_out(text_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {"5.txt": b"\xff", "7.txt": b" \n", "9.txt": b"a\0b", "rows.jsonl": b"{", "locked.md": b"locked"}
    for name, content in bad.items():
        (text_folder / name).write_bytes(content)
    read_text = Path.read_text

    def locked(path: Path, encoding: str) -> str:
        if path.name == "locked.md":
            raise PermissionError(13, "Permission denied")
        return read_text(path, encoding=encoding)

    monkeypatch.setattr(Path, "read_text", locked)
    with pytest.warns(UserWarning, match=r"^5 file\(s\) left out of the corpus: [^\n]*$") as warned:
        corpus = load_corpus(text_folder)
    assert set(all_texts(corpus)) == {running_text(60 * part) for part in range(20) if part not in (5, 7, 9)}
    reasons = ["5.txt is no text in UTF-8 (byte 0)", "7.txt is empty", "9.txt is a binary file"]
    reasons += ["locked.md cannot be read (Permission denied)", "rows.jsonl has no JSON object in line 1"]
    assert len(warned) == 1
    assert [reason for reason in reasons if reason not in str(warned[0].message)] == []
    assert warned[0].filename == __file__


def test_folder_without_a_good_file_gives_the_first_reason(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff")
    (tmp_path / "b.txt").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"holds no \.txt, .* with text: .*a\.txt is no text in UTF-8 \(byte 0\)"):
        load_corpus(tmp_path)


def test_folder_without_a_text_is_reported(tmp_path: Path) -> None:
    (tmp_path / "notes.rst").write_text("not a text")
    with pytest.raises(
        CorpusError, match=r"holds no \.txt, \.md, \.jsonl, \.csv file with text: put the texts there, one a file\.$"
    ):
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


def test_wiki_is_parsed_again_by_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dump(tmp_path / "dump.bz2", [("0", "", running_text(60 * part)) for part in range(10)])
    monkeypatch.setattr(corpora, "fetch", {"wiki": tmp_path / "dump.bz2"}.__getitem__)
    load_corpus("wiki")
    corrected = tmp_path / "corpora.py"
    corrected.write_text(
        Path(corpora.__file__).read_text().replace("len(line.split()) >= 40", "len(line.split()) >= 2")
    )
    monkeypatch.setattr(corpora, "__file__", str(corrected))
    monkeypatch.setattr(corpora, "_parse_dump", lambda _: ["a", "b", "c"])
    assert sorted(all_texts(load_corpus("wiki"))) == ["a", "b", "c"]


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


def test_rows_of_a_hub_dataset_without_a_text_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    install_datasets(monkeypatch, "text")
    rows = [{"text": value} for value in (None, "one", 3, "two", "three")]
    monkeypatch.setattr(Rows, "take", lambda self, count: rows)
    assert sorted(all_texts(load_corpus("hub:owner/set"))) == ["one", "three", "two"]


def test_hub_dataset_that_cannot_be_reached_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    install_datasets(monkeypatch, "text")
    with pytest.raises(CorpusError, match=r"owner/sett cannot be read .* network \(no such dataset\)"):
        load_corpus("hub:owner/sett")


def test_hub_needs_a_package_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match="pip install datasets"):
        load_corpus("hub:owner/set")


# Texts of one length

SIZES = {"n_train": 6, "n_validation": 3, "n_prompts": 4, "length": 16}


@pytest.fixture
def letters() -> Corpus:
    """Texts that each consist of a letter and a running number: a row shows from which text, and where, it is."""
    names = iter("abcdefghijklmnopqrstuvwxyz")
    return {
        split: [
            "".join(f"{next_name}{place:03}" for place in range(25)) for next_name in (next(names) for _ in range(n))
        ]
        for split, n in (("train", 4), ("validation", 3), ("prompts", 6))
    }


def adding(tokenizer: PreTrainedTokenizerBase, template: str) -> PreTrainedTokenizerBase:
    """The tokenizer with a begin-of-text token, <begin>, and what it puts around a text (``$A``)."""
    raw = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    raw.add_special_tokens(["<end>", "<begin>"])
    tokens = [(token, raw.token_to_id(token)) for token in ("<end>", "<begin>")]
    raw.post_processor = TemplateProcessing(single=template, special_tokens=tokens)
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<begin>", eos_token="<end>", pad_token="<end>")


def decoded(rows: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [str(tokenizer.decode(row)) for row in rows]


def test_texts_have_the_sizes_asked_for(letters: Corpus, tokenizer: PreTrainedTokenizerBase) -> None:
    texts = make_texts(letters, tokenizer, **SIZES)
    assert {split: tuple(rows.shape) for split, rows in texts.items()} == {
        "train": (6, 16),
        "validation": (3, 16),
        "prompts": (4, 16),
    }
    assert all(rows.dtype == torch.long for rows in texts.values())


def test_text_is_a_consecutive_piece_of_one_of_its_part(letters: Corpus, tokenizer: PreTrainedTokenizerBase) -> None:
    sizes = SIZES | {"n_train": 24, "n_validation": 18}  # all there are
    for split, rows in make_texts(letters, tokenizer, **sizes).items():
        pieces = decoded(rows, tokenizer)
        assert len(set(pieces)) == len(pieces)
        assert all(sum(piece in text for text in letters[split]) == 1 for piece in pieces)


def test_prompts_are_the_beginnings_of_texts_and_one_a_text(
    letters: Corpus, tokenizer: PreTrainedTokenizerBase
) -> None:
    pieces = decoded(make_texts(letters, tokenizer, **SIZES | {"n_prompts": 6})["prompts"], tokenizer)
    assert sorted(pieces) == [text[:16] for text in letters["prompts"]]


def test_texts_are_decided_by_the_seed(letters: Corpus, tokenizer: PreTrainedTokenizerBase) -> None:
    first, again, other = (make_texts(letters, tokenizer, **SIZES, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[split], again[split]) for split in SPLITS)
    for split in SPLITS:
        assert sorted(first[split].tolist()) != sorted(other[split].tolist())


def test_number_of_training_texts_does_not_change_their_order(
    letters: Corpus, tokenizer: PreTrainedTokenizerBase
) -> None:
    few = make_texts(letters, tokenizer, **SIZES)["train"]
    more = make_texts(letters, tokenizer, **SIZES | {"n_train": 10})["train"]
    assert torch.equal(few, more[:6])


def test_end_token_that_a_tokenizer_adds_is_left_out(letters: Corpus, tokenizer: PreTrainedTokenizerBase) -> None:
    ending = adding(tokenizer, "$A <end>")
    assert ending("a")["input_ids"][-1] == 256
    plain = make_texts(letters, tokenizer, **SIZES)
    assert all(torch.equal(rows, plain[split]) for split, rows in make_texts(letters, ending, **SIZES).items())


@pytest.mark.parametrize("begins", ["", "<begin>", "<begin><begin>"])
def test_every_text_begins_once_with_the_token_that_the_model_needs(
    letters: Corpus, tokenizer: PreTrainedTokenizerBase, begins: str, capsys: pytest.CaptureFixture[str]
) -> None:
    beginning = adding(tokenizer, "<begin> $A")
    corpus = {split: [begins + text for text in texts] for split, texts in letters.items()}
    corpus["train"][0] = corpus["train"][0].replace("a010", f"{begins}a010")  # and none in the middle
    rows = make_texts(corpus, beginning, **SIZES)
    assert capsys.readouterr().out == "Every text begins with <begin>, as the tokenizer of this model asks.\n"
    plain = make_texts(letters, tokenizer, **SIZES | {"length": 15})
    assert capsys.readouterr().out == ""
    begin = beginning.bos_token_id
    for split in SPLITS:
        assert rows[split].shape == (SIZES[f"n_{split}"], 16)
        assert (rows[split][:, 0] == begin).all()
        assert (rows[split] == begin).sum() == len(rows[split])
        assert torch.equal(rows[split][:, 1:], plain[split])


def test_begin_token_that_the_tokenizer_does_not_add_changes_nothing(
    letters: Corpus, tokenizer: PreTrainedTokenizerBase, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, plain = (make_texts(letters, each, **SIZES) for each in (adding(tokenizer, "$A"), tokenizer))
    assert all(torch.equal(rows[split], plain[split]) for split in SPLITS)
    assert capsys.readouterr().out == ""


def test_begin_token_counts_in_what_is_missing(tokenizer: PreTrainedTokenizerBase) -> None:
    corpus = {"train": ["a" * 15], "validation": ["b" * 15], "prompts": ["c" * 14]}
    with pytest.raises(CorpusError, match="has 0 prompts of 16 tokens, and 1 were asked for"):
        make_texts(corpus, adding(tokenizer, "<begin> $A"), 1, 1, 1, length=16)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_train": 27}, "has 24 training texts of 16 tokens, and 27 were asked for: add texts, or ask"),
        ({"n_validation": 19}, "has 18 validation texts of 16 tokens, and 19 were asked for: add texts, or ask"),
        ({"n_prompts": 7}, "has 6 prompts of 16 tokens, and 7 .*: add texts of at least 16 tokens, or ask for fewer"),
        ({"length": 101}, "has 0 training texts of 101 tokens, and 6 were asked for"),
        ({"length": 0}, "length is 0, which leaves no token to predict: choose 2"),
        ({"length": 1}, "length is 1,"),
        ({"length": -5}, "length is -5,"),
        ({"n_train": 0}, "Each part needs at least one text"),
        ({"n_prompts": -1}, "Each part needs at least one text"),
    ],
)
def test_sizes_that_cannot_be_had_are_refused(
    letters: Corpus, tokenizer: PreTrainedTokenizerBase, sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        make_texts(letters, tokenizer, **SIZES | sizes)


def test_text_that_just_fills_the_length_gives_one(tokenizer: PreTrainedTokenizerBase) -> None:
    corpus = {"train": ["a" * 16], "validation": ["b" * 17], "prompts": ["c" * 16]}
    texts = make_texts(corpus, tokenizer, 1, 1, 1, length=16)
    assert decoded(texts["train"], tokenizer) == ["a" * 16]
    assert decoded(texts["validation"], tokenizer) == ["b" * 16]
