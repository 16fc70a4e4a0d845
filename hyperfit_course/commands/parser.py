"""The command line: a subcommand for each record of options. They may come from a YAML file, and win over it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter
from jsonargparse.typing import register_type

from hyperfit_course.commands import options as known
from hyperfit_course.commands.complaints import fault_of, in_plain_words
from hyperfit_course.study.config import OUT, PART_NAMES, Names, Numbers, StudyConfig

LISTS = {
    Names: "words, such as full,last5",
    Numbers: "whole numbers, such as 0,1,2",
}


class _Help(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of examples."""


class _Parser(ArgumentParser):
    """Complains in a sentence, and says where help is."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        self.exit(2, in_plain_words(message, parser.command, parser._option_string_actions) + "\n")

    @property
    def command(self) -> str:
        """``hyperfit``, or with the name of the subcommand behind it."""
        return str(self.prog).replace(" [options]", "")


class _File(ActionConfigFile):
    """A file of options, which is looked at before they are."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        if fault := fault_of(Path(values), parser.command, {action.dest for action in parser._actions}):
            parser.error(fault)
        super().__call__(parser, cfg, values, option_string)


@dataclass(frozen=True)
class Command:
    """One subcommand."""

    options: type  #: The record that it is told.
    what: str  #: One line.
    example: str
    run: Callable[..., int]  #: Takes the record, and :attr:`more`; gives the exit status.
    more: tuple[tuple[str, dict[str, Any]], ...] = ()  #: Options that decide no result.
    notes: str = ""


def build(commands: dict[str, Command]) -> ArgumentParser:
    """The parser of some commands."""
    for kind, wanted in LISTS.items():
        _register(kind, wanted)
    parser = _Parser(
        prog="hyperfit",
        description="Tools of the Hyperfitting course: study, train and compare models, and grade exercises.",
        epilog="Each command has an example: hyperfit COMMAND --help",
        formatter_class=_Help,
    )
    subcommands = parser.add_subcommands(metavar="COMMAND", dest="command")
    for name, command in commands.items():
        subcommands.add_subcommand(name, _subparser(name, command), help=command.what)
    return parser


def _register(kind: type, wanted: str) -> None:
    def read(value: Any) -> Any:
        try:
            return kind.read(value)  # type: ignore[attr-defined]
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected {wanted}") from error

    register_type(kind, serializer=list, deserializer=read, fail_already_registered=False)


def _subparser(name: str, command: Command) -> ArgumentParser:
    text = "\n\n".join(part for part in (f"{command.what[0].upper()}{command.what[1:]}.", command.notes) if part)
    parser = _Parser(description=text, epilog=f"Example:\n  {command.example}", formatter_class=_Help)
    parser.add_argument("--config", action=_File, help="a YAML file with these options; those given here win over it")
    for option, settings in command.more:
        parser.add_argument(option, **settings)
    positional = known.POSITIONAL.get(name, ())
    for each in fields(command.options):
        if each.name in positional:
            parser.add_argument(each.name, type=_type_of(command.options, each.name), help=each.metadata["help"])
    parser.add_class_arguments(command.options, as_group=False, skip=set(positional))
    texts = {each.name: each.metadata["help"] for each in fields(command.options)}
    for action in parser._actions:
        action.help = texts.get(action.dest, action.help)
    return parser


def _type_of(record: type, name: str) -> Any:
    from typing import get_type_hints

    return get_type_hints(record)[name]


def told(command: Command, values: Any) -> tuple[Any, dict[str, Any]]:
    """The record of options that a command line gave, and the other options."""
    names = {each.name for each in fields(command.options)}
    given = {name: value for name, value in vars(values).items() if name != "config"}
    record = command.options(**{name: value for name, value in given.items() if name in names})
    return record, {name: value for name, value in given.items() if name not in names}


# What each command does; what is heavy is imported when it is wanted


def _study(config: StudyConfig, **more: Any) -> int:
    from hyperfit_course.study.run import study

    return study(config, **more)


def _train(options: known.Training) -> int:
    from hyperfit_course.commands.train import train

    return train(options)


def _generate(options: known.Generating) -> int:
    from hyperfit_course.commands.side_by_side import generate_both

    return generate_both(options)


def _compare(options: known.Comparing) -> int:
    from hyperfit_course.commands.compare import compare

    return compare(options)


def _export(options: known.Exporting) -> int:
    from hyperfit_course.commands.export import export

    return export(options)


def _doctor(options: known.Examining) -> int:
    from hyperfit_course.commands.doctor import examine

    return examine(options)


def _cache(options: known.Caching) -> int:
    from hyperfit_course.commands.cache import look_after

    return look_after(options)


def _grade(options: known.Grading) -> int:
    from hyperfit_course.grading.grades import grade

    return grade(options.submissions, options.out)


_RUN = (
    ("--out", {"type": str, "default": OUT, "help": "the folder of the study"}),
    ("--plan", {"action": "store_true", "help": "say how long it takes, with how much memory and disk, and stop"}),
    (
        "--resume",
        {
            "action": "store_true",
            "help": "go on in a folder of another study; what fits is not measured again, and what is finished stays",
        },
    ),
    (
        "--jobs",
        {
            "type": int,
            "default": 1,
            "help": "processes of this machine that measure arms and seeds at the same time; each needs the memory of "
            "one, and the threads of PyTorch are divided among them",
        },
    ),
    (
        "--cluster",
        {
            "type": str,
            "metavar": "ADDRESS",
            "help": "measure arms and seeds on the workers of the Dask scheduler at this address instead",
        },
    ),
    (
        "--from",
        {"dest": "source", "type": str, "help": "compute metrics and report of a folder again, without a model"},
    ),
)
_PARTS = "parts, in the order in which they are measured:\n" + "\n".join(f"  {n:12}{w}" for n, w in PART_NAMES.items())
_WORKERS = (
    "Arms and seeds are measured one after the other, unless --jobs or --cluster says otherwise.\n"
    "--jobs N: N processes of this machine. Each gets 1/N of PyTorch's threads, at least one. --jobs N --plan says\n"
    "whether the memory suffices. With another number of threads sums are rounded differently, and texts may part.\n"
    "--cluster ADDRESS: pip install 'hyperfit-course[cluster]' on all machines. Start 'dask scheduler' on one, and\n"
    "'dask worker ADDRESS --nthreads 1 --nworkers N' on the others. A worker measures one arm at a time, and the\n"
    "cores of a machine are divided among its workers. All need the same versions, and must find under the same\n"
    "paths: the cache (HYPERFIT_CACHE in the environment names it here), the folder of --out, the model, the texts."
)

COMMANDS = {
    "study": Command(
        StudyConfig,
        "train and measure a model in the ways of the course, and write a report",
        "hyperfit study --model gpt2 --corpus my_stories.txt --out gpt2_study",
        _study,
        _RUN,
        f"{_PARTS}\n\nA study that was stopped goes on when it is started again.\n\n{_WORKERS}",
    ),
    "train": Command(
        known.Training,
        "hyperfit a model, or adapters on it, and save the result with a model card",
        "hyperfit train --corpus tales --arm last5 --out my_adapter",
        _train,
    ),
    "generate": Command(
        known.Generating,
        "let a trained model and its base write side by side",
        'hyperfit generate my_adapter --prompt "The lighthouse keeper"',
        _generate,
    ),
    "compare": Command(
        known.Comparing,
        "compare two models, or two studies",
        "hyperfit compare HuggingFaceTB/SmolLM2-135M my_model",
        _compare,
    ),
    "export": Command(
        known.Exporting,
        "write a trained model in another form: PEFT, merged safetensors, or GGUF for llama.cpp and Ollama",
        "hyperfit export my_adapter --to gguf --precision q8_0 --out my_model.gguf",
        _export,
    ),
    "doctor": Command(
        known.Examining,
        "look at versions, disk, memory, device, cache and model, and say what to do",
        "hyperfit doctor --model gpt2",
        _doctor,
    ),
    "cache": Command(known.Caching, "look after what is kept in the cache", "hyperfit cache list", _cache),
    "grade": Command(
        known.Grading,
        "run submitted exercise notebooks and write a table of points",
        "hyperfit grade submissions --out grades.csv",
        _grade,
        notes=(
            "Each submission runs in bubblewrap where that is installed (sudo apt install bubblewrap): read-only, with "
            "no network, and without your files.\nElsewhere it runs as you, and the command says what that means. "
            "Rows are put down as they come: a stopped run goes on."
        ),
    ),
}
