"""Writes tests/data/checkpoints with the real packages: `python tests/data/make_checkpoints.py` (lightning, transformers).

Each folder holds the checkpoints of one short training and `expected.json`: the losses that plain torch computes in float64
at the moment of saving, by step. What would name the machine (the trainer's arguments) is removed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HERE = Path(__file__).parent / "checkpoints"


class Net(nn.Module):
    """A small network with all kinds of layers that a checkpoint can hold."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.body(x))
        return logits


def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return inputs that no version of torch draws otherwise, and which of the first three is the largest."""
    place = torch.arange(count * 6, dtype=torch.float64).reshape(count, 6) + 1000 * seed
    x = ((place * 0.6180339887498949).frac() * 2 - 1).float()
    return x, x[:, :3].argmax(1)


def data() -> dict[str, tuple[Tensor, Tensor]]:
    """Return the examples on which the checkpoints are evaluated."""
    return {"train": examples(60, 0), "heldout": examples(40, 1)}


def losses(model: nn.Module) -> dict[str, float]:
    """Return both losses of a model in evaluation mode, computed here and now in float64."""
    was = model.training
    model.eval()
    with torch.no_grad():
        found = {
            f"{split}_loss": float(nn.functional.cross_entropy(model(x).double(), y))
            for split, (x, y) in data().items()
        }
    model.train(was)
    return found


def write_lightning(folder: Path) -> None:
    """Train with Lightning and save every fifth step under the names that it gives by default."""
    import lightning as L

    class Wrapped(L.LightningModule):
        def __init__(self) -> None:
            L.LightningModule.__init__(self)
            self.model = Net()

        def training_step(self, batch: Any, _: int) -> Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 1e-2)

    expected: dict[int, Any] = {}

    class Saving(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            if trainer.global_step % 5 == 0:
                trainer.save_checkpoint(folder / f"epoch={trainer.current_epoch}-step={trainer.global_step}.ckpt")
                expected[trainer.global_step] = losses(module.model)

    L.seed_everything(0)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()["train"]), 20, shuffle=True)
    trainer = L.Trainer(
        max_steps=15, callbacks=[Saving()], logger=False, enable_checkpointing=False, accelerator="cpu", devices=1,
        enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(Wrapped(), loader)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def write_hugging_face(folder: Path) -> None:
    """Train with Hugging Face's trainer, which saves every fifth step and evaluates then."""
    import numpy as np
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class WithLoss(Net):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
            logits = self.fc(self.body(x))
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    expected: dict[int, Any] = {}

    class Saving(TrainerCallback):
        def on_save(self, arguments: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            plain = Net()
            plain.load_state_dict(model.state_dict())
            expected[state.global_step] = losses(plain)

    def rows(split: str) -> list[dict[str, Any]]:
        return [{"x": x, "labels": int(y)} for x, y in zip(*data()[split], strict=True)]

    def accuracy(seen: Any) -> dict[str, float]:
        return {"accuracy": float((np.argmax(seen.predictions, -1) == seen.label_ids).mean())}

    torch.manual_seed(0)
    arguments = TrainingArguments(
        str(folder), max_steps=15, save_steps=5, eval_steps=5, logging_steps=1, eval_strategy="steps", report_to=[],
        per_device_train_batch_size=20, learning_rate=1e-2, use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    trainer = Trainer(
        WithLoss(), arguments, train_dataset=rows("train"), eval_dataset=rows("heldout"), compute_metrics=accuracy,
        callbacks=[Saving()],
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    for name in ("training_args.bin", "rng_state.pth"):
        for path in folder.rglob(name):
            path.unlink()
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def write_shards(folder: Path) -> None:
    """Write one state in shards with its index, as Hugging Face's hub does."""
    from huggingface_hub import save_torch_state_dict

    torch.manual_seed(0)
    model = Net()
    (folder / "step_7").mkdir()
    save_torch_state_dict(model.state_dict(), folder / "step_7", max_shard_size=200)
    (folder / "expected.json").write_text(json.dumps({7: losses(model)}, indent=1) + "\n")


def main() -> None:
    """Write all folders anew."""
    for name, write in (("lightning", write_lightning), ("huggingface", write_hugging_face), ("shards", write_shards)):
        with tempfile.TemporaryDirectory() as made:
            write(Path(made))
            shutil.rmtree(HERE / name, ignore_errors=True)
            shutil.copytree(made, HERE / name)


if __name__ == "__main__":
    main()
