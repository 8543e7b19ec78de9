"""Texts that every estimator's documentation shares, written once."""

from __future__ import annotations

import re
from ast import literal_eval
from inspect import signature

ARCHITECTURE = """
hidden_layer_sizes : array-like of int, default=(128, 64)
    Widths of the encoder's hidden layers; the decoder mirrors them. Empty for linear maps.
activation : str or type of Module, default="relu"
    Activation of the hidden layers: "relu", "gelu", "silu", "elu", "selu", "leaky_relu", "tanh", "sigmoid",
    "identity", or a class that is built without arguments.
dropout : float, default=0.0
    Probability of zeroing a hidden unit in training.
normalization : {"batch", "layer"} or None, default=None
    Normalization before each activation.
encoder, decoder : Net, Conv or None, default=None
    Networks of your own in place of the perceptrons, see :class:`~skvae.Net`, or the details of convolutional
    ones, see :class:`~skvae.Conv`.
image_shape : tuple of int or None, default=None
    Channels, height and width of the images that the rows of X are: encoder and decoder then begin and end with
    convolutions. Not needed where X has the shape (n_samples, channels, height, width); rows then come back
    in that shape, too.
tied_weights : bool, default=False
    Have the decoder use the encoder's weights, transposed, with biases of its own; off by default
    but for :class:`~skvae.ContractiveAE`.
likelihood : {"gaussian", "laplace", "bernoulli"}, default="gaussian"
    How entries scatter around the decoder's output. "bernoulli" takes X in [0, 1]; the others standardize
    the columns themselves and undo it in everything they return.
noise : {"auto", "feature", "shared"} or float, default="auto"
    Scale of that scatter: estimated for every column, estimated as one scale for all, or fixed, in the
    units of X. "auto" shares it, and the unit of standardization, where all columns lie on one grid, as
    pixels do. Estimated scales never fall below 1% of a column's standard deviation or its resolution
    over the square root of 12.
missing_values : float or None, default=None
    What stands for a missing entry, such as ``np.nan``: scores are then those of what is observed, whose likelihood is
    learned, and the encoder sees columns' means in place of the rest and which they are. None takes no missing entries.
"""

TRAINING = """
learning_rate : float or "auto", default="auto"
    Step size of the optimizer at the start; "auto" is 0.002, and 0.01 for an encoder
    of one layer.
learning_rate_schedule : {"cosine", "linear", "exponential", "constant"}, default="cosine"
    How it falls over the run, to one hundredth at the end.
optimizer : str or type of Optimizer, default="adam"
    Name, in lower case, or class of an optimizer of torch. Adam and AdamW are fused.
optimizer_params : dict or None, default=None
    Its further arguments.
batch_size : int, default=128
    Largest number of rows a step sees.
max_epochs : int or "auto", default="auto"
    Passes over the data; "auto" aims at 3,000 steps in 10 to 100 passes, and for linear maps, which hardly
    overfit, at 5,000 in 10 to 1,000.
early_stopping : bool, default=False
    Hold out rows, stop when their loss no longer falls and restore the best weights.
validation_fraction : float, default=0.1
    Fraction of the rows that early stopping holds out.
n_iter_no_change : int, default=20
    Epochs without improvement that early stopping waits for, once the warm-up is over.
tol : float, default=1e-3
    Decrease of the validation loss per row that counts as an improvement.
clip_norm : float or None, default=None
    Largest norm of the gradient.
clip_value : float or None, default=None
    Largest absolute entry of the gradient.
n_score_draws : int, default=64
    Importance draws per row in `score_samples`.
warm_start : bool, default=False
    Start `fit` from the weights and the standardization of the last one.
device : str, default="auto"
    "cpu", "cuda", "cuda:<index>" or "mps"; "auto" means CUDA, else MPS, else the CPU.
random_state : int, RandomState instance or None, default=None
    Decides initial weights, shuffling, noise and samples. torch's global generator is never used.
verbose : int, default=0
    Print a line per epoch.
net_params : dict or None, default=None
    Further arguments of the skorch net: ``callbacks`` and ``callbacks__*``.
"""

FITTED = """
n_components_ : int
    Size of the code.
n_iter_ : int
    Passes over the data.
history_ : dict of ndarray
    Training loss and its terms by name, as they are minimized, and with early stopping their validation
    counterparts, per epoch.
loss_curve_ : list of float
    Training loss per epoch.
n_parameters_ : int
    Number of weights that are trained by gradient.
image_shape_ : tuple of int or None
    Shape of the images that rows are.
noise_scale_ : ndarray of shape (n_features_in_,)
    Scale of the likelihood's noise, in the units of X; zeros for "bernoulli".
module_ : Module
    The trained torch module.
n_features_in_ : int
    Number of columns of X.
feature_names_in_ : ndarray of shape (n_features_in_,)
    Their names, where X had names that are strings.
"""


def document(cls: type) -> type:
    """Class decorator that fills in the shared parts of a docstring: what the class has and does not describe itself.

    Shared parameters come with the defaults of the class.
    """
    parameters = signature(cls).parameters
    described = set(re.findall(r"^    (\w+) : ", cls.__doc__, re.M))
    for name, text in (("architecture", ARCHITECTURE), ("training", TRAINING), ("fitted", FITTED)):
        names = {entry: re.match(r"\w+", entry)[0] for entry in re.split(r"\n(?=\w)", text.strip())}
        known = set(parameters) if name != "fitted" else {*names.values()} - getattr(cls, "_unfitted", set())
        entries = [entry for entry, own in names.items() if own in known and own not in described]
        cls.__doc__ = cls.__doc__.replace(f"    %({name})s\n", _indent("\n".join(entries)))
    for name, parameter in parameters.items():
        written = re.search(rf"^    (?:\w+, )*{name}(?:, \w+)* : .*, default=(.*)$", cls.__doc__, re.M)
        if written and literal_eval(written[1]) != parameter.default:
            default = repr(parameter.default).replace("'", '"')
            cls.__doc__ = cls.__doc__[: written.start(1)] + default + cls.__doc__[written.end(1) :]
    return cls


def _indent(text: str) -> str:
    return "".join(f"    {line}\n" if line else "\n" for line in text.strip().splitlines())
