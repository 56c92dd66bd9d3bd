"""This file knows epoch-wise double descent on MNIST with wrong labels: a fast readout memorises, a slow encoder repairs.

1000 images of 14 by 14, a fifth of their labels wrong, one hidden ReLU layer. The readout learns hundreds of times faster
than the encoder below it: held-out error falls, rises while the readout memorises wrong labels on features that are
still nearly random, and falls again as the encoder, worn by its decay, comes to serve the readout. Slowing only the
readout (`readout_lr`) removes the rise, as arXiv 2007.10099 found for convolutional networks by gradient descent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from twoclocks.training.images import Images, image_set, read_images
from twoclocks.training.mlp import READOUT, mlp
from twoclocks.training.modules import shuffled_batches
from twoclocks.training.optimizers import AdamW
from twoclocks.training.recipe import Expected, Problem, Recipe, SaveAt, Setting, defaults_of, resolve_settings

NAME = "label-noise"
CLASSES = 10
POOL = 2
MEAN, DEVIATION = 0.13, 0.28  # of the pooled pixels of MNIST, rounded
SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        "images": Setting("mnist", 0, 0, "the set of images", ("mnist", "fashion-mnist")),
        "examples": Setting(1000, 10, 60_000, "images trained on, drawn at random"),
        "heldout": Setting(
            10_000, 10, 10_000, "images held out, with their true labels: the first ones of the test half"
        ),
        "noise": Setting(0.2, 0.0, 1.0, "share of the training labels that are replaced by a wrong one"),
        "hidden": Setting(100, 1, 65536, "units in the hidden layer"),
        "init_scale": Setting(3.0, 0.0, 1e3, "factor of all initial weights, biases too"),
        "batch": Setting(200, 1, 60_000, "images in one update"),
        "lr": Setting(5e-6, 0.0, 1e4, "learning rate of the encoder"),
        "readout_lr": Setting(1e-2, 0.0, 1e4, "learning rate of the readout; 1e-4 removes the double descent"),
        "weight_decay": Setting(60.0, 0.0, 1e6, "decoupled weight decay of the encoder"),
        "readout_decay": Setting(0.1, 0.0, 1e6, "decoupled weight decay of the readout"),
        "beta1": Setting(0.9, 0.0, 0.9999, "memory of the mean gradient"),
        "beta2": Setting(0.999, 0.0, 0.999999, "memory of the mean squared gradient"),
        "dtype": Setting("float32", 0, 0, "number format of weights and images", ("float32", "float64")),
        "steps": Setting(12_000, 1, 100_000_000, "optimiser steps"),
        "data_seed": Setting(0, 0, 2**62, "seed of the images and of the wrong labels"),
    }
)
# Over 3 seeds of one draw of images (medians of 5 evaluations): held-out error .25 to .26 at steps 84 to 133, .30 to .32 at
# 960 to 1585, .19 to .20 at the end. With readout_lr=1e-4 it never rose by more than 0.2 points, to .17 at the end. Without any
# decay (one seed, 6000 steps) it rose to .45 and stayed. Other noise, sets of images and sizes were not run.
EXPECTED = Expected("epoch-wise double descent", None, {})
COST = 35.0


def label_noise(*, readout_lr: float = 1e-2, **settings: Any) -> Recipe:
    """Return the recipe of MNIST with wrong labels; `SETTINGS` says what can be set, readout_lr=1e-4 is its control.

    Raises:
        InputError: a setting is unknown, of the wrong type, or out of range.

    >>> label_noise(noise=0.1).settings["noise"]
    0.1
    """
    resolved = resolve_settings(NAME, SETTINGS, {"readout_lr": readout_lr, **settings})
    defaults = defaults_of(SETTINGS)
    return Recipe(
        name=NAME,
        title="MNIST with wrong labels",
        source="phenomenon arXiv 1912.02292; layers of unequal speed as its cause arXiv 2007.10099; this setting is ours",
        settings=resolved,
        save_at=SaveAt(
            per_decade=40,
            every=max(1, int(resolved["steps"]) // 100),
            snapshots_per_decade=8,
            snapshot_every=max(1, int(resolved["steps"]) // 8),
            examples=5000,
        ),
        problem=problem,
        cost=COST * work(resolved) / work(defaults),
        expected=EXPECTED if resolved == defaults else None,
    )


def problem(settings: Mapping[str, Any]) -> Problem:
    """Return the network on its images, as the settings say."""
    return problem_on(read_images(image_set(settings["images"])), settings)


def problem_on(images: Images, settings: Mapping[str, Any]) -> Problem:
    """Return the network on some of these images: training labels in part wrong, held-out labels all true."""
    drawn = torch.Generator().manual_seed(settings["data_seed"])
    rows = torch.randperm(len(images.train), generator=drawn)[: settings["examples"]]
    heldout, dtype = settings["heldout"], getattr(torch, settings["dtype"])
    inputs = {
        "train": small_pixels(images.train[rows], dtype),
        "heldout": small_pixels(images.heldout[:heldout], dtype),
    }
    labels = {
        "train": with_wrong_labels(images.train_labels[rows], settings["noise"], generator=drawn),
        "heldout": images.heldout_labels[:heldout],
    }
    network = mlp(
        inputs,
        labels,
        widths=(inputs["train"].shape[1], settings["hidden"], CLASSES),
        scale=settings["init_scale"],
        batches=shuffled_batches(len(rows), settings["batch"]),
    )
    return replace(network, rules=rules_of(network.blocks, settings))


def rules_of(blocks: Mapping[str, tuple[str, ...]], settings: Mapping[str, Any]) -> dict[str, AdamW]:
    """Return the update rule of each block: one for the readout, one for everything below it."""
    betas = settings["beta1"], settings["beta2"]
    encoder = AdamW(settings["lr"], *betas, settings["weight_decay"])
    return {**dict.fromkeys(blocks, encoder), READOUT: AdamW(settings["readout_lr"], *betas, settings["readout_decay"])}


def with_wrong_labels(labels: Tensor, share: float, *, generator: torch.Generator) -> Tensor:
    """Return labels of which the whole part of share · n, chosen at random, are each replaced by another class.

    >>> labels = torch.arange(10)
    >>> (with_wrong_labels(labels, 0.25, generator=torch.Generator().manual_seed(0)) != labels).sum()
    tensor(2)
    """
    wrong = torch.randperm(len(labels), generator=generator)[: int(share * len(labels))]
    noisy = labels.clone()
    noisy[wrong] = (labels[wrong] + torch.randint(1, CLASSES, (len(wrong),), generator=generator)) % CLASSES
    return noisy


def small_pixels(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return images of bytes as rows `[n d]`: 2 by 2 pixels averaged, from 0 to 1, then less 0.13 and over 0.28.

    >>> small_pixels(torch.full((1, 4, 4), 255, dtype=torch.uint8), torch.float64).shape
    torch.Size([1, 4])
    """
    pooled = F.avg_pool2d(images[:, None].to(dtype) / 255, POOL).flatten(1)
    return (pooled - MEAN) / DEVIATION


def work(settings: Mapping[str, Any]) -> float:
    """Return the multiplications of a training, up to a constant: steps · images in a batch · hidden units."""
    return float(settings["steps"] * settings["batch"] * settings["hidden"])
