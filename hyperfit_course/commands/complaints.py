"""What the parser complains of, as a sentence that says what to do: it speaks of types of Python by itself."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path

import yaml

from hyperfit_course.commands.options import POSITIONAL

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}


def in_plain_words(message: str, command: str, options: Collection[str]) -> str:
    """A complaint of jsonargparse in the words of the command line, and where help is: two lines.

    Args:
        message: of the parser; one that is not known here keeps its words.
        command: whose parser it is: ``hyperfit``, or ``hyperfit study``.
        options: of that command, such as ``--seeds``.
    """
    if needed := re.match(r"the following arguments are required: (\w+)\.", message):
        command = f"hyperfit {needed[1]}"  # of which the parser of all commands has said it
    return f"{_sentence(message, command, options)}\nsee {command} --help"


def _sentence(message: str, command: str, options: Collection[str]) -> str:
    if found := re.match(r"the following arguments are required: (.+)", message):
        needs = " and ".join(_written(*name.split(".", 1)) for name in found[1].split(", "))
        return f"'{command}' needs {needs}: add what is missing, as the example in its help does."
    if found := re.match(r"argument COMMAND: invalid choice: (.*) \(choose from (.*)\)", message):
        names = found[2].replace("'", "")
        return f"There is no command {found[1]}: choose from {names}, and write its options behind it."
    if message.startswith('expected "command" to be one of'):
        return "There is no command: write one behind hyperfit, such as 'hyperfit doctor'."
    if found := re.match(r"argument (--\w+): expected one argument", message):
        return f"{found[1]} needs a value: write it behind {found[1]}, or leave the option out."
    if found := re.match(r"argument (?:-h/)?(--\w+): ignored explicit argument '(.*)'", message):
        return _takes_none(found[1], found[2])
    if found := re.match(r'Invalid option "(.*)" for (--\w+)', message):
        return _takes_none(found[2], found[1])
    if found := re.match(r"ambiguous option: ([^\s=]+)\S* could match (.*)", message):
        return f"{found[1]} may mean several options: write one of {found[2]}."
    if found := re.match(r"unrecognized arguments: ((\S+).*)", message, re.S):
        if found[2].startswith("-"):
            return _unknown(found[2].partition("=")[0], command, options)
        hint = "remove it, write a list with commas (0,1,2), or put a text with spaces into quotes"
        return f"'{command}' has no place for {found[1]!r}: {hint}."
    return " ".join(_of_a_value(message, command).splitlines())


def _takes_none(option: str, value: str) -> str:
    return f"{option} takes no value: leave {value!r} out."


def _written(command: str, name: str) -> str:
    return name if name in POSITIONAL.get(command, ()) else f"--{name}"


def _unknown(name: str, command: str, known: Collection[str], where: str = "") -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    end = f"did you mean {close[0]}?" if close else "leave it out, or choose one from the help."
    return f"'{command}' has no option {name}{where}: {end}"


def _of_a_value(message: str, command: str) -> str:
    found = re.match(r'Parser key "(?P<key>[\w.]+)":\s*(?P<rest>.*)', message, re.S)
    if not found:
        return message
    option, rest = _written(command.rpartition(" ")[2], found["key"]), found["rest"]
    if choice := re.search(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)", rest):
        return f"{option} has to be one of {choice[1].replace(chr(39), '')}, not {choice[2]!r}."
    if file := re.search(r"File does not exist: (.*)", rest):
        return f"There is no file {file[1]}: check the path behind {option}."
    wanted = re.search(r"Not of type \w+: expected ([^\n]+)", rest) or re.search(r"Expected an? <class '(\w+)'>", rest)
    given = re.search(r"Given value: ([^\n]*)", rest) or re.search(r"Got value: ([^\n]*)", rest)
    if wanted and given:
        return f"{option} has to be {_KINDS.get(wanted[1], wanted[1])}, not {given[1]!r}."
    return message


def fault_of(path: Path, command: str, options: Collection[str]) -> str | None:
    """What is wrong with a file of options, as a sentence, or ``None``; whether there is one, the parser says.

    Args:
        path: of the file.
        command: that shall be told its options, such as ``hyperfit study``.
        options: that the command has, as a file names them.
    """
    if path.is_dir():
        return f"{path} is a folder, and --config takes a file of options: name the file."
    if not path.is_file():
        return None
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        return f"{path} is no text in UTF-8 ({error.reason}): save it as UTF-8."
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", in line {mark.line + 1}" if mark else ""
        return f"{path} is no YAML{line}: write each option in a line, such as 'epochs: 8'."
    if not isinstance(found, dict):
        return f"{path} holds no options: write each in a line, such as 'epochs: 8'."
    unknown = [str(name) for name in found if name not in options]
    return _unknown(unknown[0], command, options, f", which {path} names") if unknown else None


def empty_word(words: Sequence[str]) -> str | None:
    """A sentence about a word that is empty, as a variable that is not set leaves it, or ``None``."""
    for before, word in pairwise(["hyperfit", *words]):
        if not word or re.fullmatch(r"--\w+=", word):
            where = word or f"The word after {before}"
            return f"{where} is empty: is a variable not set? Write the value, or leave the option out."
    return None


def want_of_memory(error: BaseException) -> str | None:
    """A sentence about an error of Python or PyTorch, if it says that memory was short."""
    short = re.search(r"out of memory|(not enough|can't allocate) memory", str(error))
    if not short and not isinstance(error, MemoryError):
        return None
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return (
        f"The memory is too small for this ({reason}): close other programs, or choose a smaller model, fewer or "
        "shorter texts, or a smaller batch."
    )
