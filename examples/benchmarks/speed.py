"""Speed of `fit` and `transform` against hand-written loops of the same models and a bare encoder, in one run.

A loop keeps the rows on the device, takes batches by index, uses fused Adam and reads the loss once an epoch. Estimators are
fitted with ``linear_path=None``, which is the model of the loop; what the choice of a weight decay takes beside linear maps has
lines of its own. Ratios are times of the loop over times of the estimator, so that 1 or more means that the estimator is no
slower, each a median and quartiles over rounds in which the two take turns: times drift with the machine.

    python examples/benchmarks/speed.py [--quick] [--busy] [--rounds 5] [--epochs 20] [--device cpu]
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import logging
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor, nn

from skvae import CVAE, VQVAE, AutoEncoder, DenoisingAE, SparseAE, VAETransformer
from skvae.estimators import _fit

LATENTS, BATCH, CLASSES, RATE = 8, 128, 3, 2e-3


class Size(NamedTuple):
    """A table, and the networks and epochs that go with it."""

    rows: int
    features: int
    widths: tuple[int, ...]
    epochs: int


SMALL = Size(10_000, 30, (64, 32), 20)
LARGE = Size(60_000, 784, (256, 128), 1)


# -- models as somebody would write them for one project --------------------------------------------------------------


def perceptron(*sizes: int) -> nn.Sequential:
    """ReLU network with a linear last layer."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


class Plain(nn.Module):
    """Squared error of an autoencoder."""

    n_outputs, n_given = LATENTS, 0

    def __init__(self, size: Size):
        super().__init__()
        self.encoder = perceptron(size.features, *size.widths, self.n_outputs)
        self.decoder = perceptron(LATENTS + self.n_given, *size.widths[::-1], size.features)

    def loss(self, x: Tensor, given: Tensor) -> Tensor:
        """Mean over rows."""
        return F.mse_loss(self.decoder(self.encoder(x)), x, reduction="sum") / len(x)


class Denoising(Plain):
    """The same, of rows with noise."""

    def loss(self, x: Tensor, given: Tensor) -> Tensor:
        """Mean over rows."""
        corrupted = x + 0.3 * torch.randn_like(x)
        return F.mse_loss(self.decoder(self.encoder(corrupted)), x, reduction="sum") / len(x)


class Sparse(Plain):
    """Sigmoid units whose mean activity is held close to a target."""

    def loss(self, x: Tensor, given: Tensor) -> Tensor:
        """Mean over rows."""
        code = torch.sigmoid(self.encoder(x))
        error = F.mse_loss(self.decoder(code), x, reduction="sum") / len(x)
        active = code.mean(0).clamp(1e-6, 1.0 - 1e-6)
        return error + (0.05 * torch.log(0.05 / active) + 0.95 * torch.log(0.95 / (1.0 - active))).sum()


class Variational(Plain):
    """Evidence lower bound with a noise per column that is learned."""

    n_outputs = 2 * LATENTS

    def __init__(self, size: Size):
        super().__init__(size)
        self.log_noise = nn.Parameter(torch.zeros(size.features))

    def loss(self, x: Tensor, given: Tensor) -> Tensor:
        """Mean over rows."""
        mean, log_var = self.encoder(x).chunk(2, -1)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)
        energy = (self.decode(z, given) - x).square()
        kl = (mean.square() + log_var.exp() - 1.0 - log_var).sum(1)
        return 0.5 * ((energy * torch.exp(-self.log_noise) + self.log_noise).sum(1) + kl).mean()

    def decode(self, z: Tensor, given: Tensor) -> Tensor:
        """Rows of codes."""
        return self.decoder(z)


class Conditional(Variational):
    """The same with a decoder that reads a class."""

    n_given = CLASSES

    def decode(self, z: Tensor, given: Tensor) -> Tensor:
        """Rows of codes and classes."""
        return self.decoder(torch.cat([z, given], 1))


class Quantized(Plain):
    """Two codes a row, of a codebook that follows moving averages."""

    n_codes, n_embeddings, decay = 2, 64, 0.99

    def __init__(self, size: Size):
        super().__init__(size)
        vectors = torch.randn(self.n_embeddings, LATENTS // self.n_codes)
        for name, value in (("vectors", vectors), ("sums", vectors.clone()), ("counts", torch.ones(self.n_embeddings))):
            self.register_buffer(name, value)

    def loss(self, x: Tensor, given: Tensor) -> Tensor:
        """Mean over rows."""
        z = self.encoder(x).view(-1, self.vectors.shape[1])
        with torch.no_grad():
            codes = torch.cdist(z, self.vectors).argmin(1)
            chosen = F.embedding(codes, self.vectors)
            one_hot = F.one_hot(codes, self.n_embeddings).to(z)
            self.counts.lerp_(one_hot.sum(0), 1.0 - self.decay)
            self.sums.lerp_(one_hot.T @ z, 1.0 - self.decay)
        commitment = 0.25 * F.mse_loss(z, chosen, reduction="sum")
        output = self.decoder((z + (chosen - z).detach()).view(len(x), -1))
        loss = (0.5 * F.mse_loss(output, x, reduction="sum") + commitment) / len(x)
        with torch.no_grad():
            self.vectors.copy_(self.sums / self.counts.clamp(min=1e-5).unsqueeze(1))
        return loss


def hand_written_fit(module_class: type[Plain], X: np.ndarray, y: np.ndarray, size: Size, device: str) -> Plain:
    """Train with the loop that the estimators are measured against."""
    data = torch.from_numpy(((X - X.mean(0)) / X.std(0)).astype(np.float32)).to(device)
    given = F.one_hot(torch.from_numpy(y), CLASSES).float().to(device)
    module = module_class(size).to(device)
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE, fused=True)
    for _ in range(size.epochs):
        total = torch.zeros((), device=device)
        for index in torch.randperm(len(data), device=device).split(BATCH):
            loss = module.loss(data[index], given[index] if module.n_given else given)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()
    return module


MODELS: list[tuple[type, type[Plain], dict[str, Any]]] = [
    (AutoEncoder, Plain, {"n_components": LATENTS, "linear_path": None}),
    (VAETransformer, Variational, {"n_components": LATENTS, "linear_path": None}),
    (DenoisingAE, Denoising, {"n_components": LATENTS, "linear_path": None}),
    (SparseAE, Sparse, {"n_components": LATENTS}),
    (CVAE, Conditional, {"n_components": LATENTS, "linear_path": None}),
    (VQVAE, Quantized, {"n_embeddings": 64, "n_codes": 2, "embedding_dim": LATENTS // 2, "code_prior": None}),
]


def estimator(cls: type, params: dict[str, Any], size: Size, device: str) -> Any:
    """Estimator of the size and the training of a loop."""
    return cls(
        **params,
        hidden_layer_sizes=size.widths,
        batch_size=BATCH,
        learning_rate=RATE,
        max_epochs=size.epochs,
        device=device,
        random_state=0,
    )


# -- measuring --------------------------------------------------------------------------------------------------------


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@contextmanager
def stopwatch(name: str) -> Iterator[list[float]]:
    """Collect the seconds that calls of a function of `skvae.estimators._fit` take."""
    function, spent = getattr(_fit, name), []

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent.append(time.perf_counter() - start)

    setattr(_fit, name, timed)
    try:
        yield spent
    finally:
        setattr(_fit, name, function)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def row(name: str, n_rows: int, ours: list[float], theirs: list[float], more: str = "") -> None:
    """Print a line of the table: rows a second of both, and the ratio of the times."""
    low, middle, high = quartiles([b / a for a, b in zip(ours, theirs, strict=True)])
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"{name:44}{n_rows / a:12,.0f}{n_rows / b:12,.0f}{middle:8.2f}  ({low:.2f} to {high:.2f}){more}", flush=True)


def turns(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[list[float], list[float]]:
    """Return times of two functions that take turns, after one round that does not count."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def table_of(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Rows of five factors and noise, and classes."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(size.rows, 5)) @ rng.normal(size=(5, size.features))
    X += 0.5 * rng.normal(size=X.shape)
    return X, rng.integers(CLASSES, size=size.rows)


def compare_fits(size: Size, rounds: int, device: str) -> None:
    """Print how `fit` compares with the loops, and what a fit takes beside its training loop."""
    X, y = table_of(size)
    shown = size.rows * size.epochs
    few = size._replace(epochs=1)
    for cls, module_class, params in MODELS:
        model, labels = estimator(cls, params, size, device), (y,) if cls is CVAE else ()
        estimator(cls, params, few, device).fit(X[:1000], *(part[:1000] for part in labels))
        hand_written_fit(module_class, X[:1000], y[:1000], few, device)
        ours, theirs, beside = [], [], []
        for _ in range(rounds):
            with stopwatch("train") as spent:
                ours.append(seconds(lambda m=model, rest=labels: m.fit(X, *rest)))
            beside.append(ours[-1] - sum(spent))
            theirs.append(seconds(lambda c=module_class: hand_written_fit(c, X, y, size, device)))
        row(f"{cls.__name__}.fit", shown, ours, theirs, f"{statistics.median(beside):9.2f} s")


def share_of_choice(size: Size, device: str) -> None:
    """Print what the choice of a weight decay takes of a fit that has linear maps beside its networks."""
    X, _ = table_of(size)
    for cls in (AutoEncoder, VAETransformer):
        model = estimator(cls, {"n_components": LATENTS}, size, device)
        with stopwatch("search_decay") as spent:
            total = seconds(lambda m=model: m.fit(X))
        print(
            f"{cls.__name__ + ', choice of a decay':44}{sum(spent):9.2f} s of {total:.2f} s, {sum(spent) / total:.0%}", flush=True
        )


def compare_transforms(size: Size, rounds: int, device: str) -> None:
    """Print how `transform` compares with a bare encoder, from the same array and from rows that are standardized already."""
    X, y = table_of(size)
    few = size._replace(epochs=1)
    mean, std = X.mean(0), X.std(0)
    ready = torch.from_numpy(((X - mean) / std).astype(np.float32)).to(device)
    for cls, module_class, params in MODELS[:2]:
        model = estimator(cls, params, few, device).fit(X[:2000])
        encoder = hand_written_fit(module_class, X[:2000], y[:2000], few, device).encoder
        for dtype in ("float64", "float32"):
            given = X.astype(dtype, copy=False)

            def from_array(encoder=encoder, given=given):
                x = torch.from_numpy(((given - mean) / std).astype(np.float32)).to(device)
                with torch.no_grad():
                    return encoder(x)[:, :LATENTS].cpu().numpy()

            times = turns(lambda m=model, given=given: m.transform(given), from_array, rounds)
            row(f"{cls.__name__}.transform, from {dtype}", size.rows, *times)

        def alone(encoder=encoder):
            with torch.no_grad():
                return encoder(ready)[:, :LATENTS].cpu().numpy()

        times = turns(lambda m=model, given=given: m.transform(given), alone, rounds)
        row(f"{cls.__name__}.transform, network alone", size.rows, *times)


# -- peers ------------------------------------------------------------------------------------------------------------


def scikit_learn(size: Size) -> Callable[[np.ndarray], object]:
    """Regression of rows on themselves."""
    network = importlib.import_module("sklearn.neural_network").MLPRegressor
    sizes = (*size.widths, LATENTS, *size.widths[::-1])
    model = network(
        hidden_layer_sizes=sizes, batch_size=BATCH, learning_rate_init=RATE, max_iter=size.epochs, n_iter_no_change=size.epochs
    )
    return lambda X: model.fit(X, X)


def pyod(size: Size) -> Callable[[np.ndarray], object]:
    """Autoencoder of a package of detectors; a fit scores its rows, too."""
    detector = importlib.import_module("pyod.models.auto_encoder").AutoEncoder
    return lambda X: detector(
        epoch_num=size.epochs,
        batch_size=BATCH,
        lr=RATE,
        hidden_neuron_list=[*size.widths, LATENTS],
        batch_norm=False,
        dropout_rate=0.0,
        device=torch.device("cpu"),
        verbose=0,
    ).fit(X)


def pythae(size: Size) -> Callable[[np.ndarray], object]:
    """Variational autoencoder of a package of these, with networks of the same sizes."""
    models, trainers = importlib.import_module("pythae.models"), importlib.import_module("pythae.trainers")
    base, outputs = importlib.import_module("pythae.models.nn"), importlib.import_module("pythae.models.base.base_utils")

    class Encoder(base.BaseEncoder):
        def __init__(self):
            super().__init__()
            self.layers = perceptron(size.features, *size.widths, 2 * LATENTS)

        def forward(self, x):
            mean, log_var = self.layers(x).chunk(2, -1)
            return outputs.ModelOutput(embedding=mean, log_covariance=log_var)

    class Decoder(base.BaseDecoder):
        def __init__(self):
            super().__init__()
            self.layers = perceptron(LATENTS, *size.widths[::-1], size.features)

        def forward(self, z):
            return outputs.ModelOutput(reconstruction=self.layers(z))

    def fit(X: np.ndarray) -> None:
        datasets = importlib.import_module("pythae.data.datasets")
        data = torch.from_numpy(((X - X.mean(0)) / X.std(0)).astype(np.float32))
        config = models.VAEConfig(input_dim=(size.features,), latent_dim=LATENTS)
        model = models.VAE(config, encoder=Encoder(), decoder=Decoder())
        with tempfile.TemporaryDirectory() as folder:
            training = trainers.BaseTrainerConfig(
                output_dir=folder,
                num_epochs=size.epochs,
                learning_rate=RATE,
                per_device_train_batch_size=BATCH,
                no_cuda=True,
            )
            rows = datasets.BaseDataset(data, torch.zeros(len(data)))
            trainers.BaseTrainer(model=model, train_dataset=rows, training_config=training).train()

    return fit


def time_peers(size: Size, rounds: int) -> None:
    """Print what other packages take for as many rows and epochs, as far as they can be imported."""
    X, _ = table_of(size)
    logging.disable(logging.INFO)
    for name, make in (("MLPRegressor.fit(X, X)", scikit_learn), ("pyod AutoEncoder.fit", pyod), ("pythae VAE", pythae)):
        try:
            fit = make(size)
        except ImportError as error:
            print(f"{name:44}skipped: {error}", flush=True)
            continue
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # which some of them fill
            speeds = [size.rows * size.epochs / seconds(lambda f=fit: f(X)) for _ in range(rounds)]
        low, middle, high = quartiles(speeds)
        print(f"{name:44}{middle:12,.0f}  ({low:,.0f} to {high:,.0f})", flush=True)
    pca = PCA(LATENTS)
    print(f"{'PCA.fit, one pass':44}{size.rows / seconds(lambda: pca.fit(X)):12,.0f}")
    print(f"{'PCA.transform':44}{size.rows / seconds(lambda: pca.transform(X)):12,.0f}", flush=True)


# -- another process --------------------------------------------------------------------------------------------------


def spin() -> None:
    """Keep a core busy."""
    while True:
        pass


@contextmanager
def busy_core(is_busy: bool) -> Iterator[None]:
    """Have one process that spins beside what is measured, if it is wanted."""
    if not is_busy:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the small table alone, without peers")
    parser.add_argument("--busy", action="store_true", help="beside a process that keeps a core busy")
    parser.add_argument("--rounds", type=int, default=5, help="rounds on the small table; on the large one, half as many")
    parser.add_argument("--epochs", type=int, default=SMALL.epochs, help="of fits to the small table")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # about models that runs this short leave behind
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {args.device}{', one core busy' if args.busy else ''}"
    )
    for size in (SMALL._replace(epochs=args.epochs),) if args.quick else (SMALL._replace(epochs=args.epochs), LARGE):
        rounds = args.rounds if size.rows == SMALL.rows else max(1, args.rounds // 2)
        print(
            f"\n{size.rows:,} x {size.features}, widths {size.widths}, {LATENTS} latents, batch {BATCH}, {size.epochs} epoch(s)"
        )
        print(f"{'':44}{'samples/s':>12}{'by hand':>12}{'ratio':>8}  (quartiles)   beside the loop")
        with busy_core(args.busy):
            compare_fits(size, rounds, args.device)
            compare_transforms(size, (20 if size.rows == SMALL.rows else 2) * rounds, args.device)
            if not args.quick:
                share_of_choice(size, args.device)
                if args.device == "cpu":
                    time_peers(size, 1 if size.rows != SMALL.rows else min(3, rounds))


if __name__ == "__main__":
    main()
