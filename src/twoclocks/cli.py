"""This file knows the commands: each parses its arguments, calls one function, prints what comes back."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from twoclocks import __version__
from twoclocks.diagnosis import Diagnosis, judge, open_source
from twoclocks.errors import InputError, nearest
from twoclocks.evidence import Evidence, examine
from twoclocks.labels import LABELS
from twoclocks.sources.logs import CANONICAL
from twoclocks.store import MANIFEST, replace_file
from twoclocks.text import as_text

if TYPE_CHECKING:
    from twoclocks.training.recipe import Expected

app = typer.Typer(
    name="twoclocks",
    help="Say what a training run is really doing: when it fitted, when it generalised, which part lags, whether to stop.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        typer.echo(f"twoclocks {__version__}")
        raise typer.Exit


@app.callback()
def twoclocks(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Say what a training run is really doing: when it fitted, when it generalised, which part lags, whether to stop."""


@app.command(epilog="Example: twoclocks run modular-addition --set weight_decay=0.5 --seeds 3 --out runs/wd05")
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe; `twoclocks recipes` lists them.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeatable.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train this many runs, with seeds 0, 1, ….")] = 1,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run folder; runs/RECIPE if not given.")] = None,
    json: Json = False,
) -> None:
    """Train a recipe, record it, diagnose it and write its page. Interrupted or killed, the same command resumes."""
    from twoclocks import recipes  # the only commands that need torch import it
    from twoclocks.training.loop import train

    chosen = recipes.recipe(recipe, pairs(settings or [], "--set"))
    folder = out or Path("runs") / recipe
    with progress_bar(f"training {recipe}") as progress:
        trajectory = train(chosen, seeds=range(seeds), folder=folder, progress=progress)
    with told_on_terminal("measuring and judging"):
        evidence = examine(trajectory)
        diagnosis = judge(evidence)
        replace_file(folder / "analysis" / "diagnosis.json", diagnosis.to_json().encode() + b"\n")
        page = written_page(evidence, diagnosis, folder / "analysis" / "report.html")
    show(diagnosis, json)
    if chosen.expected is not None:
        say(compared_with(chosen.expected, diagnosis), json)
    say(f"page: {page}", json)


@app.command(epilog="Example: twoclocks diagnose log.csv --map heldout_accuracy=dev_score --html page.html")
def diagnose(
    path: Annotated[
        Path,
        typer.Argument(
            help="A run folder, or a log: CSV, JSON, parquet, TensorBoard, W&B, MLflow, trackio, trainer_state.json."
        ),
    ],
    columns: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="CANONICAL=COLUMN", help=f"Name a column; canonical: {', '.join(CANONICAL)}."),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run", metavar="NAME", help="Of several runs in a log, read this one; repeated or `all`: as seeds."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the self-contained page to this file.")
    ] = None,
    fail_on: Annotated[
        list[str] | None, typer.Option("--fail-on", metavar="LABEL", help="Exit with code 1 on this label; repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Diagnose a run folder or a log."""
    for label in fail_on or []:
        if label not in LABELS:
            raise InputError(f"--fail-on: {label!r} is not a label.{nearest(label, list(LABELS))}")
    evidence = examine(open_source(path, pairs(columns or [], "--map"), run))
    diagnosis = judge(evidence)
    if html is not None:
        written_page(evidence, diagnosis, html)
    show(diagnosis, json)
    if html is not None:
        say(f"page: {html}", json)
    if diagnosis.label in (fail_on or []):
        raise typer.Exit(1)


@app.command(
    epilog="Example: twoclocks replay checkpoints --model train.py:build --data train.py:examples --out runs/replayed"
)
def replay(
    folder: Annotated[Path, typer.Argument(help="A folder of checkpoints: torch, safetensors, checkpoint-N folders.")],
    model: Annotated[str, typer.Option(metavar="FILE.py:FUNCTION", help="Builds the model, which returns logits.")],
    data: Annotated[
        str, typer.Option(metavar="FILE.py:FUNCTION", help='Gives {"train": (x, y), "heldout": (xh, yh)}.')
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The run folder to write.")],
    readout: Annotated[
        str | None, typer.Option(metavar="NAME", help="The linear layer that gives the logits; found where it is last.")
    ] = None,
    steps: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=STEP|PATTERN", help="A step, repeatable; or one pattern such as 'model_{step}.pt'."),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Keep the tensors of N checkpoints, spread evenly.")
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out checkpoints that cannot be read, and say so.")
    ] = False,
    without_weights: Annotated[
        bool, typer.Option("--without-weights", help="Keep features and readout of a snapshot, not all weights.")
    ] = False,
    json: Json = False,
) -> None:
    """Evaluate a folder of checkpoints and write its run folder. Interrupted or killed, the same command resumes."""
    from twoclocks.sources.checkpoint_steps import parse_steps
    from twoclocks.sources.checkpoints import carry_out, plan_replay
    from twoclocks.sources.given_code import function_of
    from twoclocks.trajectory import SaveAt

    with told_on_terminal("looking at the checkpoints"):
        plan = plan_replay(
            folder,
            model=function_of("--model", model),
            data=function_of("--data", data),
            out=out,
            readout=readout,
            steps=parse_steps(steps or []),
            keep=keep,
            skip_broken=skip_broken,
            save_at=SaveAt(weights=not without_weights),
        )
    say(plan.words, json)
    with progress_bar("replaying", "checkpoints") as progress:
        carry_out(plan, out, progress)
    if json:
        typer.echo(dumps(plan.described | {"out": str(out)}, indent=2))
        return
    for note in plan.described["left_out"] + plan.described["assumed"]:
        typer.echo(f"- {note}")
    typer.echo(f"next: twoclocks diagnose {out}")


@app.command(epilog="Example: twoclocks report runs/modular-addition --out page.html")
def report(
    run: Annotated[Path, typer.Argument(help="A run folder or a log.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write; RUN/analysis/report.html if not given.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the self-contained page of a run."""
    is_folder = (run / MANIFEST).exists()
    target = out or (run / "analysis" / "report.html" if is_folder else run.with_suffix(".html"))
    evidence = examine(open_source(run))
    diagnosis = judge(evidence)
    written_page(evidence, diagnosis, target)
    if json:
        typer.echo(diagnosis.to_json())
    say(f"page: {target}", json)


@app.command(epilog="Example: twoclocks export runs/modular-addition --to csv --out table.csv")
def export(
    run: Annotated[Path, typer.Argument(help="A run folder or a log.")],
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="csv, parquet or tensorboard.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Where to write; in analysis/ of a run folder or beside a log if not given."),
    ] = None,
    measured: Annotated[
        bool, typer.Option("--measured", help="Add what a diagnosis measures: ladder, ranks, critical dimension, ….")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    columns: Annotated[
        list[str] | None, typer.Option("--map", metavar="CANONICAL=COLUMN", help="Name a column, as for diagnose.")
    ] = None,
    runs: Annotated[
        list[str] | None, typer.Option("--run", metavar="NAME", help="Of several runs in a log, as for diagnose.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the series of a run for other tools: one row a step, canonical names."""
    from twoclocks.export import check_export, target_of, with_measured
    from twoclocks.export import export as exported

    source = run.parent if run.name == MANIFEST else run
    target = out or target_of(source, to)
    trajectory = open_source(source, pairs(columns or [], "--map"), runs)
    left_out: tuple[str, ...] = ()
    check_export(to, target, source, force=force)
    if measured:
        with told_on_terminal("measuring"):
            evidence = examine(trajectory)
        trajectory, left_out = with_measured(evidence), evidence.left_out
    written = exported(trajectory, to, target, force=force)
    if json:
        typer.echo(dumps(written.described | {"left_out": left_out}, indent=2))
        return
    for note in (*trajectory.source.assumed, *written.notes, *left_out):
        typer.echo(f"- {note}")
    typer.echo(f"exported: {written.path} ({written.rows} rows, {len(written.columns)} columns)")


@app.command(epilog="Example: twoclocks recipes")
def recipes(json: Json = False) -> None:
    """List the recipes with their source, cost and expected verdict."""
    from twoclocks import recipes as known

    listed = [make() for make in known.RECIPES.values()]
    if json:
        typer.echo(dumps([recipe.described for recipe in listed], indent=2, default=dict))
        return
    for recipe in listed:
        typer.echo(f"{recipe.name}: {recipe.title}")
        typer.echo(f"  source: {recipe.source}\n  expected: {recipe.expected_words}\n  cost: {recipe.cost_words}")
        typer.echo("  settings: " + ", ".join(f"{name}={value}" for name, value in recipe.settings.items()))


@app.command(epilog="Example: twoclocks reproduce representation --cheap")
def reproduce(
    claims: Annotated[
        list[str] | None, typer.Argument(help="Which claims: clocks, representation; all if none is named.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Seeds 0, 1, … in every training; 5 for clocks and 3 for representation.")
    ] = None,
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where the run folders lie, or are made.")] = Path(
        "runs/reproduce"
    ),
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The page; its pictures lie beside it.")] = None,
    cheap: Annotated[
        bool, typer.Option("--cheap", help="Only what trains within minutes; written to runs/reproduce/claims.md.")
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, for a trial; repeatable.")
    ] = None,
) -> None:
    """Measure published claims and write the page that says which hold. Interrupted or killed, the same command goes on."""
    from twoclocks.claims.reproduce import chosen_claims
    from twoclocks.claims.reproduce import reproduce as measured
    from twoclocks.claims.showing import Showing

    page = out or (runs / "claims.md" if cheap else Path("docs/claims.md"))
    changed = pairs(settings or [], "--set")
    for claim in chosen_claims(claims or [], changed, cheap=cheap):
        measured(
            claim,
            runs=runs,
            out=page,
            seeds=seeds,
            settings=changed,
            cheap=cheap,
            showing=Showing(progress_bar, told_on_terminal),
        )
    typer.echo(f"page: {page}")


def main() -> NoReturn:
    """Run the command line: bad input gives one sentence and exit code 2, never a traceback."""
    try:
        app(standalone_mode=True)
    except InputError as refused:
        typer.echo(f"twoclocks: {refused}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as end:
        if not was_interrupted(end):
            raise
        typer.echo(
            "twoclocks: interrupted; what was recorded is kept, and the same command goes on from there", err=True
        )
        sys.exit(130)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            leave_quietly()
        typer.echo(f"twoclocks: cannot write the output: {error.strerror or error}", err=True)
        leave_quietly(2)
    sys.exit(0)


def was_interrupted(end: BaseException | None) -> bool:
    """Return whether an end goes back to Ctrl-C; typer makes a plain exit of it."""
    return end is not None and (isinstance(end, KeyboardInterrupt) or was_interrupted(end.__cause__ or end.__context__))


def leave_quietly(code: int = 141) -> NoReturn:
    """End without a word about an output that nobody reads any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def compared_with(expected: Expected, diagnosis: Diagnosis) -> str:
    """Return in one sentence whether the outcome is the one that the recipe states."""
    found = [(diagnosis.label, expected.label), (diagnosis.kind, expected.kind)]
    unlike = [f"{got} instead of {wanted}" for got, wanted in found if wanted is not None and got != wanted]
    for clock in diagnosis.clocks:
        low, high = expected.clocks.get(clock.name, (0, math.inf))
        outside = [value for value in clock.per_run if value is None or not low <= value <= high]
        if outside and clock.name in expected.clocks:
            unlike.append(f"{clock.name} {', '.join(map(str, outside))} outside {low} to {high}")
    return f"expected: {expected}; " + ("as expected" if not unlike else f"found {'; '.join(unlike)}")


def pairs(given: list[str], option: str) -> dict[str, str]:
    """Return KEY=VALUE arguments as a dict."""
    for text in given:
        if "=" not in text or text.startswith("="):
            raise InputError(
                f"{option} takes KEY=VALUE, got {text!r}; write for example {option} "
                + ("step=iteration" if option == "--map" else "lr=0.001")
            )
    return {key.strip(): value.strip() for key, _, value in (text.partition("=") for text in given)}


def show(diagnosis: Diagnosis, json: bool) -> None:
    """Print a diagnosis as JSON or as text fitted to the terminal."""
    if json:
        typer.echo(diagnosis.to_json())
        return
    import msgspec

    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = min(os.get_terminal_size().columns, 100) if sys.stdout.isatty() else 88
    typer.echo(as_text(msgspec.to_builtins(diagnosis), width=width, colour=colour))


def say(sentence: str, json: bool) -> None:
    """Print a sentence beside the diagnosis: on stdout, or on stderr where stdout is for JSON."""
    typer.echo(sentence, err=json)


def written_page(evidence: Evidence, diagnosis: Diagnosis, path: Path) -> Path:
    """Write the page of a diagnosis."""
    from twoclocks.report.page import write_report  # brings matplotlib, which costs half a second

    check_page(path)
    return write_report(evidence, diagnosis, path)


def check_page(path: Path) -> None:
    """Refuse to write a page over anything that is not a page, the log itself for one."""
    for target in (path, path.with_suffix(".svg") if path.name else path):
        if not target.name or target.is_dir() or (target.exists() and not target.is_file()):
            raise InputError(
                f"cannot write the page to {str(target)!r}: it is not a file name; give one such as page.html"
            )
        if (
            target.is_file()
            and target.stat().st_size
            and not target.read_bytes()[:100].lstrip().lower().startswith((b"<!doctype html", b"<?xml", b"<svg"))
        ):
            raise InputError(f"{target} exists and is not a page; it is left as it is, choose another name")


@contextlib.contextmanager
def progress_bar(title: str, of: str = "steps") -> Iterator[Callable[[int, int], None] | None]:
    """Show a progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(of),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda step, steps: bar.update(task, completed=step, total=steps)


@contextlib.contextmanager
def told_on_terminal(doing: str) -> Iterator[None]:
    """Say on a terminal what is being done while it is."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(doing):
        yield


if __name__ == "__main__":
    main()
