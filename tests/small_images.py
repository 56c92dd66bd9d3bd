"""This file knows the 400 Fashion-MNIST images that lie beside the tests."""

from __future__ import annotations

from pathlib import Path

from twoclocks.training.images import Images, ImageSet, read_images

FOLDER = Path(__file__).parent / "data" / "images"
SMALL = ImageSet(
    "small",
    {
        "train-images-idx3-ubyte": "ec49a9be4334b259595f886d8da28fddd192461655e707ee9f017511d29774bd",
        "train-labels-idx1-ubyte": "e6c106319a238f9eea628d779b43a69c8bd6d080f473c4da1983cdfb6fe3c504",
        "t10k-images-idx3-ubyte": "a00ee5887647dabdc9c4649e4ae047789fe0d67ca86f5ba6c760341c1bd06de7",
        "t10k-labels-idx1-ubyte": "9ef533be234460a50861815334f1c44c72453b670823aae2199cb1a147b836c5",
    },
    address="http://nowhere.invalid/",
)


def small_images() -> Images:
    return read_images(SMALL, FOLDER)
