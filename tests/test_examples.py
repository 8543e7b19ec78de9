"""Examples read their data from SKVAE_DATA, and say so where they cannot."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import slow

EXAMPLES = Path(__file__).parents[1] / "examples"
NEED_DATA = {
    "quickstart.py --mnist": "mnist.npz",
    "clusters.py --mnist": "mnist.npz",
    "moving_digits.py --mnist": "mnist.npz",
    "headline/conv_vae_mnist.py": "mnist.npz",
    "headline/cvae_mnist.py": "mnist.npz",
    "headline/cvae_quadrants.py": "mnist.npz",
    "headline/k_sparse_mnist.py": "mnist.npz",
    "headline/vqvae_mnist.py": "mnist.npz",
    "benchmarks/anomaly.py": "adbench",
    "benchmarks/explain_anomaly.py --real": "adbench",
    "benchmarks/neighbors.py --sets usps": "clusters",
    "benchmarks/clusters.py sets --sets usps --methods AutoencoderClusterer": "clusters",
    "benchmarks/tables.py samples --sets german": "tables",
    "benchmarks/tables.py anomalies": "tables",
}
# Scripts end before they compute anything, so that one process serves for all of them.
RUN_ALL = """
import json, runpy, sys
messages = {}
for line in json.loads(sys.argv[1]):
    path, *arguments = line.split()
    for name in ("data", "mnist", "adbench"):
        sys.modules.pop(name, None)
    before, sys.argv, sys.path[0] = sys.path[:], [path, *arguments], path.rpartition("/")[0]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        messages[line] = end.code
    sys.path[:] = before
print(json.dumps(messages))
"""


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.py")), ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_no_example_looks_for_data_elsewhere(path):
    text = path.read_text()
    assert not re.search(r"\bshared/|\"shared\" ?/|/ ?\"shared\"|fetch_openml|OpenML|urlopen|urlretrieve", text)
    assert ("os.environ" in text) == (path.name == "data.py")


@pytest.mark.parametrize("folder", [None, *slow("empty")])
def test_examples_say_what_is_expected_where_data_are_missing(folder, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "SKVAE_DATA"}
    if folder is not None:
        environment["SKVAE_DATA"] = str(tmp_path)
    lines = {str(EXAMPLES / line): name for line, name in NEED_DATA.items()}
    found = subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps([*lines])],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**environment, "MPLBACKEND": "agg"},
    )
    messages = json.loads(found.stdout.splitlines()[-1])
    assert messages.keys() == lines.keys()
    for line, name in lines.items():
        assert "SKVAE_DATA" in messages[line], line
        assert name in messages[line], line
        assert ("It is not set." if folder is None else str(tmp_path)) in messages[line], line
    assert not any(tmp_path.iterdir())
