"""What holds for images: IDX files are read as written, only the published bytes count, and a lack is said in words."""

from __future__ import annotations

import gzip
import shutil
import urllib.error
import urllib.request
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from small_images import FOLDER, SMALL, small_images
from twoclocks.errors import InputError
from twoclocks.training.images import (
    HELDOUT_LABELS,
    IMAGE_SETS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    VARIABLE,
    ImageSet,
    cache_of,
    checksum,
    image_set,
    parsed_idx,
    read_images,
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*asked: object, **how: object) -> None:
        raise urllib.error.URLError("there is no network in a test")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(VARIABLE, raising=False)


def idx(array: np.ndarray) -> bytes:
    """Return an IDX file, written field by field as its format is described."""
    lengths = b"".join(int(length).to_bytes(4, "big") for length in array.shape)
    return bytes([0, 0, 8, array.ndim]) + lengths + array.astype(np.uint8).tobytes()


def with_file(name: str, content: bytes) -> ImageSet:
    """Return the small set, believing that this content is what was published under that name."""
    return replace(SMALL, checksums={**SMALL.checksums, name: checksum(content)})


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 3, 4), (0, 28, 28)])
def test_an_idx_file_is_read_as_it_was_written(shape: tuple[int, ...]) -> None:
    written = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    read = parsed_idx(idx(written), "here")
    assert read.shape == shape
    np.testing.assert_array_equal(read, written)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is no IDX file of unsigned bytes: it begins with [], not 0, 0, 8, axes"),
        (b"\x1f\x8b\x08\x00more", "it begins with [31, 139, 8, 0]"),
        (bytes([0, 0, 9, 1, 0, 0, 0, 0]), "it begins with [0, 0, 9, 1]"),
        (bytes([0, 0, 8, 3, 0, 0]), "ends inside its header: 16 bytes were expected, got 6"),
        (idx(np.arange(6))[:-2], "says it holds 6 bytes of data, but holds 4"),
        (idx(np.arange(6)) + b"?", "says it holds 6 bytes of data, but holds 7"),
    ],
)
def test_a_damaged_idx_file_is_refused_in_one_sentence(content: bytes, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        parsed_idx(content, "a/file")
    assert str(refused.value).startswith("a/file ") and sentence in str(refused.value)


def test_the_shipped_images_are_thirty_and_ten_of_each_class() -> None:
    images = small_images()
    assert images.train.shape == (300, 28, 28) and images.heldout.shape == (100, 28, 28)
    assert images.train.dtype == torch.uint8 and int(images.train.max()) == 255
    assert torch.bincount(images.train_labels).tolist() == [30] * 10
    assert torch.bincount(images.heldout_labels).tolist() == [10] * 10
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 200_000


def test_plain_and_gzipped_files_anywhere_under_the_folder_are_the_same(tmp_path: Path) -> None:
    for number, path in enumerate(sorted(FOLDER.glob("*.gz"))):
        deep = tmp_path / "some" / str(number)
        deep.mkdir(parents=True)
        (deep / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    found = read_images(SMALL, tmp_path)
    assert torch.equal(found.train, small_images().train)
    assert torch.equal(found.heldout_labels, small_images().heldout_labels)


def test_the_variable_is_searched_and_a_file_of_another_set_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-other").mkdir()
    (tmp_path / "a-other" / TRAIN_LABELS).write_bytes(idx(np.zeros(300)))
    shutil.copytree(FOLDER, tmp_path / "b-ours")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert torch.equal(read_images(SMALL).train_labels, small_images().train_labels)


def test_known_places_come_after_the_variable_and_before_the_network(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "system")
    known = replace(SMALL, known_places=(str(tmp_path / "system"),))
    assert torch.equal(read_images(known).heldout, small_images().heldout)


def test_a_missing_set_names_the_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(InputError) as refused:
        read_images(SMALL)
    said = str(refused.value)
    for choice in (str(tmp_path), "http://nowhere.invalid/train-images-idx3-ubyte.gz", f"set {VARIABLE} to a folder"):
        assert choice in said
    assert "\n" not in said


def test_a_folder_that_is_named_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(FOLDER))
    with pytest.raises(InputError, match=f"small: no {TRAIN_IMAGES} in .*, the folder that was named"):
        read_images(SMALL, tmp_path)
    (tmp_path / TRAIN_IMAGES).write_bytes(b"other bytes")
    with pytest.raises(InputError, match=f"no {TRAIN_IMAGES} with the published checksum .*{TRAIN_IMAGES} has another"):
        read_images(SMALL, tmp_path)


def test_a_torn_gzip_file_is_refused(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "torn")
    torn = tmp_path / "torn" / f"{HELDOUT_LABELS}.gz"
    torn.write_bytes(torn.read_bytes()[:40])
    with pytest.raises(InputError, match="is not a whole gzip file"):
        read_images(SMALL, tmp_path / "torn")


@pytest.mark.parametrize("labels", [np.zeros(299), np.zeros((300, 1))])
def test_labels_that_do_not_fit_the_images_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    shutil.copytree(FOLDER, tmp_path / "set")
    (tmp_path / "set" / f"{TRAIN_LABELS}.gz").unlink()
    (tmp_path / "set" / TRAIN_LABELS).write_bytes(idx(labels))
    with pytest.raises(InputError, match=r"a label for each in train-labels.*got shapes \(300, 28, 28\) and"):
        read_images(with_file(TRAIN_LABELS, idx(labels)), tmp_path / "set")


def test_a_download_is_checked_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(address: str, timeout: float) -> BytesIO:
        asked.append(address)
        assert timeout > 0
        return BytesIO((FOLDER / address.rsplit("/", 1)[1]).read_bytes())

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    for _ in range(2):
        assert torch.equal(read_images(SMALL).train, small_images().train)
    assert sorted(asked) == sorted(f"http://nowhere.invalid/{name}.gz" for name in SMALL.checksums)
    assert sorted(path.name for path in cache_of(SMALL).iterdir()) == sorted(f"{name}.gz" for name in SMALL.checksums)


def test_a_download_of_something_else_is_refused_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda address, timeout: BytesIO(gzip.compress(b"other")))
    with pytest.raises(InputError, match="did not send the published file: SHA-256"):
        read_images(SMALL)
    assert not cache_of(SMALL).exists()


def test_the_published_sets_have_four_files_with_checksums_each() -> None:
    sums = [checksum for chosen in IMAGE_SETS.values() for checksum in chosen.checksums.values()]
    assert len(sums) == len(set(sums)) == 8 and all(len(bytes.fromhex(given)) == 32 for given in sums)
    with pytest.raises(InputError, match="Did you mean 'fashion-mnist'"):
        image_set("fashion-mnits")
