"""Learn a table of people, with text and whole numbers in it, and draw new ones.

`VAETransformer` is fitted to the census table Adult as it is: 15 columns, nine of them text, some numbers mostly zero. Prints
the likelihood of new rows, people that are drawn, people of whom something is known, and what is wrong about a row in which one
entry has been changed. Writes one figure: histograms of columns of new rows and of drawn ones, and how income goes with age and
education in both.

    python examples/people.py              about two minutes
    python examples/people.py --rows 5000  some seconds

Adult is read from tables/adult.csv.gz in the folder that the environment variable SKVAE_DATA names.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from data import load_adult

from skvae import Mixed, VAETransformer

SHOWN = ["age", "education", "hours-per-week", "capital-gain", "marital-status", "income"]
LIKELIHOOD = Mixed(handle_unknown="missing")  # of countries that only some of the other rows have


def tell(frame: pd.DataFrame, row: pd.DataFrame, vae: VAETransformer) -> None:
    """Say in words how unlike the others a row is, and what about it."""
    shares = pd.Series(vae.explain_anomaly(row)[0], index=frame.columns).sort_values(ascending=False)
    score = vae.score_anomaly(row)[0]
    rank = (vae.score_anomaly(frame) < score).mean()
    print(f"\nA row that is more unusual than {rank:.1%} of the others:\n")
    print(row.T.to_string(header=False))
    first = shares.index[0]
    part, others = shares.iloc[0] / shares.clip(lower=0).sum(), ", ".join(shares.index[1:3])
    print(f"\nWhat is most unusual is {first} = {row[first].iloc[0]!r}, with {part:.0%} of it; next are {others}.")
    known = row.copy()
    known[first] = None
    drawn = vae.sample(500, given=known, random_state=0)[first].value_counts(normalize=True)
    listed = ", ".join(f"{value} ({share:.0%})" for value, share in drawn.head(3).items())
    print(f"From the rest of the row the model expects {listed}.")


def draw(real: pd.DataFrame, drawn: pd.DataFrame, file: Path) -> None:
    """Draw histograms of columns of real rows and of drawn ones side by side, and how income goes with two of them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(16, 7.5), layout="constrained")
    colors = {"new rows": "#4c72b0", "drawn": "#dd8452"}
    tables = {"new rows": real, "drawn": drawn}
    for ax, name in zip(axes.flat, SHOWN, strict=False):
        if pd.api.types.is_numeric_dtype(real[name]):
            values = {label: table[name].to_numpy(dtype=float) for label, table in tables.items()}
            if name == "capital-gain":
                values = {label: np.log10(1.0 + each) for label, each in values.items()}
            edges = np.histogram_bin_edges(values["new rows"], 24)
            for (label, each), shift in zip(values.items(), (0.0, 0.5), strict=True):
                counts = np.histogram(each.clip(edges[0], edges[-1]), edges)[0] / len(each)
                width = np.diff(edges)
                ax.bar(edges[:-1] + shift * width, counts, 0.5 * width, align="edge", color=colors[label], label=label)
            ax.set_xlabel("log10(1 + capital-gain)" if name == "capital-gain" else name)
            if name == "capital-gain":
                ax.set_yscale("log")
        else:
            order = real[name].value_counts(normalize=True).head(8).index
            for (label, table), shift in zip(tables.items(), (0.0, 0.4), strict=True):
                share = table[name].value_counts(normalize=True).reindex(order).fillna(0.0)
                ax.barh(np.arange(len(order)) + shift, share, 0.4, color=colors[label], label=label)
            ax.set_yticks(np.arange(len(order)) + 0.2, [str(each)[:18] for each in order])
            ax.invert_yaxis()
            ax.set_xlabel(f"share of {name}")
    axes[0, 0].legend()
    for ax, name in zip(axes[1, 2:], ("age", "education-num"), strict=True):
        for label, table in tables.items():
            rich = table["income"].astype(str).str.contains(">50K")
            groups = (table[name] // 5 * 5 if name == "age" else table[name]).astype(float)
            share = rich.groupby(groups).agg(["mean", "size"])
            share = share[share["size"] >= 20]["mean"]
            ax.plot(share.index, share, marker="o", color=colors[label], label=label)
        ax.set_xlabel(name)
        ax.set_ylabel("share with an income above 50K")
        ax.set_ylim(bottom=0.0)
    figure.savefig(file, dpi=110)
    print(f"\nThe figure is in {file}.")


def main() -> None:
    """Fit, draw, condition, explain and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=None, help="rows to learn from; all but a fifth by default")
    parser.add_argument("--figure", type=Path, default=Path("people.png"))
    args = parser.parse_args()
    frame = load_adult()
    order = np.random.default_rng(0).permutation(len(frame))
    test = frame.iloc[order[: len(frame) // 5]].reset_index(drop=True)
    train = frame.iloc[order[len(frame) // 5 :][: args.rows]].reset_index(drop=True)
    print(f"{len(train)} people to learn from, {len(test)} others; columns:\n{train.dtypes.to_string()}")

    start = time.perf_counter()
    vae = VAETransformer(likelihood=LIKELIHOOD, random_state=0).fit(train)
    print(f"\nFitted in {time.perf_counter() - start:.0f} s; a person is {vae.n_components_} numbers of code.")
    print(f"Log-likelihood of the others: {vae.score(test):.2f} nats a row.")

    drawn = vae.sample(len(test), random_state=0)
    print(f"\nPeople who do not exist:\n\n{drawn.head(6).to_string()}")
    given = {"sex": "Female", "education": "Doctorate", "age": 40}
    print(f"\nPeople of whom {given} is known:\n\n{vae.sample(5, given=given, random_state=0).to_string()}")

    row = test[(test["relationship"] == "Husband") & (test["marital-status"] == "Married-civ-spouse")].head(1).copy()
    row["relationship"] = "Own-child"
    tell(test, row.reset_index(drop=True), vae)
    draw(test, drawn, args.figure)


if __name__ == "__main__":
    main()
