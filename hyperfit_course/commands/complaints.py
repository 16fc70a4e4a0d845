"""What the parser complains of, as a sentence that says what to do: it speaks of types of Python by itself."""

from __future__ import annotations

import re

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}


def in_plain_words(message: str) -> str:
    """A complaint of jsonargparse in the words of the command line; one that is not known here stays as it is."""
    if found := re.match(r"the following arguments are required: (.+)", message):
        names = [name.rpartition(".")[2] for name in found[1].split(", ")]
        return f"This command needs {', '.join(names)}: see its example with --help."
    if found := re.match(r"Subcommand '(\w+)' does not accept option", message):
        return f"{message}: see those that there are with 'hyperfit {found[1]} --help'."
    found = re.match(r'Parser key "(?P<key>[\w.]+)":\s*(?P<rest>.*)', message, re.S)
    if not found:
        return message
    option, rest = f"--{found['key']}", found["rest"]
    if choice := re.search(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)", rest):
        return f"{option} has to be one of {choice[1].replace(chr(39), '')}, not {choice[2]}."
    if file := re.search(r"File does not exist: (.*)", rest):
        return f"There is no file {file[1]}: check the path behind {option}."
    wanted = re.search(r"Not of type \w+: expected ([^\n]+)", rest) or re.search(r"Expected an? <class '(\w+)'>", rest)
    given = re.search(r"Given value: ([^\n]*)", rest) or re.search(r"Got value: ([^\n]*)", rest)
    if wanted and given:
        return f"{option} has to be {_KINDS.get(wanted[1], wanted[1])}, not {given[1]}."
    return message
