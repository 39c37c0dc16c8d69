"""`transformers serve` on loopback in its own process: `python -m tests.servers.transformers_server MODEL PORT`."""

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers.paths import ROOT
from tests.helpers.pipeline import ENVIRONMENT
from tests.servers.label_studio_server import free_port


@contextmanager
def transformers_server(model: Path) -> Iterator[str]:
    """Serve ``model``, and yield the base URL, ending in ``/v1``."""
    port = free_port()
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.servers.transformers_server", str(model), str(port)],
        env=os.environ | ENVIRONMENT | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Uvicorn running" in line:
                break
        else:
            raise AssertionError("".join(lines))
        # Keep reading its log: a full pipe would block the server.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _serve(model: str, port: str) -> None:
    import numpy as np
    import torch
    import torchvision.io
    from PIL import Image

    def decode_image(data: Any, *_: Any, **__: Any) -> Any:
        """Replace TorchVision's compiled decoder, which does not load with a CPU build of PyTorch."""
        image = Image.open(io.BytesIO(bytes(data.numpy())))
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()

    torchvision.io.decode_image = decode_image
    from transformers.cli.transformers import main

    options = {"--host": "127.0.0.1", "--port": port, "--device": "cpu", "--dtype": "float32", "--log-level": "info"}
    sys.argv = ["transformers", "serve", model, *(part for option in options.items() for part in option)]
    main()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
