"""`indus-cot`, `datasets` and `huggingface_hub` in a process of their own that knows the stand-in as the Hub.

One process for many commands: the endpoint is read once, when `huggingface_hub` is imported, and importing takes longer
than most commands.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from tests.helpers.paths import ROOT


class CommandResult(NamedTuple):
    """What a command said."""

    code: int
    out: str
    """Standard output and standard error together."""
    value: Any
    """Of Python code: what it left in ``value``."""


class Client:
    """Runs commands in ``folder``; with the token ``token`` unless a command has another."""

    def __init__(self, folder: Path, endpoint: str, token: str) -> None:
        self.folder, self.token, self.output = folder, token, ""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(folder / "hf"),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "COLUMNS": "200",
            "NO_COLOR": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def run(self, *arguments: str, token: str | None = None, folder: Path | None = None) -> CommandResult:
        """`indus-cot` with these arguments; no token where it is empty."""
        return self._ask({"arguments": arguments}, token, folder)

    def python(self, code: str, folder: Path | None = None) -> Any:
        """Run code; what it leaves in ``value``, which JSON must know."""
        done = self._ask({"code": code}, None, folder)
        assert done.code == 0, done.out
        return done.value

    def _ask(self, what: dict[str, Any], token: str | None, folder: Path | None) -> CommandResult:
        assert self._process.stdin and self._process.stdout
        given = self.token if token is None else token
        self._process.stdin.write(json.dumps({**what, "token": given, "folder": str(folder or self.folder)}) + "\n")
        self._process.stdin.flush()
        done = CommandResult(*json.loads(self._process.stdout.readline()))
        self.output += done.out
        return done

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def _serve() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        asked = json.loads(line)
        os.chdir(asked["folder"])
        os.environ.pop("HF_TOKEN", None)
        if asked["token"]:
            os.environ["HF_TOKEN"] = asked["token"]
        said, code, scope = io.StringIO(), 0, {"value": None}
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                if "code" in asked:
                    exec(asked["code"], scope)
                else:
                    from indus_cot.app import main

                    main(list(asked["arguments"]))
            except SystemExit as end:
                code = int(end.code or 0)
            except Exception:
                code = 2
                traceback.print_exc()
        answers.write(json.dumps([code, said.getvalue(), scope["value"]]) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
