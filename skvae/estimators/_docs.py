"""Texts that every estimator's documentation shares, written once."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Mapping
from inspect import signature
from typing import Any

ARCHITECTURE = """
hidden_layer_sizes : array-like of int, default=(128, 64)
    Widths of the encoder's hidden layers; the decoder mirrors them. Empty for linear maps.
activation : str or type of Module, default="relu"
    Activation of the hidden layers: "relu", "gelu", "silu", "elu", "selu", "leaky_relu", "tanh", "sigmoid",
    "identity", or a class that is built without arguments.
encoder : MLP, Conv, Net or None, default=None
    Specification of the encoder, such as its dropout and normalization: see :class:`~skvae.MLP` for
    perceptrons, :class:`~skvae.Conv` for convolutional networks and :class:`~skvae.Net` for networks of your own. None is
    a perceptron, or a convolutional network for images; what is set of None, as by ``set_params(encoder__dropout=0.1)``, is
    held by a :class:`~skvae.DefaultNet`.
decoder : MLP, Conv, Net, "tied" or None, default=None
    The same of the decoder; None mirrors the encoder. "tied" has it use the encoder's weights, too, transposed, with
    biases of its own.
linear_path : "auto", LinearPath or None, default="auto"
    Linear maps beside the perceptrons of encoder and decoder, which begin at the linear special case of the model, and a weight
    decay that holds the perceptrons back: see :class:`~skvae.LinearPath`. "auto" chooses the decay by held-out rows, except
    in variational models of mixed data frames, where it is 0.3; it has no such maps beside networks that are no perceptrons. None
    has none.
image_shape : tuple of int or None, default=None
    Channels, height and width of the images that the rows of X are: encoder and decoder then begin and end with
    convolutions. Not needed where X has the shape (n_samples, channels, height, width); rows then come back
    in that shape, too.
likelihood : {"gaussian", "laplace", "bernoulli", "poisson"}, Gaussian, Laplace, Bernoulli or Poisson, default="gaussian"
    How entries scatter around the decoder's output. "bernoulli" takes X in [0, 1] and "poisson" counts, as they are; the others
    standardize the columns themselves and undo it in everything they return, and estimate the scale of their noise, or have it
    fixed: see :class:`~skvae.Gaussian`.
missing_values : float or None, default=None
    What stands for a missing entry, such as ``np.nan``: scores are then those of what is observed, whose likelihood is
    learned, and the encoder sees columns' means in place of the rest and which they are. None takes no missing entries.
"""

# Where data frames may have columns of different kinds, in place of the same parameters.
OF_FRAMES = """
likelihood : {"auto", "gaussian", "laplace", "bernoulli", "poisson"}, dict, LikelihoodSpec, default="auto"
    How entries scatter around the decoder's output. "bernoulli" takes X in [0, 1] and "poisson" counts, as they are;
    "gaussian" and "laplace" standardize the columns themselves and undo it in everything they return, and estimate the scale of
    their noise, or have it fixed: see :class:`~skvae.Gaussian`. "auto" gives each column of a data frame a distribution by
    what it holds: categories, text, True and False, dates, or numbers. Arrays, and frames of numbers alone, are "gaussian".
    A dict names distributions by column; :class:`~skvae.Mixed` says more.
missing_values : "auto", float or None, default="auto"
    What stands for a missing entry, such as ``np.nan``: scores are then those of what is observed, whose likelihood is
    learned, and the encoder sees columns' means in place of the rest and which they are. "auto" takes the entries that a data
    frame lacks for missing, and none in arrays; None takes no missing entries.
"""

TRAINING = """
learning_rate : float or "auto", default="auto"
    Step size of the optimizer at the start; "auto" is 0.002, and 0.01 for an encoder
    of one layer. Of data frames of mixed columns, it is 0.005, and up to 0.01 where a step sees more than 128 rows.
optimizer : str, type of Optimizer or Optimizer, default="adam"
    Name, in lower case, or class of an optimizer of torch; its further arguments, the schedule of the learning rate and bounds of
    the gradient are those of :class:`~skvae.Optimizer`.
batch_size : int or "auto", default="auto"
    Largest number of rows a step sees; "auto" is 128 and, of data frames of mixed columns, up to 512: a fiftieth of the rows.
max_epochs : int or "auto", default="auto"
    Passes over the data; "auto" aims at 3,000 steps in 10 to 300 passes beside a linear path and 10 to 100 without, and for
    linear maps alone, which hardly overfit, at 5,000 in 10 to 1,000. Of data frames of mixed columns, it aims at 8,000 steps in
    10 to 100 passes, or up to 200 where there are more than 1,000 rows.
early_stopping : bool or EarlyStopping, default=False
    Hold out rows, stop when their loss no longer falls and restore the best weights. How many rows, and how long it waits, are
    arguments of :class:`~skvae.EarlyStopping`; `fit` takes `validation_data` in their place, and whole `groups`.
n_score_draws : int, default=64
    Importance draws per row in `score_samples`.
warm_start : bool, default=False
    Start `fit` from the weights and the standardization of the last one.
device : str, default="auto"
    "cpu", "cuda", "cuda:<index>" or "mps"; "auto" means CUDA, else MPS, else the CPU.
precision : {"float32", "bfloat16", "auto"}, default="float32"
    In what the networks multiply in training, forward and backward: "bfloat16" rounds to eight bits, "auto" is the same where
    the device is fast at it and layers and batches are large enough for it to pay. Weights, losses, held-out rows and all that
    is computed once training is over stay in single precision.
random_state : int, RandomState instance or None, default=None
    Decides initial weights, shuffling, noise and samples. torch's global generator is never used.
verbose : int, default=0
    Print a line per epoch.
callbacks : callback, list of callback or None, default=None
    Callbacks of skorch, which the training loop calls: instances, classes or pairs (name, callback).
"""

FITTED = """
n_components_ : int
    Size of the code.
n_iter_ : int
    Passes over the data.
batch_size_ : int
    Largest number of rows that a step has seen.
fit_seconds_ : float
    What the last fit took, without waiting for others; with those that trained at the same time, its share.
history_ : dict of ndarray
    Training loss and its terms by name, as they are minimized, and with early stopping their validation
    counterparts, per epoch.
loss_curve_ : list of float
    Training loss per epoch.
n_parameters_ : int
    Number of weights that are trained by gradient.
linear_path_ : LinearPath or None
    The linear path with its weight decay, an infinite one where networks did not pay; None without.
decay_curve_ : dict of ndarray or None
    Where the decay was chosen: "weight_decay", from no networks on, the mean "loss" of held-out rows, and the standard
    "error" of its difference from that without networks.
image_shape_ : tuple of int or None
    Shape of the images that rows are.
noise_scale_ : ndarray of shape (n_features_in_,)
    Scale of the likelihood's noise, in the units of X; zeros for "bernoulli" and "poisson".
module_ : Module
    The trained torch module.
n_features_in_ : int
    Number of columns of X.
feature_names_in_ : ndarray of shape (n_features_in_,)
    Their names, where X had names that are strings.
"""


class DocumentedMixin:
    """The page of an estimator in the documentation, to which its HTML representation links."""

    _doc_link_module = "skvae"
    _doc_link_template = "https://skvae.readthedocs.io/en/stable/api.html#skvae.{estimator_name}"

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        return {"estimator_name": type(self).__name__}


def document(cls: type) -> type:
    """Class decorator that fills in the shared parts of a docstring: what the class has and does not describe itself.

    Shared parameters come with the defaults of the class.
    """
    parameters = signature(cls).parameters
    described = set(re.findall(r"^    (\w+) : ", cls.__doc__, re.M))
    architecture = _replaced(ARCHITECTURE, OF_FRAMES) if cls._takes_frames else ARCHITECTURE
    for name, text in (("architecture", architecture), ("training", TRAINING), ("fitted", FITTED)):
        names = {entry: re.match(r"\w+", entry)[0] for entry in re.split(r"\n(?=\w)", text.strip())}
        known = set(parameters) if name != "fitted" else {*names.values()} - _unfitted(cls, parameters)
        entries = [entry for entry, own in names.items() if own in known and own not in described]
        cls.__doc__ = cls.__doc__.replace(f"    %({name})s\n", _indent("\n".join(entries)))
    cls.__doc__ = _in_order(cls.__doc__, list(parameters))
    for name, parameter in parameters.items():
        written = re.search(rf"^    (?:\w+, )*{name}(?:, \w+)* : .*, default=(.*)$", cls.__doc__, re.M)
        if written and literal_eval(written[1]) != parameter.default:
            default = repr(parameter.default).replace("'", '"')
            cls.__doc__ = cls.__doc__[: written.start(1)] + default + cls.__doc__[written.end(1) :]
    return cls


def _replaced(text: str, others: str) -> str:
    """Entries of a text, with others in place of those of the same names."""
    by_name = {re.match(r"\w+", entry)[0]: entry for part in (text, others) for entry in re.split(r"\n(?=\w)", part.strip())}
    return "\n".join(by_name.values())


def _unfitted(cls: type, parameters: Mapping[str, Any]) -> set[str]:
    """Names of shared attributes that a class does not have."""
    of_linear_path = set() if "linear_path" in parameters else {"linear_path_", "decay_curve_"}
    return getattr(cls, "_unfitted", set()) | of_linear_path


def _in_order(doc: str, names: list[str]) -> str:
    """Put what is written of parameters in the order of the signature, in which shared and own ones take turns."""
    head, body, tail = re.split(
        r"(?<=    Parameters\n    ----------\n)(.*?)(?=\n\n    Attributes\n)", doc, maxsplit=1, flags=re.S
    )
    entries = re.split(r"\n(?=    \w)", body)
    return head + "\n".join(sorted(entries, key=lambda entry: names.index(re.match(r"\w+", entry.strip())[0]))) + tail


def _indent(text: str) -> str:
    return "".join(f"    {line}\n" if line else "\n" for line in text.strip().splitlines())
