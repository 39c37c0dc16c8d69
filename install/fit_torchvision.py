"""Let the installed TorchVision be imported beside a CPU build of PyTorch. `make` runs this after it installs both.

Package registries hold one TorchVision for Linux, built for CUDA. Its compiled library does not load beside a CPU build
of PyTorch, such as a machine may provide through pip's find-links, and then importing TorchVision fails at the first
operator that it describes ("operator torchvision::nms does not exist"). Declaring the operators is enough: transformers
only uses TorchVision's Python code, to resize images. A TorchVision that fits is left as it is.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

DECLARATION = """

# Added by Indus-CoT's install/fit_torchvision.py: the compiled library does not load beside this build of PyTorch.
if not _has_ops():
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def import_error() -> str:
    """The last line of the error that importing TorchVision ends with; empty if it works."""
    done = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def main() -> None:
    error = import_error()
    if "torchvision::" in error:
        spec = importlib.util.find_spec("torchvision")
        assert spec is not None and spec.origin is not None
        path = Path(spec.origin).with_name("extension.py")
        # A new file takes the old one's place: the old one may be a hard link into uv's cache.
        partial = path.with_suffix(".partial")
        partial.write_text(path.read_text(encoding="utf-8") + DECLARATION, encoding="utf-8")
        os.replace(partial, path)
        error = import_error()
    if error:
        sys.exit(
            f"torchvision cannot be imported beside the installed torch ({error}); install builds that fit together"
        )


if __name__ == "__main__":
    main()
