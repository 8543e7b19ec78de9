"""Handwritten digits by label: samples, styles, and squares cut out of images.

A conditional variational autoencoder takes the digit as its condition, so that its code keeps the style. Printed are how many
of its samples a classifier of real digits takes for the digit that was asked for, how much a linear classifier finds of the
label in the codes, and the squared error of a 4x4 square cut out of held-out images and filled in again, beside
scikit-learn's imputers. Writes `conditional_digits.png`.

    python examples/conditional_digits.py
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from skvae import CVAE, VAETransformer


def label_in_codes(model, train, test) -> float:
    """Accuracy of a linear classifier of held-out codes."""
    (X, y), (X_test, y_test) = train, test
    return LogisticRegression(max_iter=5000).fit(model.transform(X), y).score(model.transform(X_test), y_test)


def tiles(images: np.ndarray) -> np.ndarray:
    """Images ``(n_rows, n_columns, 64)`` side by side as one, with a pixel between them."""
    apart = np.pad(images.reshape(*images.shape[:2], 8, 8), [(0, 0), (0, 0), (0, 1), (0, 1)])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in apart])


def main() -> None:
    """Print the figures and draw the pictures."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, stratify=y, random_state=0)
    cvae = CVAE(random_state=0).fit(X, y)
    vae = VAETransformer(random_state=0).fit(X)
    judge = SVC(gamma=0.001, C=10).fit(X, y)

    asked = np.repeat(np.arange(10), 100)
    samples = cvae.sample(1000, asked, mean=True)
    print(f"samples recognized as the digit asked for: {np.mean(judge.predict(samples) == asked):.1%}", end=" ")
    print(f"(held-out digits: {judge.score(X_test, y_test):.1%})")
    found = [label_in_codes(model, (X, y), (X_test, y_test)) for model in (cvae, vae)]
    print(f"digit found in the code, size {cvae.n_components_}: {found[0]:.1%} (VAETransformer: {found[1]:.1%})")

    square = np.zeros((8, 8), dtype=bool)
    square[2:6, 2:6] = True
    square = square.ravel()
    missing = np.where(square, np.nan, X_test)
    filled = {
        "CVAE": cvae.inpaint(missing, square, y_test),
        "IterativeImputer": IterativeImputer(max_iter=20, random_state=0).fit(X).transform(missing),
        "mean of the pixel": SimpleImputer().fit(X).transform(missing),
    }
    print("squared error of a pixel in the square that was cut out:")
    for name, rows in filled.items():
        print(f"  {name:20}{((rows - X_test)[:, square] ** 2).mean():6.2f}")

    from matplotlib import pyplot as plt

    chosen = np.arange(20)
    draws = cvae.draw_inpaintings(missing[chosen], square, y_test[chosen], n_draws=3, random_state=0)
    holes = np.where(square, 8.0, X_test[chosen])
    inpainted = [X_test[chosen], holes, *(rows[chosen] for rows in filled.values()), *draws.transpose(1, 0, 2)]
    styles = np.stack([X_test[:8], *(cvae.style_transfer(X_test[:8], digit) for digit in range(10))], axis=1)
    walks = cvae.interpolate(X_test[:8], X_test[:8], y_test[:8], (y_test[:8] + 1) % 10, n_steps=11)
    panels = {
        "samples, by digit": cvae.sample(200, np.repeat(np.arange(10), 20), mean=True).reshape(10, 20, 64),
        "images, cut, filled in by " + ", ".join(filled) + ", three draws": np.stack(inpainted),
        "styles of the first column, digits 0 to 9": styles,
        "from one label to the next, at the same style": walks,
    }
    figure, axes = plt.subplots(2, 2, figsize=(12, 7.5), layout="constrained", width_ratios=[20, 11])
    for axis, (title, images) in zip(axes.T.ravel(), panels.items(), strict=True):
        axis.imshow(tiles(images), cmap="gray_r", vmin=0, vmax=16)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    figure.savefig("conditional_digits.png", dpi=110)
    print("pictures: conditional_digits.png")


if __name__ == "__main__":
    main()
