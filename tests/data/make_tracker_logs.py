"""This file knows how the logs under tests/data/trackers were written: each by the package whose format it is.

Run it in an environment of its own, since it needs packages that the tests do not:

    pip install torch tensorboard tensorboardX wandb trackio mlflow transformers accelerate lightning keras pyarrow pandas
    python tests/data/make_tracker_logs.py tests/data/trackers

Every format holds the same table (`rows`, below): two runs of one experiment, seeds 0 and 1, whose numbers are whole
multiples of 1/1024, so that formats in single precision hold them exactly. Names of packages and their versions go to
versions.json. The exports of W&B's web pages (wandb-export-*.csv) cannot be written offline; they follow its layout.
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import logging
import os
import shutil
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SEEDS = (0, 1)
LAST, EVERY, EVAL_EVERY = 200, 5, 10
PACKAGES = (
    "torch", "tensorboard", "tensorboardX", "wandb", "trackio", "mlflow", "transformers", "lightning", "keras", "pyarrow",
    "pandas",
)  # fmt: skip
Row = dict[str, float]


def rounded(value: float) -> float:
    """Return a value as a whole multiple of 1/1024."""
    return round(value * 1024) / 1024


def rows(seed: int) -> Iterator[tuple[int, Row]]:
    """Yield (step, values): training measures every 5 steps, held-out ones every 10; a small run that groks at 120."""
    for step in range(0, LAST + 1, EVERY):
        row = {
            "train_loss": rounded(3 / (1 + step / (4 + seed))),
            "train_acc": rounded(min(1.0, 0.05 + step / (30 + seed))),
        }
        if step % EVAL_EVERY == 0:
            late = min(1.0, max(0.0, (step - 100 - 10 * seed) / 30))
            row |= {"val_loss": rounded(4 - 3.9 * late), "val_acc": rounded(0.05 + 0.95 * late)}
        yield step, row


def tensorboard_v1(folder: Path) -> None:
    """Write simple values with PyTorch's writer, seed 0 in two files as after a restart at step 100."""
    import torch
    from torch.utils.tensorboard import SummaryWriter

    for seed in SEEDS:
        for start, stop in ((0, 120), (100, LAST)) if seed == 0 else ((0, LAST),):
            (folder / f"seed{seed}").mkdir(exist_ok=True)
            writer = SummaryWriter(str(folder / f"seed{seed}"), filename_suffix=f".{start}")
            for step, row in rows(seed):
                for tag, value in row.items():
                    if start <= step <= stop:
                        writer.add_scalar(tag.replace("_", "/", 1), value, step)
            writer.add_text("note", "not a scalar", 0)
            writer.add_histogram("weights", torch.arange(3.0), 0)
            writer.close()


def tensorboard_v2(folder: Path) -> None:
    """Write scalars as tensors with TensorBoard's own writer, training and validation in folders of their own (as Keras)."""
    from tensorboard.summary import Writer

    for part in ("train", "validation"):
        writer = Writer(str(folder / part))
        for step, row in rows(0):
            for tag, value in row.items():
                if tag.startswith("train") == (part == "train"):
                    name = "epoch_loss" if tag.endswith("loss") else "epoch_accuracy"
                    writer.add_scalar(name, value, step)
        writer.close()


def tensorboard_x(folder: Path) -> None:
    """Write simple values with tensorboardX."""
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(folder))
    for step, row in rows(0):
        for tag, value in row.items():
            writer.add_scalar(tag, value, step)
    writer.close()


def wandb_offline(folder: Path) -> None:
    """Write two offline runs with W&B."""
    os.environ |= {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_DISABLE_CODE": "true",
        "WANDB_CONSOLE": "off",
    }
    import wandb

    for seed in SEEDS:
        config = {"lr": 0.001, "seed": seed, "model": {"width": 128}}
        run = wandb.init(
            project="grokking", name=f"grok-seed{seed}", dir=str(folder), config=config,
            settings=wandb.Settings(x_disable_stats=True, host="host", x_disable_meta=True, disable_git=True),
        )  # fmt: skip
        for step, row in rows(seed):
            run.log(
                {"eval" + tag[3:] if tag.startswith("val") else tag.replace("_", "/"): v for tag, v in row.items()},
                step=step,
            )
        run.finish()
    shutil.rmtree(folder / "wandb" / "latest-run", ignore_errors=True)
    for extra in [*folder.rglob("*.log"), *folder.rglob("latest-run"), *folder.rglob("requirements.txt")]:
        extra.unlink()


def trackio_store(folder: Path) -> None:
    """Write two runs with trackio, and its own export to parquet; one loss is NaN and one infinite."""
    os.environ |= {"TRACKIO_DIR": str(folder), "HF_HUB_OFFLINE": "1"}
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    for seed in SEEDS:
        run = trackio.init(project="grokking", name=f"seed-{seed}", config={"lr": 0.001, "seed": seed})
        for step, row in rows(seed):
            run.log(row | {"odd": {0: float("nan"), 5: float("inf")}.get(step, 1.0)}, step=step)
        run.finish()
    SQLiteStorage.export_to_parquet()


def mlflow_files(folder: Path) -> None:
    """Write two runs into MLflow's store of files, one more that was deleted."""
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    mlflow_runs((folder / "mlruns").as_uri())


def mlflow_database(folder: Path) -> None:
    """Write the same into MLflow's store in SQLite."""
    mlflow_runs(f"sqlite:///{folder / 'mlflow.db'}")


def mlflow_runs(uri: str) -> None:
    """Write two runs and a deleted one into a store of MLflow."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("grokking")
    for seed in SEEDS:
        with mlflow.start_run(run_name=f"seed-{seed}"):
            mlflow.log_params({"lr": 0.001, "seed": seed})
            for step, row in rows(seed):
                for name, value in row.items():
                    mlflow.log_metric(name.replace("_", "/", 1), value, step=step)
                if step in (0, 5, 10):
                    mlflow.log_metric("odd", {0: float("nan"), 5: float("inf"), 10: 1.0}[step], step=step)
    with mlflow.start_run(run_name="mistake") as run:
        mlflow.log_metric("train/loss", 9.0, step=0)
    mlflow.delete_run(run.info.run_id)


def hugging_face(folder: Path) -> None:
    """Write checkpoint folders with the Trainer of transformers; only their trainer_state.json is kept."""
    import torch
    from transformers import Trainer, TrainingArguments

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(2, 2)

        def forward(self, x: Any, labels: Any) -> dict[str, Any]:
            logits = self.fc(x)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    torch.manual_seed(0)
    data = [{"x": torch.randn(2), "labels": torch.tensor(i % 2)} for i in range(32)]
    arguments = TrainingArguments(
        str(folder), max_steps=40, logging_steps=4, eval_strategy="steps", eval_steps=8, save_steps=20, report_to=[],
        per_device_train_batch_size=8, use_cpu=True, disable_tqdm=True, seed=0,
    )  # fmt: skip

    def accuracy(prediction: Any) -> dict[str, float]:
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    trainer = Trainer(Net(), arguments, train_dataset=data, eval_dataset=data, compute_metrics=accuracy)
    trainer.train()
    trainer.save_state()
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "trainer_state.json":
            path.unlink()


def lightning_csv(folder: Path) -> None:
    """Write metrics.csv with Lightning's CSVLogger, one version a seed."""
    from lightning.pytorch.loggers import CSVLogger

    for seed in SEEDS:
        logger = CSVLogger(str(folder), name="lightning_logs", version=seed)
        for step, row in rows(seed):
            for part in ("train", "val"):
                values = {k: v for k, v in row.items() if k.startswith(part)}
                if values:
                    logger.log_metrics(values | {"epoch": step // 50}, step=step)
        logger.save()
    for path in folder.rglob("hparams.yaml"):
        path.unlink()


def keras_csv(folder: Path) -> None:
    """Write training.csv with Keras' CSVLogger, its numbers ours and the History as JSON beside it."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    names = {"train_acc": "accuracy", "train_loss": "loss", "val_acc": "val_accuracy", "val_loss": "val_loss"}
    logger = keras.callbacks.CSVLogger(str(folder / "training.csv"))
    history = keras.callbacks.History()
    model = keras.Sequential([keras.layers.Dense(1)])
    for callback in (logger, history):
        callback.set_model(model)
        callback.on_train_begin()
        for epoch, (_, row) in enumerate((s, r) for s, r in rows(0) if len(r) == 4):
            callback.on_epoch_end(epoch, {names[name]: value for name, value in row.items()})
    logger.on_train_end()
    (folder / "history.json").write_text(json.dumps(history.history))


def tables(folder: Path) -> None:
    """Write parquet, JSON forms of the same table, and exports in the layout of W&B's web pages."""
    import pandas as pd

    both = [{"seed": seed, "step": step} | row for seed in SEEDS for step, row in rows(seed)]
    frame = pd.DataFrame(both)
    frame.to_parquet(folder / "runs.parquet", index=False)
    frame[frame.seed == 0].drop(columns="seed").to_parquet(folder / "one.parquet", index=False)
    one = [{"step": step} | row for step, row in rows(0)]
    (folder / "records.json").write_text(json.dumps(one))
    columns = {
        name: [row.get(name) for row in one] for name in ("step", "train_loss", "train_acc", "val_loss", "val_acc")
    }
    (folder / "columns.json").write_text(json.dumps(columns))
    with (folder / "wandb-export-one-column-a-run.csv").open("w", newline="") as file:
        names = [
            f"grok-seed{s} - {m}{end}"
            for m in ("train_acc", "val_acc")
            for s in SEEDS
            for end in ("", "__MIN", "__MAX")
        ]
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["Step", *names])
        seeds = [dict(rows(seed)) for seed in SEEDS]
        for step in seeds[0]:
            cells = [seeds[s][step].get(m, "") for m in ("train_acc", "val_acc") for s in SEEDS for _ in range(3)]
            writer.writerow([step, *cells])


MAKERS: dict[str, Callable[[Path], None]] = {
    "tensorboard-v1": tensorboard_v1,
    "tensorboard-v2": tensorboard_v2,
    "tensorboardx": tensorboard_x,
    "wandb": wandb_offline,
    "trackio": trackio_store,
    "mlflow-files": mlflow_files,
    "mlflow-database": mlflow_database,
    "hugging-face": hugging_face,
    "lightning": lightning_csv,
    "keras": keras_csv,
    "tables": tables,
}


def make_anonymous(folder: Path) -> None:
    """Take out of what was written where and by whom it was, and what makes databases large without holding numbers."""
    for path in sorted(folder.rglob("*")):
        if "tfevents" in path.name:
            path.rename(path.with_name(path.name.replace(f".{socket.gethostname()}", ".host")))
        elif path.name == "meta.yaml":
            lines = path.read_text().splitlines()
            path.write_text("".join(f"{line}\n" for line in lines if not line.startswith(("artifact_", "user_id"))))
        elif path.suffix == ".lock" or (path.parent.name == "tags" and path.name != "mlflow.runName"):
            path.unlink()
        elif path.suffix == ".db":
            shrink(path)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def shrink(path: Path) -> None:
    """Drop the empty tables of a database, keep no path in the others, and write it again with small pages."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = DELETE")
    database.execute("PRAGMA foreign_keys = OFF")
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for name in tables:
        if not name.startswith("sqlite_") and not database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone():
            database.execute(f"DROP TABLE {name}")
    if "runs" in tables:
        database.execute("UPDATE runs SET artifact_uri = '', user_id = ''")
        database.execute("UPDATE experiments SET artifact_location = ''")
        database.execute("DELETE FROM tags WHERE key != 'mlflow.runName'")
    database.commit()
    database.execute("PRAGMA page_size = 512")
    database.execute("VACUUM")
    database.close()


def main(target: Path, only: list[str]) -> None:
    """Write every format into a folder of its own, and the truth beside them."""
    logging.disable(logging.INFO)
    for name, make in MAKERS.items():
        if not only or name in only:
            with tempfile.TemporaryDirectory() as made:
                make(Path(made))
                make_anonymous(Path(made))
                shutil.rmtree(target / name, ignore_errors=True)
                shutil.copytree(made, target / name)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    (target / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")
    truth = {f"seed {seed}": [{"step": step} | row for step, row in rows(seed)] for seed in SEEDS}
    (target / "truth.json").write_text(json.dumps(truth, indent=None) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
