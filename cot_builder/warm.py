"""Starts the stages of one `indus-cot repro` from a process that has imported the libraries they use.

torch, transformers and scikit-learn take longer to import than a small stage takes to run, and DVC starts a process
for each. A server beside DVC imports them once, while the first stages run, and forks for every stage that comes after.
It imports libraries alone: a stage runs our code as it lies on the disk. Where no server listens, not yet or no
longer, a stage runs in the process that DVC started.
"""

import atexit
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

VARIABLE = "INDUS_COT_WARM"
"""Names the server's socket to the stages of a run."""
LIBRARIES = (
    "polars", "pyarrow.parquet", "cv2", "pandera.polars", "httpx", "jinja2", "rich.progress", "scipy.stats",
    "sklearn.metrics", "datasets", "torch", "torchvision", "transformers.models.auto.processing_auto",
    "transformers.models.auto.modeling_auto", "transformers.models.qwen3_vl.modeling_qwen3_vl",
    "transformers.models.qwen3_vl.processing_qwen3_vl", "transformers.generation.utils", "trl.trainer.sft_trainer",
    "trl.trainer.grpo_trainer",
)  # fmt: skip
LOOK_S = 0.5
STREAMS = (0, 1, 2)


def start() -> str:
    """Start the server of this process, which ends soon after it; the path of its socket, there once it is warm.

    Only on Linux, where a process may fork after it has imported such libraries; elsewhere the path is empty.
    """
    if sys.platform != "linux":
        return ""
    path = str(Path(tempfile.mkdtemp(prefix="indus-cot-warm-")) / "socket")
    nowhere = subprocess.DEVNULL
    command = [sys.executable, "-m", "cot_builder.warm", path, str(os.getpid())]
    # As `indus-cot evaluate` sets it: OpenMP reads it when torch is imported.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, env=environment)
    return path


def ask(arguments: list[str]) -> int | None:
    """Let the server run `indus-cot` with these arguments, on this process's streams, folder and environment.

    Returns:
        Its exit code, as a shell gives it; None where no server listens.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    told = json.dumps([arguments, str(Path.cwd()), dict(os.environ)]).encode() + b"\n"
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
            socket.send_fds(connection, [b"\n"], STREAMS)
            connection.sendall(told)
        except OSError:
            # No stage begins before it was told all of it.
            return None
        # Ctrl-C reaches the stage too: it says what became of its work, and this process waits for that.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = connection.makefile().readline()
    return int(code) if code else 1


def serve(path: str, parent: int) -> None:
    """Import the libraries, then run one stage after the other, until the process ``parent`` is gone."""

    def look(*_: object) -> None:
        if os.getppid() != parent:
            shutil.rmtree(Path(path).parent, ignore_errors=True)
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, LOOK_S, LOOK_S)
    gc.disable()
    _import_libraries()
    gc.enable()
    gc.freeze()
    forks = multiprocessing.get_context("fork")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                stage = forks.Process(target=_run, args=(connection, listener.close))
                stage.start()
                stage.join()
                code = stage.exitcode or 0
                connection.sendall(b"%d\n" % (code if code >= 0 else 128 - code))


def _import_libraries() -> None:
    with suppress(ImportError):
        from train import torchvision_ops

        torchvision_ops.declare()
    for name in LIBRARIES:
        # The extra `train` need not be installed, and a library that fails does so in the stage that needs it.
        with suppress(Exception):
            importlib.import_module(name)


def _run(connection: socket.socket, close: Callable[[], None]) -> None:
    """One stage, in a process that looks to it as if DVC had started it."""
    close()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _, streams, _, _ = socket.recv_fds(connection, 1, len(STREAMS))
    for number, stream in zip(STREAMS, streams, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    arguments, folder, environment = json.loads(connection.makefile().readline())
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", 1), open(2, "w", 1)  # noqa: SIM115
    sys.argv = ["indus-cot", *arguments]
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    del os.environ[VARIABLE]
    try:
        runpy.run_module("cot_builder", run_name="__main__")
    finally:
        atexit._run_exitfuncs()


def _end_with(connection: socket.socket) -> None:
    """Whoever kills the process that DVC started means the stage."""
    with suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
