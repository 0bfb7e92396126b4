"""Entry point of the ``bestpixel-gpu`` script; asks for the extra ``[cli]`` where it is missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line on ``sys.argv``; ends with SystemExit."""
    missing = [name for name in ("typer", "rich") if find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"error: the command line needs {' and '.join(missing)}: pip install 'bestpixel-gpu[cli]'\n"
        )
        raise SystemExit(2)
    from bestpixel_gpu.cli.app import app

    app()
