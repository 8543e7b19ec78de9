"""Where the examples find their data: in the folder that the environment variable SKVAE_DATA names, and nowhere else."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def find_data(name: str, contents: str) -> Path:
    """Path of a file or folder in SKVAE_DATA; ends the script with what is expected there if there is none."""
    folder = os.environ.get("SKVAE_DATA")
    wanted = f"This example needs the environment variable SKVAE_DATA, the path of a folder with {name}: {contents}."
    if not folder:
        sys.exit(f"{wanted} It is not set.")
    path = Path(folder) / name
    if not path.exists():
        sys.exit(f"{wanted} There is none in {folder}.")
    return path


def load_mnist() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test images as float32 rows in [0, 1], with their labels: X_train, y_train, X_test, y_test."""
    path = find_data("mnist.npz", "MNIST's X_train, y_train, X_test and y_test, images as 28 x 28 grey values from 0 to 255")
    with np.load(path) as data:
        images = [data[name].reshape(-1, 784).astype(np.float32) / 255 for name in ("X_train", "X_test")]
        return images[0], data["y_train"], images[1], data["y_test"]


def load_adult() -> pd.DataFrame:
    """Census table Adult, with text and whole numbers, entries that are not known as "?"."""
    import pandas as pd

    return pd.read_csv(find_data("tables/adult.csv.gz", "the census table Adult, 15 columns with their names"))
