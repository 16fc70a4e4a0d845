"""Where things are: the course's configuration, its text notebooks and their order."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

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
        prefix = "https://github.com/"
        if not url.startswith(prefix) or url.removeprefix(prefix).strip("/").count("/") != 1:
            raise PipelineError(f"_config.yml: repository.url must be {prefix}ORG/REPO, not {url!r}")
        return url.removeprefix(prefix).strip("/")

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

    def blob_url(self, path: Path) -> str:
        """Address of a file's page on GitHub."""
        return f"https://github.com/{self.repository}/blob/{self.branch}/{self.name(path)}"

    def raw_url(self, path: Path) -> str:
        """Address of a file's bytes, for images in a notebook that is opened without its folder."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.branch}/{self.name(path)}"

    def colab_url(self, path: Path) -> str:
        """Address that opens a notebook in Colab."""
        return f"https://colab.research.google.com/github/{self.repository}/blob/{self.branch}/{self.name(path)}"

    def name(self, path: Path) -> str:
        """A path as messages show it: from the root, with slashes."""
        return path.relative_to(self.root).as_posix()

    @functools.cached_property
    def toc(self) -> list[Path]:
        """The pages of `_toc.yml` in reading order."""
        tree = yaml.safe_load((self.root / "_toc.yml").read_text("utf8"))
        pages = [self.root / f"{name.removesuffix('.md')}.md" for name in _toc_files(tree)]
        for page in pages:
            if not page.is_file():
                raise PipelineError(f"_toc.yml names {self.name(page)}, which is not there")
        return pages

    @functools.cached_property
    def text_notebooks(self) -> list[Path]:
        """Every page with a kernel, those of the table of contents first and in its order."""
        found = [path for path in self._files(".md") if has_kernel(path)]
        order = {path: position for position, path in enumerate(self.toc)}
        return sorted(found, key=lambda path: (order.get(path, len(order)), path))

    @property
    def generated_notebooks(self) -> list[Path]:
        """Every `.ipynb` that lies where generated notebooks lie."""
        return list(self._files(".ipynb"))

    @property
    def executed(self) -> Path:
        """The folder of executed notebooks that are not published yet."""
        return self.root / "_build" / "executed"

    def executed_path(self, source: Path) -> Path:
        """Where the executed form of a text notebook is kept."""
        return (self.executed / self.name(source)).with_suffix(".ipynb")

    def select(self, names: list[str]) -> list[Path]:
        """The text notebooks with these names (`02_hyperfitting` or `solutions/02_hyperfitting`, with or without a
        suffix); all of them for no name."""
        if not names:
            return self.text_notebooks
        wanted = {Path(name).with_suffix("").as_posix() for name in names}
        known = {path: {path.stem, Path(self.name(path)).with_suffix("").as_posix()} for path in self.text_notebooks}
        unknown = wanted - set().union(*known.values())
        if unknown:
            raise PipelineError(f"no text notebook is called {', '.join(sorted(unknown))}")
        return [path for path, called in known.items() if wanted & called]

    def _files(self, suffix: str) -> Iterator[Path]:
        for folder in FOLDERS:
            for path in sorted((self.root / folder).rglob(f"*{suffix}")):
                if not any(part.startswith(".") for part in path.relative_to(self.root).parts):
                    yield path


def has_kernel(path: Path) -> bool:
    """Whether a page's header names a kernel, which makes the page a notebook."""
    return "kernelspec" in front_matter(path.read_text("utf8"))


def front_matter(text: str) -> dict[str, Any]:
    """The YAML header of a page."""
    if not text.startswith("---\n"):
        return {}
    return yaml.safe_load(text.split("\n---\n", 1)[0]) or {}


def _toc_files(entry: Any) -> Iterator[str]:
    """The file names in a table of contents, at any depth, in order."""
    if isinstance(entry, list):
        for item in entry:
            yield from _toc_files(item)
    elif isinstance(entry, dict):
        for key, value in entry.items():
            if key in ("root", "file"):
                yield value
            else:
                yield from _toc_files(value)
