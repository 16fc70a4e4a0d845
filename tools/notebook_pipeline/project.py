"""Where things are: the course's configuration, its text notebooks and their order."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from sphinx_external_toc.parsing import parse_toc_yaml

FOLDERS = ("book", "solutions", "exercises")


class PipelineError(Exception):
    """Something an author has to mend; its message is one clear sentence."""


@dataclasses.dataclass(frozen=True)
class Project:
    """A course rooted at `root`, the folder that holds `_config.yml` and `_toc.yml`."""

    root: Path

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The Jupyter Book configuration, the one place for the repository's address."""
        return yaml.safe_load((self.root / "_config.yml").read_text("utf8"))

    @property
    def repository(self) -> str:
        """`ORG/REPO` on GitHub, where Colab finds the notebooks."""
        url = self.config["repository"]["url"]
        found = re.fullmatch(r"https://github\.com/([^/]+/[^/]+)/?", url)
        if not found:
            raise PipelineError(f"_config.yml: repository.url must be https://github.com/ORG/REPO, not {url!r}")
        return found[1]

    @property
    def branch(self) -> str:
        """The branch that readers get."""
        return self.config["repository"]["branch"]

    @functools.cached_property
    def version(self) -> str:
        """The version of the course, which the package's metadata take from the same line."""
        found = re.search(r'^version = "(.+)"$', (self.root / "pyproject.toml").read_text("utf8"), re.M)
        if not found:
            raise PipelineError("pyproject.toml has no line `version = ...`")
        return found[1]

    @property
    def site(self) -> str:
        """Where GitHub Pages shows the book."""
        owner, name = self.repository.split("/")
        return f"https://{owner}.github.io/{name}/"

    def blob_url(self, path: Path) -> str:
        """Address of a file's page on GitHub."""
        return f"https://github.com/{self.repository}/blob/{self.branch}/{self.name(path)}"

    def raw_url(self, path: Path) -> str:
        """Address of a file's bytes, for images in a notebook that is opened without its folder."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.branch}/{self.name(path)}"

    def name(self, path: Path) -> str:
        """A path as messages show it: from the root, with slashes."""
        return path.relative_to(self.root).as_posix()

    @functools.cached_property
    def toc(self) -> list[Path]:
        """The pages of `_toc.yml` in reading order."""
        pages = [self.root / f"{name.removesuffix('.md')}.md" for name in parse_toc_yaml(self.root / "_toc.yml")]
        for page in pages:
            if not page.is_file():
                raise PipelineError(f"_toc.yml names {self.name(page)}, which is not there")
        return pages

    @functools.cached_property
    def text_notebooks(self) -> list[Path]:
        """Every page with a kernel, those of the table of contents first and in its order."""
        found = [path for path in self.files(".md") if has_kernel(path)]
        order = {path: position for position, path in enumerate(self.toc)}
        return sorted(found, key=lambda path: (order.get(path, len(order)), path))

    @property
    def executed(self) -> Path:
        """The folder of executed notebooks that are not published yet."""
        return self.root / "_build" / "executed"

    def executed_path(self, source: Path) -> Path:
        """Where the executed form of a text notebook is kept."""
        return (self.executed / self.name(source)).with_suffix(".ipynb")

    def files(self, suffix: str) -> Iterator[Path]:
        """Everything with this suffix that lies where the pages and their notebooks lie."""
        for folder in FOLDERS:
            for path in sorted((self.root / folder).rglob(f"*{suffix}")):
                if not any(part.startswith(".") for part in path.relative_to(self.root).parts):
                    yield path


def has_kernel(path: Path) -> bool:
    """Whether a page's header names a kernel, which makes the page a notebook."""
    text = path.read_text("utf8")
    header = yaml.safe_load(text.split("\n---\n", 1)[0]) if text.startswith("---\n") else None
    return "kernelspec" in (header or {})
