"""What is said of bad input: each time one sentence that says what is wrong and what to do.

The table is for readers as well. It has one row for each bad input: what is given, the command or the call, and what
its sentence has to say. The rows of a command end with the status 2, and those of a call raise an error of the library.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from conftest import tiny_model
from filelock import FileLock
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hyperfit_course import live
from hyperfit_course.artifacts import cache_dir
from hyperfit_course.assets import fetch
from hyperfit_course.checks import chapter_01
from hyperfit_course.cli import main
from hyperfit_course.commands import parser
from hyperfit_course.corpora import load_corpus, make_texts
from hyperfit_course.decoding import continue_prompts
from hyperfit_course.grading.grades import grade_notebook
from hyperfit_course.late_stage import choose_blocks, late_stage_lora
from hyperfit_course.metrics import bootstrap_interval
from hyperfit_course.models import load_model
from hyperfit_course.reweighting import token_ranks
from hyperfit_course.study.config import StudyConfig
from hyperfit_course.study.locks import only_study, only_writer
from hyperfit_course.study.records import recorded
from hyperfit_course.study.run import study
from hyperfit_course.study.statistics import t_interval
from hyperfit_course.temperature import predictive_entropy
from hyperfit_course.training import HyperfitConfig, hyperfit

LLAMA = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 32, "vocab_size": 257}


@dataclass(frozen=True)
class Bad:
    """One bad input."""

    given: str
    call: str | Callable[[Path], object]  #: A command line, with its files in the folder ``here``, or a call.
    says: str  #: A regular expression.


STUDY = [
    Bad("no such command", "hyperfit stody", "There is no command 'stody': choose from study, train"),
    Bad("no command", "hyperfit", "There is no command: write one behind hyperfit, such as"),
    Bad(
        "an option before the command", "hyperfit --seeds 1", "no command '1': choose .*, and write its options behind"
    ),
    Bad("a misspelt option", "hyperfit study --sedes 1", "has no option --sedes: did you mean --seeds"),
    Bad("a dash for a line", "hyperfit train --learning-rate 1 --out here/x", "did you mean --learning_rate"),
    Bad("an option of nothing", "hyperfit study --colour red", "has no option --colour: leave it out, or choose one"),
    Bad("a list with spaces", "hyperfit study --seeds 0 1 2", "has no place for '1 2': .* write a list with commas"),
    Bad("an option without a value", "hyperfit study --from", "--from needs a value: write it behind --from, or"),
    Bad("a value for a switch", "hyperfit study --plan=yes", "--plan takes no value: leave 'yes' out"),
    Bad("a value to print", "hyperfit study --print_config=x", "--print_config takes no value: leave 'x' out"),
    Bad(
        "half an option", "hyperfit study --lora 3", "--lora may mean several options: write one of --lora_epochs, --lo"
    ),
    Bad("a word for a number of processes", "hyperfit study --jobs two", "--jobs has to be a whole number, not 'two'"),
    Bad("a word for a number", "hyperfit study --epochs many", "--epochs has to be a whole number, not 'many'"),
    Bad("no number", "hyperfit study --epochs=", "--epochs= is empty: is a variable not set"),
    Bad(
        "an unknown preset",
        "hyperfit study --preset large",
        "--preset has to be one of quick, standard, paper, not 'large'",
    ),
    Bad(
        "no such configuration",
        "hyperfit study --config here/none.yaml",
        r"no file .*none\.yaml.*: check the path behind --config",
    ),
    Bad("a folder for a configuration", "hyperfit study --config here/mixed", "mixed is a folder, .*: name the file"),
    Bad(
        "a misspelt option in a file",
        "hyperfit study --config here/misspelt.yaml",
        "no option sedes, .*yaml names: did you mean seeds",
    ),
    Bad("a file that is no text", "hyperfit study --config here/binary.txt", "txt is no text in UTF-8 .*: save it as"),
    Bad(
        "a file that is no YAML", "hyperfit study --config here/broken.yaml", "is no YAML, in line 2: write each option"
    ),
    Bad("a file without options", "hyperfit study --config here/list.yaml", "holds no options: write each in a line"),
    Bad("words for seeds", "hyperfit study --seeds one", "--seeds has to be whole numbers, such as 0,1,2, not 'one'"),
    Bad("one seed twice", "hyperfit study --seeds 1,1", "--seeds 1,1 has 1 twice: name each once"),
    Bad("no seed", "hyperfit study --seeds ,", "--seeds is empty: name at least one, such as 0,1,2"),
    Bad("half a seed", "hyperfit study --config here/half.yaml", "whole numbers, such as 0,1,2"),
    Bad("a negative seed", "hyperfit study --seeds=-1,1", r"seed has to be a whole number from 0 to \d+, not -1"),
    Bad("a seed too large", "hyperfit train --seed 18446744073709551616 --out here/x", r"from 0 to \d+, not 1844"),
    Bad("a negative seed to sample with", "hyperfit generate x --seed=-1", r"from 0 to \d+, not -1"),
    Bad("an arm of no block", "hyperfit study --arms last0", "no arm 'last0': write full"),
    Bad(
        "epochs that no arm uses", "hyperfit study --arms last5 --epochs 3", "is none: give --lora_epochs for adapters"
    ),
    Bad(
        "a rate that no arm uses",
        "hyperfit study --arms full --lora_learning_rate 1",
        "there are none: give --learning_rate for the arm full",
    ),
    Bad("no part", "hyperfit study --parts ''", "word after --parts is empty: is a variable not set"),
    Bad(
        "a part that no arm has",
        "hyperfit study --parts damage --arms full",
        "None of the arms full has the part damage, .*: name other --parts or --arms",
    ),
    Bad("two things at once", "hyperfit study --from here/mixed --plan", "--from .*: leave all other options out"),
    Bad("an arm without a number", "hyperfit study --arms last", r"no arm 'last': write full, all, .*last5"),
    Bad("blocks backwards", "hyperfit study --arms blocks7-3", r"no arm 'blocks7-3': .* the smaller one first"),
    Bad("an unknown part", "hyperfit study --parts feelings", "no part feelings: choose from training, writing"),
    Bad("texts too short to measure", "hyperfit study --length 32", "--length has to be at least 64, not 32"),
    Bad("no epoch", "hyperfit study --epochs 0", "--epochs has to be at least 1, not 0"),
    Bad(
        "a rate that is no number",
        "hyperfit study --learning_rate nan",
        "--learning_rate has to be a number, not 'nan'",
    ),
    Bad(
        "a batch of more than all texts",
        "hyperfit study --batch_size 8 --train_texts 4",
        "--batch_size 8 is more than --train_texts 4: lower the one or raise",
    ),
    Bad("a newer configuration", "hyperfit study --form 2", "has form 2, .* knows 1: update the course, or remove"),
    Bad("a file for a folder", "hyperfit study --out here/empty.txt", "is a file, .*: name another with --out"),
    Bad("a folder of other things", "hyperfit study --out here/mixed", "holds other files and no study: name another"),
    Bad("no process", "hyperfit study --jobs 0", "--jobs is a number of processes, at least 1, and not 0"),
    Bad(
        "processes here and on a cluster",
        "hyperfit study --jobs 2 --cluster tcp://127.0.0.1:1",
        "--cluster for the workers of a cluster: choose one of them",
    ),
    Bad(
        "a plan for a cluster",
        "hyperfit study --plan --cluster tcp://127.0.0.1:1",
        "--plan tries the machine that it runs on: run it on a machine of the cluster",
    ),
    Bad(
        "a cluster without Dask",
        lambda here: no_dask(here),
        r"--cluster needs Dask: pip install .*, or use --jobs on one machine",
    ),
    Bad(
        "a folder that another study uses",
        "hyperfit study --from here/busy",
        r"Another process runs a study in .*: wait until it has ended\.",
    ),
    Bad(
        "no study to compute again",
        "hyperfit study --from here/mixed",
        "holds no study: name one that 'hyperfit study'",
    ),
    Bad(
        "a damaged study",
        "hyperfit study --from here/damaged",
        r"damaged/about\.json is damaged .*: start the command .* again, with the same options and --out .*damaged",
    ),
]
MODELS = [
    Bad(
        "a folder without a model",
        "hyperfit study --model here/mixed",
        r"no config\.json.*: name the folder of a saved",
    ),
    Bad("no such GGUF file", "hyperfit doctor --model here/none.gguf", r"no file .*none\.gguf: check the path"),
    Bad(
        "a file that is no GGUF model",
        lambda here: load_model(here / "broken.gguf"),
        "is no GGUF model: fetch it again, or choose",
    ),
    Bad(
        "a model in a pickle",
        "hyperfit study --model here/pickle",
        "has weights as .bin only, .*: save the model there again",
    ),
    Bad(
        "a model with code of its own", "hyperfit study --model here/code", "none is ever run: choose a model of a kind"
    ),
    Bad(
        "a link out of a model's folder", "hyperfit generate here/link", "link out of the model's folder: put the file"
    ),
    Bad(
        "a configuration that is a list",
        "hyperfit train --model here/list --out here/x",
        "no file of settings .*: fetch",
    ),
    Bad(
        "a model of endless blocks",
        "hyperfit study --model here/endless",
        "whole number from 1 to 1,000 is wanted: fetch",
    ),
    Bad("an adapter without a base", "hyperfit generate here/baseless", "does not name its base: name it with --base"),
    Bad(
        "an adapter in a pickle", "hyperfit generate here/adapter", r"adapter_model\.bin is not read, .*: save it again"
    ),
    Bad("a damaged card", "hyperfit generate here/card", "does not name the base of the model: train it, or download"),
]
COMMANDS = [
    Bad(
        "a place that is taken",
        "hyperfit train --out here/mixed",
        "is there already: name another with --out, or remove",
    ),
    Bad("a place in no folder", "hyperfit train --out here/none/x", "no folder .*none to put x into: make it first"),
    Bad(
        "no place", "hyperfit train --corpus tales", "'hyperfit train' needs --out: add what is missing, as the example"
    ),
    Bad("no model", "hyperfit generate", "'hyperfit generate' needs tuned: add what is missing"),
    Bad("no epoch of adapters", "hyperfit train --arm last1 --epochs 0 --out here/x", "^--epochs has to be at least 1"),
    Bad("no tokens", "hyperfit generate x --tokens 0", "--tokens has to be at least 1, not 0"),
    Bad("a negative temperature", "hyperfit generate x --temperature -1", "--temperature has to be 0 .*, not -1"),
    Bad("a study and a model", "hyperfit compare here/study x", "and x is none .*: name two studies, or two"),
    Bad("one prompt", "hyperfit compare x y --prompts 1", "--prompts has to be at least 2 for an interval, not 1"),
    Bad("studies of nothing", "hyperfit compare here/study here/study", "Neither study has measured .*: run them with"),
    Bad("a folder named as a file", "hyperfit export x --out here/y.gguf", "would be a folder: add --to gguf"),
    Bad("half a study", "hyperfit compare here/halved here/study", "is no whole study: run 'hyperfit study --from"),
    Bad(
        "a precision for safetensors",
        "hyperfit export x --precision f16 --out here/y",
        "--precision goes with --to gguf only: leave it out, or add --to gguf",
    ),
    Bad("a GGUF file by another name", "hyperfit export x --to gguf --out here/y", r"end in \.gguf: name it y\.gguf"),
    Bad(
        "a place that another process writes",
        "hyperfit export here/mixed --out here/written",
        "Another process is writing .*written: wait for what it writes, or name another place",
    ),
    Bad(
        "a place that another training will write",
        "hyperfit train --out here/written",
        "Another process is writing .*written: wait for what it writes, or name another place",
    ),
    Bad("no folder of an adapter", "hyperfit export x --to peft --out here/y", "There is no folder x: check the path"),
    Bad(
        "no adapter to write",
        "hyperfit export here/mixed --to peft --out here/y",
        "is no adapter, .*: choose --to safetensors or",
    ),
    Bad(
        "an unknown form",
        "hyperfit export x --to onnx --out here/y",
        "--to has to be one of peft, safetensors, gguf, not 'onnx'",
    ),
    Bad(
        "nothing to do to the cache",
        "hyperfit cache lst",
        "(?<!-)action has to be one of list, verify, prune, not 'lst'",
    ),
    Bad("a kind without pruning", "hyperfit cache list --kind models", "--kind goes with prune only: leave it out"),
    Bad("nothing to prune", "hyperfit cache prune --kind x", "Of the kind x there is nothing .*: (choose|the cache)"),
]
GRADING = [
    Bad("a variable that is not set", "hyperfit grade ''", "word after grade is empty: is a variable not set"),
    Bad("no such folder", "hyperfit grade here/none", "no folder .*none: name the folder that holds the submitted"),
    Bad(
        "a folder without notebooks", "hyperfit grade here/mixed", r"no notebook \(\.ipynb\) .*: is it the right folder"
    ),
    Bad(
        "a table in no folder", "hyperfit grade here/class --out here/none/x.csv", r"to write x\.csv to: make it first"
    ),
    Bad("a table for a spreadsheet", "hyperfit grade here/class --out here/x.xlsx", r"as CSV: name x\.csv with --out"),
    Bad("a folder for a table", "hyperfit grade here/class --out here/mixed", "is a folder, .*: name one, such as"),
    Bad(
        "two graders of one table", "hyperfit grade here/class --out here/taken.csv", "Another run is writing .*: wait"
    ),
    Bad("a submission of 2 GB", lambda here: row(here, "large.ipynb"), "has 2,147 MB, .*: ask for it without outputs"),
    Bad("a link to the grader", lambda here: row(here, "link.ipynb"), "It is a link, .*: ask for the file itself"),
    Bad("a pipe", lambda here: row(here, "pipe.ipynb"), "It is no ordinary file: ask for the notebook"),
    Bad("a text for a notebook", lambda here: row(here, "text.ipynb"), "is no notebook: ask for it again as Jupyter"),
    Bad("brackets without end", lambda here: row(here, "deep.ipynb"), "is no notebook: ask for it again as Jupyter"),
    Bad("another notebook", lambda here: row(here, "other.ipynb"), "no function of any exercise: ask the student for"),
    Bad("a name of two lines", lambda here: row(here, "a\nb: 6 of 6 points.ipynb"), r"\[a\\nb: 6 of 6 points\]"),
    Bad("a name that is a formula", lambda here: row(here, "=1+1.ipynb"), r"\['=1\+1\]"),
]
TEXTS = [
    Bad(
        "no such corpus",
        lambda here: load_corpus("tale"),
        "no corpus, file or folder called 'tale': choose tales, news",
    ),
    Bad("a corpus without a name", lambda here: load_corpus(""), "folder called '': choose tales, news"),
    Bad("a page for a text", lambda here: load_corpus(here / "a.html"), r"no plain text: save its texts as \.txt, or"),
    Bad("an empty file", lambda here: load_corpus(here / "empty.txt"), "is empty: give a file with text in it"),
    Bad("a binary file", lambda here: load_corpus(here / "zeros.txt"), "is a binary file: give plain text in UTF-8"),
    Bad(
        "another encoding", lambda here: load_corpus(here / "latin.txt"), "no text in UTF-8 .*: save it as UTF-8 plain"
    ),
    Bad(
        "two words", lambda here: load_corpus(here / "short.txt"), r"has \d text\(s\), .*: add texts, or give a longer"
    ),
    Bad("a table of something", lambda here: load_corpus(here / "a.csv"), "no texts in a column called text .*: call"),
    Bad(
        "half a table", lambda here: load_corpus(here / "a.jsonl"), r"a\.jsonl has no JSON object in line 2: write each"
    ),
    Bad(
        "a folder without texts",
        lambda here: load_corpus(here / "bare"),
        "holds no .txt.* file with text: put the texts",
    ),
    Bad("an unknown asset", lambda here: fetch("modle"), "no asset called 'modle': choose one of model, news, wiki"),
    Bad("texts of one token", lambda here: texts(length=1), "length is 1, .*: choose 2 or more"),
    Bad("more texts than there are", lambda here: texts(n_train=10**6), "and 1000000 were asked for: add texts, or"),
    Bad("more prompts than there are", lambda here: texts(n_prompts=10**6), "add texts of at least 128 tokens, or ask"),
    Bad(
        "a file in the way of the cache",
        lambda here: in_the_way(here),
        "The cache cannot be .*, since .*empty.txt is a file: set",
    ),
]
LIBRARY = [
    Bad(
        "more blocks than there are",
        lambda here: choose_blocks(tiny_model(), 5),
        "has 2 blocks: choose between 1 and 2",
    ),
    Bad("an unknown place", lambda here: choose_blocks(tiny_model(), 1, "end"), "no place 'end': choose from first,"),
    Bad("no rank", lambda here: late_stage_lora(tiny_model(), 1, 0), "rank of an adapter is at least 1, not 0"),
    Bad("a model that is frozen", lambda here: train(frozen=True), "Nothing in the model is trainable: set"),
    Bad("a batch of nothing", lambda here: train(batch_size=0), "batch_size has to be from 1 to 2, .*, not 0"),
    Bad("a prompt longer than the model", lambda here: too_long(), "exceed the model's context of 128: ask for fewer"),
    Bad(
        "a temperature of zero", lambda here: predictive_entropy(torch.zeros(1, 3), 0.0), "must be positive, .*: for 0"
    ),
    Bad(
        "tokens of another model",
        lambda here: token_ranks(torch.zeros(1, 3), torch.tensor([7])),
        "token id 7 is not among .* 0 to 2: use",
    ),
    Bad("no values", lambda here: bootstrap_interval([]), "of no values has no meaning: give at least one"),
    Bad("a value of nothing", lambda here: bootstrap_interval([float("nan")]), "is nan or inf, .*: drop texts that"),
    Bad("one seed", lambda here: t_interval([0.5]), "needs two values at least, and there is 1: train with another"),
    Bad(
        "results that nobody has recorded",
        lambda here: recorded("dreams"),
        "no record 'dreams': choose one of .*, or, if 'make results' makes",
    ),
    Bad(
        "no file of the live page",
        lambda here: live.load(here / "none"),
        "no file .*none: press 'Save .*' on the page 'Write",
    ),
    Bad(
        "another JSON file",
        lambda here: live.load(here / "study" / "study.json"),
        "no file of the page .*: save it there",
    ),
    Bad(
        "no function for a check",
        lambda here: says(chapter_01.type_token_ratio(3)),
        "takes the function itself, .*write",
    ),
]
TABLE = {"study": STUDY, "models": MODELS, "commands": COMMANDS, "grading": GRADING, "texts": TEXTS, "library": LIBRARY}


class Said(ValueError):
    """What a call says without an error."""


def says(verdict: Any) -> None:
    raise Said(verdict.message)


def row(here: Path, name: str) -> None:
    """What the table of grades says of a file."""
    found = grade_notebook(here / "class" / name, here / "class")[0]
    raise Said(f"{found.message} [{found.student}]")


def texts(**wanted: int) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    make_texts(load_corpus("tales"), PreTrainedTokenizerFast(tokenizer_object=letters), **wanted)


def in_the_way(here: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERFIT_CACHE", str(here / "empty.txt"))
        cache_dir()


def no_dask(here: Path) -> None:
    importlib.import_module("joblib._dask")  # it keeps for ever whether it has found Dask
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "distributed", None)
        study(StudyConfig(), str(here / "none"), cluster="tcp://127.0.0.1:1")


def train(frozen: bool = False, **settings: Any) -> None:
    model, rows = tiny_model(), torch.zeros(2, 64, dtype=torch.long)
    model.requires_grad_(not frozen)
    hyperfit(model, {"train": rows, "validation": rows, "prompts": rows}, HyperfitConfig(**settings))


def too_long() -> None:
    continue_prompts(tiny_model(), torch.zeros(1, 120, dtype=torch.long), 20)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with bad files."""
    folder = tmp_path_factory.mktemp("here")
    files = {
        "misspelt.yaml": "sedes: [1]\n",
        "broken.yaml": "epochs: [1\nseeds: }",
        "list.yaml": "- 1\n",
        "half.yaml": "seeds: [1.5]\n",
        "empty.txt": "",
        "a.html": "<p>A text.</p>",
        "binary.txt": b"\xff\xfe\x00",
        "zeros.txt": "a\0b",
        "latin.txt": "Märchen".encode("latin-1"),
        "short.txt": "two words",
        "a.csv": "title\nfirst\nsecond\n",
        "a.jsonl": '{"text": "first"}\n{"text": ',
        "broken.gguf": b"GGUF and no more",
        "mixed/notes.txt": "mine",
        "bare/picture.png": b"\x89PNG",
        "busy/about.json": "{}",
        "damaged/about.json": '{"parts": [',
        "study/study.json": json.dumps(
            {"model": {"name": "a"}, "identity": {"config": {}}, "parts": [], "rows": [], "claims": []}
        ),
        "halved/study.json": '{"model": {"na',
        "code/config.json": json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}),
        "list/config.json": "[]",
        "endless/config.json": json.dumps(LLAMA | {"num_hidden_layers": 10**9}),
        "link/config.json": json.dumps(LLAMA),
        "pickle/config.json": json.dumps(LLAMA),
        "pickle/pytorch_model.bin": pickle.dumps({}),
        "baseless/adapter_config.json": json.dumps({"peft_type": "LORA", "base_model_name_or_path": None}),
        "adapter/adapter_config.json": json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"}),
        "adapter/adapter_model.bin": pickle.dumps({}),
        "card/adapter_config.json": json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"}),
        "card/hyperfit.json": "{}",
        "class/text.ipynb": "my homework",
        "class/deep.ipynb": "[" * 10**5,
        "class/other.ipynb": nbformat.writes(nbformat.v4.new_notebook()),
        "class/a\nb: 6 of 6 points.ipynb": "no notebook",
        "class/=1+1.ipynb": "no notebook",
        "class/large.ipynb": "",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    os.truncate(folder / "class" / "large.ipynb", 1 << 31)  # a file with a hole takes no room
    os.mkfifo(folder / "class" / "pipe.ipynb")
    (folder / "class" / "link.ipynb").symlink_to(folder / "mixed" / "notes.txt")
    (folder / "link" / "model.safetensors").symlink_to(folder / "mixed" / "notes.txt")
    with FileLock(folder / ".taken.csv.lock"), only_study(folder / "busy"), only_writer(folder / "written"):
        yield folder


@pytest.mark.parametrize("bad", [pytest.param(bad, id=bad.given) for rows in TABLE.values() for bad in rows])
def test_bad_input_gets_a_sentence(
    bad: Bad, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a command writes that is told no place
    if isinstance(bad.call, str):
        words = [word.replace("here/", f"{here}/") for word in shlex.split(bad.call)[1:]]
        status, of_parser = end_of(words)
        assert status == (1 if words[:1] == ["doctor"] else 2)
        shown = capsys.readouterr()
        said = shown.err + shown.out
        if of_parser:
            command = " ".join(["hyperfit", *(word for word in words[:1] if word in parser.COMMANDS)])
            assert re.fullmatch(rf"[^\n]+[.?]\nsee {command} --help\n", said), said
    else:
        with pytest.raises((ValueError, RuntimeError, OSError, KeyError)) as raised:
            bad.call(here)
        said = str(raised.value)
    assert re.search(bad.says, said), said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("*.part")), "a table was begun"


def end_of(words: list[str]) -> tuple[Any, bool]:
    """The exit status of a command, and whether its parser has ended it."""
    try:
        return main(words), False
    except SystemExit as ended:
        return ended.code, True


def test_the_table_has_at_least_sixty_rows_and_none_twice() -> None:
    given = [bad.given for rows in TABLE.values() for bad in rows]
    assert len(given) == len(set(given)) >= 60
