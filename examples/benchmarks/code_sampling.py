"""Drawing codes from a learned prior, with and without the cache of keys and values.

The prior is a Transformer over a grid of codes, trained for a moment on random codes: what is drawn does not matter, but must
be the same either way.

    python examples/benchmarks/code_sampling.py [--rows 1000] [--side 14]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from skvae.inference.codes import draw_codes
from skvae.modules import CODE_PRIORS
from skvae.runtime.randomness import PrivateRandomness


def main() -> None:
    """Print the seconds that each way takes, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--side", type=int, default=14)
    parser.add_argument("--codes", type=int, default=128)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--prior", default="transformer", choices=["transformer", "pixelsnail"])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    with PrivateRandomness(0):
        prior = CODE_PRIORS[args.prior]((args.side, args.side), args.codes, width=args.width, n_layers=args.layers)
        torch.nn.init.normal_(prior.out.weight, std=0.2)  # an output layer of zeros would draw whatever the network says
    seconds, drawn = {}, {}
    for cache in (True, False):
        start = time.perf_counter()
        drawn[cache] = draw_codes(prior, args.rows, torch.device(args.device), 0, cache=cache)
        seconds[cache] = time.perf_counter() - start
        print(
            f"{args.prior}, {args.rows} rows of {args.side}x{args.side} codes, {'with' if cache else 'without'} the cache:",
            end=" ",
        )
        print(f"{seconds[cache]:.1f} s", flush=True)
    print(f"ratio {seconds[False] / seconds[True]:.1f}, same codes: {np.array_equal(drawn[True], drawn[False])}")


if __name__ == "__main__":
    main()
