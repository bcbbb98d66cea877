"""Every image family on Fashion-MNIST with equal nets and an equal budget, PCA's row on top.

MLPs (784-256-128-code, mirrored) on all 60 000 images, seeds 0 to 2; conv nets on 10 000 images,
seed 0. Ten epochs each, the model's own defaults otherwise, 32 numbers in the code where the
family leaves that open. Every run is a line of results/families.jsonl, so that another call goes
on where this one stopped, on another day or machine too.

    python benchmarks/families.py [--nets mlp conv] [--seeds 3] [--jobs 2] [--only VAE VQVAE ...]

With --seeds 0 nothing runs, and the tables are written of what is known.

Columns: mse (squared grey levels), PSNR, SSIM on the 10 000 test images; the mean of
`score_samples` in nats; accuracy of 10 nearest neighbours in the code; Fréchet distance of 10 000
samples (1000 of codes of 100 integers or more) to the test images in the features of a small
classifier trained here, and that of samples whose codes come from a density fitted to the training
codes instead of the model's prior; what the code uses: active units, or the perplexity of the
indices; seconds of training, and of the whole run with its evaluation, on one thread.
"""

import argparse
import json
import time
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from _common import RESULTS, Record, fashion_labels, fashion_mnist
from joblib import Parallel, delayed
from PIL import Image
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import narrows
from narrows.errors import ContextError
from narrows.metrics.reconstruction import mse, psnr

ROWS = RESULTS / "families.jsonl"
PICTURES = Path(__file__).parent / ".cache" / "families"
OTHER = {"ComposedAutoencoder", "LinearAutoencoder", "UNetAutoencoder"}
"""Not families of codes: the grid of the parts, PCA's equal, and what passes by the code."""
DISCRETE = {"BinaryAutoencoder", "CategoricalVAE", "FSQVAE", "HierarchicalVQVAE"}
DISCRETE |= {"HRQVAE", "LFQVAE", "ResidualVQVAE", "SimVQ", "VQVAE"}
OWN: dict[str, dict[str, Any]] = {"TopKAutoencoder": {"latent_dim": 512}}
"""Fields without which a family would not be what it is."""
OWN_NETS = {"MaskedAutoencoder": "conv", "TopKAutoencoder": "mlp"}
"""Families with a net of their own, a Transformer and one layer, and the table that shows them."""
COLUMNS = {
    "mse": "mse",
    "psnr": "PSNR dB",
    "ssim": "SSIM",
    "score": "score nats",
    "knn": "kNN",
    "fid": "FID",
    "density": "of density",
    "used": "used",
    "seconds": "s",
    "whole": "s in all",
}


def structural_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean SSIM (Wang et al., 2004) with a Gaussian window of sigma 1.5."""
    a, b = (x.astype(np.float64) for x in (a, b))
    blur = lambda x: gaussian_filter(x, (0, 1.5, 1.5), truncate=3.5)  # noqa: E731
    ma, mb, c1, c2 = blur(a), blur(b), (0.01 * 255) ** 2, (0.03 * 255) ** 2
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    ssim = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return float(ssim.mean())


class Features:
    """A small classifier of the garments; its last hidden layer measures likeness."""

    def __init__(self, X: np.ndarray, y: np.ndarray) -> None:
        torch.manual_seed(0)
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(3136, 64), nn.ReLU()),
        )
        head = nn.Linear(64, 10)
        parameters = [*self.body.parameters(), *head.parameters()]
        optimizer = torch.optim.Adam(parameters, 2e-3, fused=True)
        x, labels = self.pixels(X), torch.from_numpy(y.astype(np.int64))
        for _ in range(3):
            for rows in torch.randperm(len(x)).split(128):
                loss = nn.functional.cross_entropy(head(self.body(x[rows])), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    @staticmethod
    def pixels(X: np.ndarray) -> torch.Tensor:
        """Return images as the classifier reads them."""
        return torch.from_numpy(X.astype(np.float32) / 255)[:, None]

    @torch.no_grad()
    def moments(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and covariance of the images' features."""
        f = torch.cat([self.body(part) for part in self.pixels(X).split(1000)]).double().numpy()
        return f.mean(0), np.cov(f.T)

    def distance(self, X: np.ndarray, Y: np.ndarray) -> float:
        """Return the Fréchet distance (Heusel et al., 2017) between two sets of images."""
        (ma, ca), (mb, cb) = self.moments(X), self.moments(Y)
        ridge = 1e-6 * np.eye(len(ca))  # a feature may never fire
        root = sqrtm((ca + ridge) @ (cb + ridge)).real
        return float(((ma - mb) ** 2).sum() + np.trace(ca + cb - 2 * root))


def families(only: list[str]) -> list[str]:
    """Return the models to run, plain ones first."""
    others = ("narrows.models.graphs", "narrows.models.sequences")
    own = [
        name
        for name, model in narrows.MODELS.items()
        if model.__module__.startswith("narrows.models.") and model.__module__ not in others
    ]
    return [name for name in own if name not in OTHER and (not only or name in only)]


def fields(name: str, net: str, seed: int) -> dict[str, Any]:
    """Return what a run sets; the rest are the model's defaults."""
    common: dict[str, Any] = {"epochs": 10, "seed": seed, "verbose": 0, "threads": 1}
    if name not in OWN_NETS:
        common["architecture"] = net
    if name not in DISCRETE:
        common["latent_dim"] = 32
    return common | OWN.get(name, {})


def run(name: str, net: str, seed: int, data: dict[str, np.ndarray], features: Features) -> None:
    """Train one model and keep its row and its pictures, unless there is a row already."""
    if rows(name=name, net=net, seed=seed) or OWN_NETS.get(name, net) != net:
        return
    train, test = data["train"], data["test"]
    train, labels = (train, data["labels"]) if net == "mlp" else (train[:10_000], data["labels"])
    model = narrows.MODELS[name](**fields(name, net, seed))
    start = time.process_time()  # other programs do not count
    try:
        model.fit(train, labels[: len(train)])
    except Exception as error:  # the table shall say so, and the others go on
        row: dict[str, Any] = {"error": f"{type(error).__name__}: {error}"}
    else:
        seconds = time.process_time() - start
        decoded = model.reconstruct(test)
        neighbours = KNeighborsClassifier(10).fit(model.transform(train[:10_000]), labels[:10_000])
        history = model.history_[-1]
        row = {
            "mse": mse(test, decoded),
            "psnr": psnr(test, decoded, 255),
            "ssim": structural_similarity(test, decoded),
            "score": model.score(test[:2000]),
            "knn": neighbours.score(model.transform(test), data["test_labels"]),
            "used": history.get("perplexity", model.diagnose().active),
            "seconds": seconds,
        }
        shown = [test[:10], decoded[:10]]
        with suppress(ContextError):  # some decode more than a bare code
            many = 10_000 if model.codes_.shape[1] < 100 else 1_000
            drawn = model.sample(many, seed=1)
            again = model.sample(many, seed=1, density=True)
            row["fid"], row["density"] = (features.distance(x, test) for x in (drawn, again))
            shown += [drawn[:10], again[:10]]
        row["whole"] = time.process_time() - start
        if seed == 0:
            pictures(PICTURES / f"{name}-{net}.png", *shown)
    note({"name": name, "net": net, "seed": seed} | row)


def note(row: dict[str, Any]) -> None:
    """Append a row to those that are known."""
    line = json.dumps(row | {"day": str(date.today())})
    with ROWS.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def rows(**wanted: Any) -> list[dict[str, Any]]:
    """Return the rows that have these values."""
    known = map(json.loads, ROWS.read_text().splitlines() if ROWS.exists() else [])
    return [row for row in known if wanted.items() <= row.items()]


def pictures(path: Path, *rows: np.ndarray) -> None:
    """Write rows of images as one picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page = np.concatenate([np.concatenate(list(row), 1) for row in rows])
    Image.fromarray(page.astype(np.uint8)).save(path)


def contact_sheet(path: Path) -> None:
    """Put every run's originals, reconstructions and samples on one page, with its name."""
    found = sorted(PICTURES.glob("*.png"))
    figure, axes = plt.subplots(
        -(-len(found) // 3), 3, squeeze=False, figsize=(12, len(found) / 2)
    )
    for ax in axes.flat:
        ax.axis("off")
    for ax, picture in zip(axes.flat, found, strict=False):
        ax.imshow(np.asarray(Image.open(picture)), cmap="gray")
        ax.set_title(picture.stem, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def pca(train: np.ndarray, data: dict[str, np.ndarray], features: Features) -> dict[str, float]:
    """Return PCA's row: 32 components, samples from a normal on its scores."""
    start = time.perf_counter()
    flat = train.reshape(len(train), -1).astype(np.float32)
    test = data["test"].reshape(len(data["test"]), -1)
    model = PCA(32, random_state=0).fit(flat)
    seconds = time.perf_counter() - start
    back = lambda z: np.clip(model.inverse_transform(z), 0, 255).reshape(-1, 28, 28)  # noqa: E731
    decoded = back(model.transform(test))
    spread = np.sqrt(model.explained_variance_)
    drawn = back(np.random.default_rng(0).standard_normal((10_000, 32)) * spread)
    near = KNeighborsClassifier(10).fit(model.transform(flat[:10_000]), data["labels"][:10_000])
    return {
        "mse": mse(data["test"], decoded),
        "psnr": psnr(data["test"], decoded, 255),
        "ssim": structural_similarity(data["test"], decoded),
        "knn": near.score(model.transform(test), data["test_labels"]),
        "fid": features.distance(drawn, data["test"]),
        "used": 32,
        "seconds": seconds,
    }


def table(record: Record, net: str, names: list[str], first: dict[str, float]) -> None:
    """Write what is known of a net: means over the seeds that ran."""
    record(f"\n| {net} | {' | '.join(COLUMNS.values())} | seeds |")
    record("|---|" + "---|" * (len(COLUMNS) + 1))

    def line(name: str, found: list[dict[str, Any]]) -> None:
        cells = [f"{np.mean([r[c] for r in found]):.4g}" if c in found[0] else "" for c in COLUMNS]
        record(f"| {name} | {' | '.join(cells)} | {len(found)} |")

    line("PCA", [first])
    for name in names:
        found = rows(name=name, net=net)
        if failed := [row["error"] for row in found if "error" in row]:
            record(f"| {name} | {failed[0]} |" + " |" * len(COLUMNS))
        elif found:
            line(name, found)


def main() -> None:
    """Run what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="*", default=["mlp", "conv"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--only", nargs="*", default=[])
    arguments, start = parser.parse_args(), time.perf_counter()
    data = {
        "train": fashion_mnist("train"),
        "labels": fashion_labels("train"),
        "test": fashion_mnist("t10k"),
        "test_labels": fashion_labels("t10k"),
    }
    features = Features(data["train"], data["labels"])
    seeds = {"mlp": arguments.seeds, "conv": min(arguments.seeds, 1)}
    before = len(rows())
    Parallel(arguments.jobs)(
        delayed(run)(name, net, seed, data, features)
        for net in arguments.nets
        for seed in range(seeds[net])
        for name in families(arguments.only)
    )
    if runs := len(rows()) - before:
        hours = (time.perf_counter() - start) / 3600
        note({"call": hours, "runs": runs, "jobs": arguments.jobs})
    record = Record("families", "Every image family on Fashion-MNIST")
    record((__doc__ or "").partition("\n\n")[2].partition("\n\n")[0])
    known = [row for row in rows() if "name" in row]
    training, whole = (sum(row.get(c, 0) for row in known) / 3600 for c in ("seconds", "whole"))
    record(
        f"\nAll {len(known)} runs took {whole:.2f} hours of one core, {training:.2f} of them "
        "training, in calls that took:\n"
    )
    for row in rows():
        if "call" in row:
            record(f"- {row['call']:.2f} hours, {row['runs']} runs, {row['jobs']} at a time")
    for net in arguments.nets:
        train = data["train"] if net == "mlp" else data["train"][:10_000]
        table(record, net, families([]), pca(train, data, features))
    record.keep()
    contact_sheet(RESULTS / "families.png")


if __name__ == "__main__":
    main()
