"""What the benchmarks share: where the data are, and how results are kept."""

import gzip
import os
import platform
import sys
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image

RESULTS = Path(__file__).parent / "results"


def data_folder() -> Path:
    """Return the folder of benchmark data, from $NARROWS_DATA."""
    folder = os.environ.get("NARROWS_DATA")
    if not folder:
        sys.exit("Set NARROWS_DATA to the folder with the benchmark data.")
    return Path(folder)


def fashion_mnist(part: str) -> np.ndarray:
    """Return Fashion-MNIST's images of a part ("train", "t10k"), ``(n, 28, 28)`` uint8."""
    path = data_folder() / "fashion_mnist" / f"{part}-images-idx3-ubyte.gz"
    content = gzip.decompress(path.read_bytes())
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)


def fashion_labels(part: str) -> np.ndarray:
    """Return the garments' classes of a part, ``(n,)`` uint8."""
    path = data_folder() / "fashion_mnist" / f"{part}-labels-idx1-ubyte.gz"
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=8)


def kodak_patches() -> tuple[np.ndarray, np.ndarray]:
    """Return the 32 × 32 patches of 20 Kodak photographs, and of the other 4, uint8."""
    paths = sorted((data_folder() / "kodak24").glob("*.png"))
    pictures = [np.asarray(Image.open(path)).astype(np.uint8) for path in paths]
    cut = [
        picture[i : i + 32, j : j + 32]
        for picture in pictures
        for i in range(0, picture.shape[0] - 31, 32)
        for j in range(0, picture.shape[1] - 31, 32)
    ]
    edge = len(cut) * 20 // 24
    return np.stack(cut[:edge]), np.stack(cut[edge:])


def machine() -> str:
    """Return date, machine and versions in one line."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return (
        f"{date.today()}; {cpu}, {os.cpu_count()} cores, shared; Python "
        f"{platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    )


class Record:
    """Prints lines and keeps them as ``results/<name>.md`` when all is done."""

    def __init__(self, name: str, title: str) -> None:
        self.path = RESULTS / f"{name}.md"
        self.lines: list[str] = []
        self(f"# {title}\n\n{machine()}\n")

    def __call__(self, line: str = "") -> None:
        """Print a line and remember it."""
        print(line, flush=True)
        self.lines.append(line)

    def keep(self) -> None:
        """Write the file."""
        self.path.write_text("\n".join(self.lines) + "\n")
