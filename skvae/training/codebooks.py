"""What surrounds the training of a vector-quantised autoencoder: where codebooks begin, and the priors of the codes."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from skvae.modules import CodePrior, VQVAEModule
from skvae.training.code_sampling import fit_share
from skvae.training.cudnn import steady
from skvae.training.loader import Rows
from skvae.training.net import Plan, train
from skvae.training.randomness import PrivateRandomness, make_generator, seed_streams
from skvae.training.threads import one_thread

_VECTORS_PER_CODE = 64  # that k-means looks at
_ITERATIONS = 10
_CLUSTERED_ROWS, _CLUSTERINGS = 20_000, 10  # where rows have one code, which makes them clusters
_FEWEST_ROWS, _FEWEST_PER_CODE = 4, 0.25  # below which nothing but the histogram carries over to new rows
FEW_ROWS = 4000  # up to which a prior has to be small, and it is worth finding out how far it can be trusted


def initialize_codebooks(module: VQVAEModule, rows: Rows, seed: int) -> list[int]:
    """Have codebooks begin at the centres that k-means finds among the untrained encoder's vectors, in place.

    Parameters
    ----------
    module : VQVAEModule
    rows : Rows
    seed : int

    Returns
    -------
    list of int
        Distinct vectors that each level had to choose from, as far as they were looked at.
    """
    n_distinct: list[int] = []
    most = max(_VECTORS_PER_CODE * -(-level.n_embeddings // level.n_codes) for level in module.levels)
    is_clustering = module.n_codes == 1
    most = _CLUSTERED_ROWS if is_clustering else most
    order = torch.randperm(len(rows), generator=make_generator(seed))[:most].to(rows.device)

    def cluster(vectors: torch.Tensor, n_centres: int) -> torch.Tensor:
        values = vectors.cpu().numpy()
        distinct = np.unique(values, axis=0)
        n_distinct.append(len(distinct))
        if len(distinct) <= n_centres:
            # Those left over lie on others, which keep the vectors to themselves, until they are revived.
            centres = distinct[np.arange(n_centres) % len(distinct)]
        else:
            seen = values if is_clustering else np.random.default_rng(seed).permutation(values)[: _VECTORS_PER_CODE * n_centres]
            effort = {"n_init": _CLUSTERINGS} if is_clustering else {"n_init": 1, "max_iter": _ITERATIONS}
            with warnings.catch_warnings(), one_thread():
                warnings.simplefilter("ignore", ConvergenceWarning)
                means = KMeans(n_centres, random_state=seed % 2**31, **effort).fit(seen)
            centres = means.cluster_centers_
        return torch.from_numpy(centres.astype(np.float32)).to(vectors.device)

    module.eval()
    with steady(rows.device), PrivateRandomness(seed):
        module.initialize_codebooks(rows.take(order), cluster)
    return n_distinct


def fit_code_prior(
    prior: CodePrior,
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
    prior : CodePrior
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
    known = Rows(rows, None, device, weight=weight, condition=condition)
    outcome = train(prior, known, None, plan)
    return outcome.history["loss"], outcome.diverged


def level_plan(plan: Plan, level: int) -> Plan:
    """Plan of the prior of one level, with random numbers of its own."""
    (seed,) = seed_streams(plan.seed, 9, level, n=1)
    return replace(plan, seed=seed)


def level_rows(module: VQVAEModule, codes: np.ndarray, level: int) -> np.ndarray:
    """Codes of the levels above one and its own, as its prior takes them."""
    return codes[:, : module.code_slices[level].stop]


def codebooks_of(module: VQVAEModule, level: int) -> list[np.ndarray]:
    """Codebooks of the levels above one and its own."""
    quantizers: list[Any] = list(module.quantizers)[: level + 1]
    return [quantizer.embeddings().detach().cpu().numpy() for quantizer in quantizers]
