"""The command ``hyperfit``."""

from __future__ import annotations

import sys

from hyperfit_course.commands.parser import COMMANDS, build, told


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        The exit status: 0 if all went well, 1 if a part of the work could not be done, 2 for a wrong command, 130 if it
        was interrupted.
    """
    parsed = build(COMMANDS).parse_args(arguments)
    command = COMMANDS[parsed.command]
    record, more = told(command, parsed[parsed.command])
    try:
        return command.run(record, **more)
    except KeyboardInterrupt:
        print("\nStopped. What was finished is kept: the same command goes on.", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError) as error:
        if not type(error).__module__.startswith("hyperfit_course."):
            raise  # a fault of the program, and not of what it was told
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
