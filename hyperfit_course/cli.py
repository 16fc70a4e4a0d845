"""The command ``hyperfit``."""

from __future__ import annotations

import sys
import warnings

from hyperfit_course.commands.complaints import empty_word, want_of_memory
from hyperfit_course.commands.parser import COMMANDS, build, told


def _as_note(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as a line for a reader, without the place in the code that it comes from."""
    return f"note: {message}\n"


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        The exit status: 0 if all went well, 1 if a part of the work could not be done, 2 for a wrong command, 130 if it
        was interrupted.
    """
    if complaint := empty_word(sys.argv[1:] if arguments is None else arguments):
        print(complaint, file=sys.stderr)
        return 2
    warnings.formatwarning = _as_note
    parsed = build(COMMANDS).parse_args(arguments)
    command = COMMANDS[parsed.command]
    record, more = told(command, parsed[parsed.command])
    try:
        return command.run(record, **more)
    except KeyboardInterrupt:
        print("\nStopped. What was finished is kept: the same command goes on.", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, MemoryError) as error:
        said = str(error) if type(error).__module__.startswith("hyperfit_course.") else want_of_memory(error)
        if said is None:
            raise  # a fault of the program, and not of what it was told
        print(said, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
