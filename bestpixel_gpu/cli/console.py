"""What all commands share: errors in one line, progress on stderr, common flags."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from bestpixel_gpu.errors import BestPixelError, BestPixelWarning, InputError

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON line on stdout (the default in a pipe).")]

EXIT_INPUT, EXIT_FAILED, EXIT_INTERRUPTED = 2, 1, 130

Show = Callable[[str, int, int], None]


@contextmanager
def plain_errors(*, debug: bool) -> Iterator[None]:
    """Turn errors into one line on stderr and an exit status; with `debug` they pass untouched."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            yield
        except (Exception, KeyboardInterrupt) as exc:
            if debug or isinstance(exc, typer.Exit):
                raise
            status, text = _verdict(exc)
            typer.echo(f"error: {text}", err=True)
            raise typer.Exit(status) from None


def _verdict(exc: BaseException) -> tuple[int, str]:
    """Exit status and text of an error."""
    if isinstance(exc, KeyboardInterrupt):
        return EXIT_INTERRUPTED, "interrupted"
    text = " ".join(str(exc).split()) or type(exc).__name__
    if isinstance(exc, InputError):
        return EXIT_INPUT, text
    if isinstance(exc, (BestPixelError, OSError)):
        return EXIT_FAILED, text
    return EXIT_FAILED, f"unexpected {type(exc).__name__}: {text} (--debug shows where)"


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Our own warnings in one line; those of other packages are no concern of a user of the command."""
    if issubclass(category, BestPixelWarning):
        typer.echo(f"warning: {message}", err=True)


@contextmanager
def progress(*, quiet: bool) -> Iterator[Show | None]:
    """Bars on stderr, one for each stage; ``None`` where nobody watches."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def wants_json(asked: bool) -> bool:
    """Whether stdout is read by a program."""
    return asked or not sys.stdout.isatty()
