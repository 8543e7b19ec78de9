"""Training the priors of discrete codes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import nn

from skvae._spec import Spec, check_count, check_fraction, check_name, check_number
from skvae.data import Table
from skvae.inference.codes import code_log_prob, draw_codes, precise_copy, rows_in_memory
from skvae.inference.runner import chunk_rows, chunks
from skvae.modules import CODE_PRIORS, CodePriorModule, VQVAEModule
from skvae.modules.priors.codes import AutoregressivePrior
from skvae.runtime.randomness import PrivateRandomness, Stream, seed_streams
from skvae.runtime.state import load_module_state, to_plain
from skvae.runtime.threads import threads_for
from skvae.training.loader import Rows
from skvae.training.net import DivergedError, Plan, train
from skvae.training.optimizers import Optimizer

_FEWEST_ROWS, _FEWEST_PER_CODE = 4, 0.25  # below which nothing but the histogram carries over to new rows
FEW_ROWS = 4000  # up to which a prior has to be small, and it is worth finding out how far it can be trusted
_WIDTH, _N_HEADS = 64, 4  # of a network, by default
_NETWORK_OF_FEW_ROWS = {"n_layers": 1, "dropout": 0.2}
_TRAINING = {"learning_rate": 4e-3, "batch_size": 32}
_STEPS = 9400  # that training aims at
_EPOCHS = (2, 20)  # fewest and most


class CodePrior(Spec):
    """Specification of the prior of a :class:`~skvae.VQVAE`'s codes.

    All arguments but the name are those of the autoregressive priors, and of their training.

    Parameters
    ----------
    name : {"auto", "transformer", "pixelsnail", "histogram", "uniform"}, default="auto"
        Autoregressive, by a causal Transformer or by gated causal convolutions with attention, of which "auto" takes the former
        for rows and the latter for images; independent codes with frequencies by position; or all codes alike.
    n_layers : int or None, default=None
        Layers of the network; None takes 1 for up to 4,000 rows, and else 2.
    width : int or None, default=None
        Their width, a multiple of `n_heads`; None takes 64.
    n_heads : int or None, default=None
        Heads of the attention; None takes 4.
    dropout : float or None, default=None
        Probability of zeroing a unit in training; None takes 0.2 for up to 4,000 rows, and else 0.
    learning_rate : float or None, default=None
        Step size of its optimizer at the start; None takes 0.004.
    batch_size : int or None, default=None
        Largest number of rows that a step sees; None takes 32.
    max_epochs : int or None, default=None
        Passes over the codes; None aims at 9,400 steps in 2 to 20 passes.

    Examples
    --------
    >>> from skvae import VQVAE, CodePrior
    >>> VQVAE(code_prior=CodePrior("transformer", width=32)).set_params(code_prior__n_layers=2).code_prior
    CodePrior(name='transformer', n_layers=2, width=32)
    """

    def __init__(
        self,
        name: str = "auto",
        *,
        n_layers: int | None = None,
        width: int | None = None,
        n_heads: int | None = None,
        dropout: float | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        max_epochs: int | None = None,
    ):
        self.name = name
        self.n_layers = n_layers
        self.width = width
        self.n_heads = n_heads
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs

    @property
    def network(self) -> dict[str, Any]:
        """Arguments of the network that are given."""
        return self._given("n_layers", "width", "n_heads", "dropout")

    @property
    def training(self) -> dict[str, Any]:
        """Arguments of its training that are given."""
        return self._given("learning_rate", "batch_size", "max_epochs")

    def _given(self, *names: str) -> dict[str, Any]:
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return {name: int(value) if isinstance(value, Integral) else value for name, value in given.items()}

    def check(self) -> None:
        """Look whether the arguments are in range, and have an effect.

        Raises
        ------
        ValueError
            If one is not, or has none.
        """
        check_name(self, "name", ("auto", *CODE_PRIORS))
        given = {**self.network, **self.training}
        if given and self.name != "auto" and not CODE_PRIORS[self.name].learns:
            raise ValueError(f"{self!r}: {' and '.join(given)} without effect on {self.name!r}, which is not trained; use None.")
        for name in ("n_layers", "width", "n_heads", "batch_size", "max_epochs"):
            check_count(self, name, may_be_none=True)
        if self.dropout is not None:
            check_fraction(self, "dropout")
        check_number(self, "learning_rate", may_be_none=True)
        width, n_heads = self.width or _WIDTH, self.n_heads or _N_HEADS
        if width % n_heads:
            raise ValueError(f"{self!r}: width={width} must be a multiple of n_heads={n_heads}.")


def fit_code_prior(
    prior: CodePriorModule,
    rows: np.ndarray,
    device: torch.device,
    plan: Plan,
    *,
    codebooks: list[np.ndarray],
    weight: np.ndarray | None = None,
    condition: np.ndarray | None = None,
    begins: bool = True,
    remembered: int = 0,
) -> tuple[np.ndarray, bool]:
    """Fit the prior of one level's codes, in place.

    On few rows, a network that adds nothing to the histogram when tried on halves of them is not trained.

    Parameters
    ----------
    prior : CodePriorModule
    rows : ndarray of shape (n, n_upper + n_codes)
        Codes of the levels above, top first, and own codes.
    device : torch.device
    plan : Plan
    codebooks : list of ndarray
        Of the levels above, top first, and of this one.
    weight : ndarray of shape (n,), optional
    condition : ndarray of shape (n, n_conditions), optional
    begins : bool, default=True
        Whether the network has not been trained before.
    remembered : int, default=0
        Earlier rows, at most, that count towards the frequencies of the codes.

    Returns
    -------
    losses : ndarray of shape (n_epochs,)
        Training loss per epoch, in nats per row; empty where nothing is trained by gradient.
    diverged : bool
        Whether the loss stopped being finite, before which training then ended.

    Raises
    ------
    DivergedError
        If not even one epoch ended with a finite loss.
    """
    prior.fit_counts(rows[:, prior.n_upper :], weight, condition, remembered=remembered)
    if not prior.learns or (prior.n_features == 1 and prior.n_conditions == 0):  # one code that depends on nothing
        return np.empty(0), False
    prior.to(device)
    if begins:
        prior.set_embeddings(torch.from_numpy(codebooks[-1]), [torch.from_numpy(book) for book in codebooks[:-1]])
        if len(rows) < max(_FEWEST_ROWS, _FEWEST_PER_CODE * prior.n_embeddings):
            prior.share.zero_()  # type: ignore[operator]
        elif len(rows) <= FEW_ROWS:
            fit_share(prior, rows, device, plan, weight=weight, condition=condition)  # type: ignore[arg-type]
        else:
            prior.share.fill_(1.0)  # type: ignore[operator]
    if not prior.share:
        return np.empty(0), False
    known = Rows(Table.of(rows, weight, condition), None, device)
    outcome = train(prior, known, None, plan)
    return outcome.history["loss"], outcome.diverged


def level_plan(plan: Plan, level: int) -> Plan:
    """Plan of the prior of one level, with random numbers of its own."""
    (seed,) = seed_streams(plan.seed, Stream.CODE_PRIOR, level, n=1)
    return replace(plan, seed=seed)


def level_rows(module: VQVAEModule, codes: np.ndarray, level: int) -> np.ndarray:
    """Codes of the levels above one and its own, as its prior takes them."""
    return codes[:, : module.code_slices[level].stop]


def codebooks_of(module: VQVAEModule, level: int) -> list[np.ndarray]:
    """Codebooks of the levels above one and its own."""
    quantizers: list[Any] = list(module.quantizers)[: level + 1]
    return [quantizer.embeddings().detach().cpu().numpy() for quantizer in quantizers]


def fit_share(
    prior: AutoregressivePrior,
    rows: np.ndarray,
    device: torch.device,
    plan: Plan,
    *,
    weight: np.ndarray | None = None,
    condition: np.ndarray | None = None,
) -> float:
    """Find how much of a network's departure from the histogram carries over to new rows, by crossing over two halves.

    Training on few rows does not tell codes that depend on each other from codes that happen to. A copy of the prior is
    trained on each half, as the prior will be on all rows, and scores the other half; no row is withheld from the prior.
    To be called before training; takes about as long.

    Parameters
    ----------
    prior : AutoregressivePrior
        Not trained yet. Gets its `share`.
    rows : ndarray of shape (n, n_upper + n_codes)
        At least four.
    device : torch.device
    plan : Plan
        How it will be trained.
    weight : ndarray of shape (n,), optional
    condition : ndarray of shape (n, n_conditions), optional

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    DivergedError
        If the loss of neither half stays finite for an epoch.
    """
    (seed,) = seed_streams(plan.seed, Stream.SPLIT, n=1)
    order = np.random.default_rng(seed).permutation(len(rows))
    halves = np.array_split(order, 2)
    shares = np.linspace(0.0, 1.0, 21)
    losses, n_diverged = np.zeros_like(shares), 0
    for here, there in (halves, halves[::-1]):
        twin = copy.deepcopy(prior)
        twin.share.fill_(1.0)
        twin.fit_counts(rows[here, prior.n_upper :], None if weight is None else weight[here])
        steps = plan.n_epochs * -(-len(here) // plan.batch_size)
        part = replace(plan, total_steps=steps, first_step=0, early_stopping=None, verbose=0, callbacks=[])
        known = Rows(Table.of(rows, weight, condition), None, device, index=here)
        try:
            train(twin, known, None, part)
        except DivergedError:
            n_diverged += 1
            if n_diverged == len(halves):
                raise
            losses += np.linspace(0.0, 1.0, len(shares))
            continue
        of_others = (None if values is None else values[there] for values in (weight, condition))
        losses += _losses(twin, rows[there], device, *of_others, shares)
    share = float(shares[losses.argmin()])
    prior.share.fill_(share)
    return share


def _losses(
    prior: AutoregressivePrior,
    rows: np.ndarray,
    device: torch.device,
    weight: np.ndarray | None,
    condition: np.ndarray | None,
    shares: np.ndarray,
) -> np.ndarray:
    """Weighted sums of negative log-probabilities over rows, for each of several shares of the network's output."""
    prior = precise_copy(prior, device)
    dtype = prior.share.dtype
    size = min(chunk_rows(prior), rows_in_memory(2 * prior.row_floats))
    losses = np.zeros(len(shares))
    with torch.no_grad(), threads_for(prior, size):
        for chunk in chunks(len(rows), size):
            upper, codes = prior.split(torch.from_numpy(rows[chunk]).to(device))
            given = None if condition is None else torch.from_numpy(np.array(condition[chunk], np.float64)).to(dtype).to(device)
            network = prior.logits(codes, upper, given) - prior.log_frequency
            for i, share in enumerate(shares):
                log_prob = (prior.log_frequency + float(share) * network).log_softmax(-1)
                nats = -log_prob.gather(-1, codes.unsqueeze(-1)).sum((1, 2)).cpu().numpy()
                losses[i] += nats.sum() if weight is None else weight[chunk] @ nats
    return losses


def _name_for(spec: CodePrior, module: VQVAEModule) -> str:
    """Name of the prior of the codes of a module, which "auto" takes by whether they lie on grids."""
    if spec.name != "auto":
        return spec.name
    return "transformer" if len(module.level_shapes[-1]) == 1 else "pixelsnail"


def _plan_for(spec: CodePrior, plan: Plan, n_rows: int, *, begins: bool) -> Plan:
    """Return the plan of training a prior, which begins or goes on, after that of the module whose codes it is of."""
    params = {**_TRAINING, **spec.training}
    n_batches = -(-n_rows // params["batch_size"])
    n_epochs = params.pop("max_epochs", int(np.clip(round(_STEPS / n_batches), *_EPOCHS)))
    return replace(
        plan,
        **params,
        n_epochs=n_epochs if begins else 1,
        total_steps=n_epochs * n_batches,
        first_step=0,
        pass_index=0 if begins else plan.pass_index + 1,
        optimizer=Optimizer("adam", schedule="cosine" if begins else "constant"),
        early_stopping=None,
        verbose=0,
        callbacks=[],
    )


class CodePriors(Sequence[CodePriorModule]):
    """Fitted priors of the codes of all levels, the top level's first.

    Parameters
    ----------
    name : str
        A name in `CODE_PRIORS`.
    network : dict
        Arguments of the networks.
    levels : sequence of (shape, n_embeddings)
        Of the codes.
    n_conditions : int
        Length of the conditions that the priors depend on; 0 if they depend on none.
    seed : int
        Decides the initial weights.

    Attributes
    ----------
    losses : list of ndarray of shape (n_epochs,)
        Training loss of every level, in nats per row.
    """

    def __init__(
        self, name: str, network: dict[str, Any], levels: Sequence[tuple[tuple[int, ...], int]], n_conditions: int, seed: int
    ):
        self._arguments = {"name": name, "network": network, "levels": list(levels), "n_conditions": n_conditions, "seed": seed}
        self.n_tried = 0  # rows that the networks were last tried on
        self.losses: list[np.ndarray] = [np.empty(0)] * len(levels)
        with PrivateRandomness(seed):
            self.modules = nn.ModuleList(
                CODE_PRIORS[name](*level, upper=levels[:i], n_conditions=n_conditions, **network).float()
                for i, level in enumerate(levels)
            )

    @classmethod
    def of(cls, spec: CodePrior, module: VQVAEModule, *, n_rows: int, n_conditions: int, seed: int) -> CodePriors:
        """Make priors of a module's codes, to be fitted to those of so many rows."""
        name = _name_for(spec, module)
        is_small = CODE_PRIORS[name].learns and n_rows <= FEW_ROWS
        network = {**(_NETWORK_OF_FEW_ROWS if is_small else {}), **spec.network}
        levels = [(level.shape, level.n_embeddings) for level in module.levels]
        return cls(name, network, levels, n_conditions, seed)

    def __len__(self) -> int:
        return len(self.modules)

    def __getitem__(self, level: Any) -> Any:
        return self.modules[level]

    @property
    def depends_on_conditions(self) -> bool:
        """Whether any level's probabilities depend on the condition."""
        return any(prior.depends_on_conditions for prior in self.modules)

    def is_of(self, spec: CodePrior, module: VQVAEModule) -> bool:
        """Whether the priors, which are of the module's codes, have the name and the arguments of a specification."""
        made = self._arguments
        return made["name"] == _name_for(spec, module) and made["network"] == {**made["network"], **spec.network}

    def fitted(
        self,
        module: VQVAEModule,
        codes: np.ndarray,
        table: Table,
        device: torch.device,
        plan: Plan,
        spec: CodePrior,
        *,
        remembered: int,
    ) -> tuple[CodePriors, list[Plan]]:
        """Return priors that are fitted to more codes; these stay as they are.

        Parameters
        ----------
        module : VQVAEModule
            What the codes are of.
        codes : ndarray of shape (n, n_codes)
        table : Table
            The rows behind the codes, for their weights and labels.
        device : torch.device
        plan : Plan
            Of the module's own training.
        spec : CodePrior
            Arguments of the priors' training.
        remembered : int
            Earlier rows, at most, that count towards the frequencies of the codes; 0 for priors that are new.

        Returns
        -------
        priors : CodePriors
        diverged : list of Plan
            Of levels whose loss stopped being finite, before which training then ended.

        Raises
        ------
        PriorDivergedError
            If not even one epoch of a level ended with a finite loss.
        """
        priors, anew, diverged = copy.deepcopy(self), remembered == 0, []
        # A stream may begin with rows that are too few to train a network on.
        tries = anew or len(codes) >= 2 * self.n_tried
        if tries:
            priors.n_tried = len(codes)
        for level, prior in enumerate(priors.modules):
            begins = anew or bool(tries and prior.learns and not prior.share)
            own_plan = level_plan(_plan_for(spec, plan, len(codes), begins=begins), level)
            try:
                loss, blew_up = fit_code_prior(
                    prior,
                    level_rows(module, codes, level),
                    device,
                    own_plan,
                    codebooks=codebooks_of(module, level),
                    weight=table.weight,
                    condition=table.labels,
                    begins=begins,
                    remembered=remembered,
                )
            except DivergedError:
                raise PriorDivergedError(own_plan.learning_rate) from None
            if blew_up:
                diverged.append(own_plan)
            priors.losses[level] = loss if anew else np.concatenate([self.losses[level], loss])
        priors.modules.cpu()
        return priors, diverged

    def sample(
        self,
        n: int,
        device: torch.device,
        seeds: Sequence[int],
        *,
        condition: np.ndarray | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
    ) -> np.ndarray:
        """Draw codes ``(n, n_codes)`` level by level, by one seed for each; see `draw_codes`."""
        codes = np.empty((n, 0), dtype=np.int64)
        for prior, seed in zip(self.modules, seeds, strict=True):
            upper = codes if codes.shape[1] else None
            drawn = draw_codes(prior, n, device, seed, upper=upper, condition=condition, temperature=temperature, top_k=top_k)
            codes = np.hstack([codes, drawn])
        return codes

    def log_prob(
        self, module: VQVAEModule, codes: np.ndarray, device: torch.device, condition: np.ndarray | None = None
    ) -> np.ndarray:
        """Log-probability of the codes ``(n, n_codes)`` of rows, all levels together, in nats, ``(n,)``."""
        parts = [
            code_log_prob(prior, level_rows(module, codes, level), device, condition).sum(axis=1)
            for level, prior in enumerate(self.modules)
        ]
        total: np.ndarray = np.sum(parts, axis=0)
        return total

    # -- persistence: plain data and numpy arrays ---------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        weights = to_plain(self.modules.state_dict())
        return {"arguments": self._arguments, "n_tried": self.n_tried, "losses": self.losses, "weights": weights}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["arguments"])  # type: ignore[misc]
        self.n_tried, self.losses = state["n_tried"], state["losses"]
        load_module_state(self.modules, state["weights"])
        self.modules.eval()


class PriorDivergedError(ArithmeticError):
    """The loss of a prior of codes stopped being a finite number.

    Parameters
    ----------
    learning_rate : float
    """

    def __init__(self, learning_rate: float):
        super().__init__(learning_rate)
        self.learning_rate = learning_rate
