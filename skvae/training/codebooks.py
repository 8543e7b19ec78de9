"""Where the codebooks of a vector-quantized autoencoder begin."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from skvae.modules import Batch, VQVAEModule
from skvae.runtime.cudnn import steady
from skvae.runtime.randomness import PrivateRandomness, make_generator
from skvae.runtime.threads import one_thread
from skvae.training.loader import Rows

_VECTORS_PER_CODE = 64  # that k-means looks at
_ITERATIONS = 10
_CLUSTERED_ROWS, _CLUSTERINGS = 20_000, 10  # where rows have one code, which makes them clusters


def initialize_codebooks(module: VQVAEModule, rows: Rows, seed: int) -> list[int]:
    """Place codebooks at the centers that k-means finds among the untrained encoder's vectors.

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

    def cluster(vectors: torch.Tensor, n_centers: int) -> torch.Tensor:
        values = vectors.cpu().numpy()
        distinct = np.unique(values, axis=0)
        n_distinct.append(len(distinct))
        if len(distinct) <= n_centers:
            # Those left over lie on others, which keep the vectors to themselves, until they are revived.
            centers = distinct[np.arange(n_centers) % len(distinct)]
        else:
            seen = values if is_clustering else np.random.default_rng(seed).permutation(values)[: _VECTORS_PER_CODE * n_centers]
            effort = {"n_init": _CLUSTERINGS} if is_clustering else {"n_init": 1, "max_iter": _ITERATIONS}
            with warnings.catch_warnings(), one_thread():
                warnings.simplefilter("ignore", ConvergenceWarning)
                means = KMeans(n_centers, random_state=seed % 2**31, **effort).fit(seen)
            centers = means.cluster_centers_
        return torch.from_numpy(centers.astype(np.float32)).to(vectors.device)

    module.eval()
    with steady(rows.device), PrivateRandomness(seed):
        module.initialize_codebooks(Batch.of(rows.take(order)), cluster)
    return n_distinct
