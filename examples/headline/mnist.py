"""Give the headline scripts MNIST; how it is found stands one folder up, which Python does not look into by itself."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data import load_mnist

__all__ = ["load_mnist"]
