"""This file knows where sets of small grey images lie, how their IDX files are read, and that their bytes are the right ones.

A set is four IDX files, plain or gzipped. They are looked for in a folder that is named, then anywhere under
`$TWOCLOCKS_DATA`, then where systems keep them, and are downloaded last. A file counts only if the SHA-256 of its plain
bytes is the published one: MNIST and Fashion-MNIST use the same four names.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twoclocks.errors import InputError, nearest
from twoclocks.store import replace_file, told

VARIABLE = "TWOCLOCKS_DATA"
TIMEOUT = 30.0  # seconds without a byte
BYTE_MAGIC = b"\x00\x00\x08"  # two zeros, then the code of unsigned bytes; the number of axes follows
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
HELDOUT_IMAGES, HELDOUT_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@dataclass(frozen=True)
class ImageSet:
    """A published set of images: the SHA-256 of the plain bytes of its files, its address, and where systems keep it."""

    name: str
    checksums: Mapping[str, str]
    address: str
    known_places: tuple[str, ...] = ()


@dataclass(frozen=True)
class Images:
    """Images `[n h w]` as bytes from 0 (ground) to 255 (ink), and their labels `[n]`, as published: train and held-out."""

    train: Tensor
    train_labels: Tensor
    heldout: Tensor
    heldout_labels: Tensor


IMAGE_SETS: Mapping[str, ImageSet] = MappingProxyType(
    {
        "mnist": ImageSet(
            "mnist",
            MappingProxyType(
                {
                    TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                    TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                    HELDOUT_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                    HELDOUT_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                }
            ),
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        "fashion-mnist": ImageSet(
            "fashion-mnist",
            MappingProxyType(
                {
                    TRAIN_IMAGES: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                    TRAIN_LABELS: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                    HELDOUT_IMAGES: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                    HELDOUT_LABELS: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                }
            ),
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            ("/usr/share/datasets/fashion-mnist",),  # where Debian's package dataset-fashion-mnist puts it
        ),
    }
)


def image_set(name: str) -> ImageSet:
    """Return the published set of that name.

    Raises:
        InputError: there is no such set.

    >>> image_set("mnist").checksums["t10k-labels-idx1-ubyte"][:8]
    'ff7bcfd4'
    """
    if name not in IMAGE_SETS:
        raise InputError(f"there is no set of images '{name}'.{nearest(name, list(IMAGE_SETS))}")
    return IMAGE_SETS[name]


def read_images(chosen: ImageSet, folder: str | Path | None = None) -> Images:
    """Return the images of a set: from `folder` if one is named, else from wherever they lie, else downloaded.

    Raises:
        InputError: a file is nowhere to be had, is damaged, or is not the published one.
    """
    arrays = {name: array_of(chosen, name, folder) for name in chosen.checksums}
    for images, labels in ((TRAIN_IMAGES, TRAIN_LABELS), (HELDOUT_IMAGES, HELDOUT_LABELS)):
        if arrays[images].ndim != 3 or arrays[labels].ndim != 1 or len(arrays[images]) != len(arrays[labels]):
            raise InputError(
                f"{chosen.name}: expected images [n, height, width] in {images} and a label for each in {labels}, "
                f"got shapes {arrays[images].shape} and {arrays[labels].shape}"
            )
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    return Images(
        tensors[TRAIN_IMAGES],
        tensors[TRAIN_LABELS].long(),
        tensors[HELDOUT_IMAGES],
        tensors[HELDOUT_LABELS].long(),
    )


def array_of(chosen: ImageSet, name: str, folder: str | Path | None) -> NDArray[np.uint8]:
    """Return one file of a set as an array."""
    path, content = content_of(chosen, name, folder)
    return parsed_idx(content, str(path))


def content_of(chosen: ImageSet, name: str, folder: str | Path | None) -> tuple[Path, bytes]:
    """Return one file of a set as plain bytes, and where they came from: the first copy with the right checksum."""
    refused: list[str] = []
    for path in copies_of(chosen, name, folder):
        content = plain(path)
        if checksum(content) == chosen.checksums[name]:
            return path, content
        refused.append(str(path))
    if folder is not None:
        raise InputError(f"{chosen.name}: {absent(name, refused)} in {folder}, the folder that was named")
    return downloaded(chosen, name, refused)


def copies_of(chosen: ImageSet, name: str, folder: str | Path | None) -> Iterator[Path]:
    """Give every file of that name where one may lie, in the order in which they are preferred."""
    for place in places_of(chosen, folder):
        for candidate in (name, f"{name}.gz"):
            yield from sorted(path for path in place.rglob(candidate) if path.is_file())


def places_of(chosen: ImageSet, folder: str | Path | None) -> list[Path]:
    """Return the folders to look in; one that is named is the only one."""
    if folder is not None:
        return [Path(folder)]
    variable = os.environ.get(VARIABLE)
    return [*([Path(variable)] if variable else []), *map(Path, chosen.known_places), cache_of(chosen)]


def cache_of(chosen: ImageSet) -> Path:
    """Return the folder that downloads of a set are kept in."""
    return Path.home() / ".cache" / "twoclocks" / chosen.name


def plain(path: Path) -> bytes:
    """Return the bytes of a file, unpacked where it is gzipped."""
    with told(f"read {path}"):
        content = path.read_bytes()
    return unpacked(content, str(path)) if path.suffix == ".gz" else content


def unpacked(content: bytes, where: str) -> bytes:
    """Return gzipped bytes as plain ones.

    >>> unpacked(gzip.compress(b"ink"), "here")
    b'ink'
    """
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as damage:
        raise InputError(f"{where} is not a whole gzip file ({damage}); delete it and fetch it again") from None


def checksum(content: bytes) -> str:
    """Return the SHA-256 of some bytes.

    >>> checksum(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()


def parsed_idx(content: bytes, where: str) -> NDArray[np.uint8]:
    """Return the array of an IDX file of unsigned bytes: 0, 0, 8, the number of axes, each length in four bytes, the data.

    Raises:
        InputError: it is not such a file, or holds more or fewer bytes than its header says.

    >>> parsed_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]), "three numbers")
    array([7, 8, 9], dtype=uint8)
    """
    if len(content) < 4 or content[:3] != BYTE_MAGIC or content[3] == 0:
        raise InputError(
            f"{where} is no IDX file of unsigned bytes: it begins with {list(content[:4])}, not 0, 0, 8, axes"
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise InputError(f"{where} ends inside its header: {start} bytes were expected, got {len(content)}")
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if len(content) - start != math.prod(shape):
        raise InputError(f"{where} says it holds {math.prod(shape)} bytes of data, but holds {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def downloaded(chosen: ImageSet, name: str, refused: list[str]) -> tuple[Path, bytes]:
    """Return one file of a set from its own project, kept for the next time, or refuse with the choices there are."""
    address, kept = f"{chosen.address}{name}.gz", cache_of(chosen) / f"{name}.gz"
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            packed: bytes = answer.read()
    except OSError as failure:
        raise InputError(
            f"{chosen.name}: {absent(name, refused)} in {', '.join(map(str, places_of(chosen, None)))}, and "
            f"{address} cannot be read ({failure}); set {VARIABLE} to a folder that holds the four IDX files"
        ) from None
    content = unpacked(packed, address)
    if checksum(content) != chosen.checksums[name]:
        raise InputError(f"{address} did not send the published file: SHA-256 {checksum(content)}")
    with told(f"write {kept}"):
        kept.parent.mkdir(parents=True, exist_ok=True)
    replace_file(kept, packed)
    return kept, content


def absent(name: str, refused: list[str]) -> str:
    """Return in words that a file was not found, or only copies of something else.

    >>> absent("a", []), absent("a", ["b/a"])
    ('no a', 'no a with the published checksum (b/a has another)')
    """
    return f"no {name} with the published checksum ({', '.join(refused)} has another)" if refused else f"no {name}"
