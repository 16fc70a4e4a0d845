"""Outputs that are the same on every machine and fit to be committed."""

from __future__ import annotations

import re
from pathlib import Path

from nbformat import NotebookNode

KERNEL_FILE = re.compile(r"\S*/ipykernel_\d+/\d+\.py")
CONTROL = re.compile(r"(\r|\n|\x1b\[A)")


def normalize(cell: NotebookNode, root: Path) -> None:
    """Bring a code cell's outputs into the form that is committed."""
    cell.outputs = merge_streams(cell.outputs)
    for output in cell.outputs:
        if output.output_type == "stream":
            output.text = without_paths(final_screen(output.text), root)
        elif output.output_type == "error":
            output.traceback = [without_paths(line, root) for line in output.traceback]
    cell.outputs = [output for output in cell.outputs if output.output_type != "stream" or output.text.strip()]


def merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring streams of a name, and a progress bar with what it printed after other output.

    nbclient's `coalesce_streams` knows no nested bars: it drops the text before a `\\r` and keeps the cursor's moves.
    """
    merged: list[NotebookNode] = []
    for output in outputs:
        streams = [old for old in merged if old.output_type == "stream" and old.name == output.get("name")]
        if streams and (streams[-1] is merged[-1] or output.text.startswith("\r")):
            streams[-1].text += output.text
        else:
            merged.append(output)
    return merged


def final_screen(text: str) -> str:
    """What a terminal shows in the end: of each progress bar, nested ones too, only the last state."""
    lines, row, column = [""], 0, 0
    for part in CONTROL.split(text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            if row == len(lines):
                lines.append("")
        elif part == "\x1b[A":
            row = max(row - 1, 0)
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return "\n".join(line.rstrip() for line in lines)


def without_paths(text: str, root: Path) -> str:
    """Text that does not tell where the author's files lie."""
    text = KERNEL_FILE.sub("<cell>", text)
    return text.replace(f"{root}/", "").replace(f"{Path.home()}/", "~/")
