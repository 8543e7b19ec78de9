"""One fit, from rows to fitted attributes."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from skvae import inference
from skvae._spec import Spec, differences
from skvae.data import Table
from skvae.data.columns import SpreadError
from skvae.data.gross import describe_learning, find_gross_errors
from skvae.data.groups import draw_groups
from skvae.data.marginals import Marginal, measure_columns
from skvae.estimators import _checks as check
from skvae.estimators._held_out import HeldOut
from skvae.estimators._specs import NAMED, NETWORKS, batch_rows_of, may_stand_for_auto, prior_for, resolve
from skvae.inference.anomaly import keep_rows, room_for_rows
from skvae.inference.runner import move
from skvae.modules import DefaultNet, LatentModule, LinearPath, asked_of
from skvae.runtime.meeting import reserve, waited
from skvae.runtime.randomness import PrivateRandomness, Stream, seed_streams
from skvae.runtime.state import copy_of
from skvae.training import DivergedError, EarlyStopping, Outcome, Plan, Rows, free_memory, has_networks, search_decay, train
from skvae.warnings import warn_user

if TYPE_CHECKING:
    from skvae.estimators._base import BaseAutoEncoder

AUTO = "auto"
STREAM_DECAY = (
    1.0  # weight decay beside a linear path where partial_fit sees a part of the rows, or a run is too short, to choose
)
FEWEST_STEPS = 100  # of a run, for a choice to be worth its time
REMEMBERED_ROWS = 4096  # rows of earlier partial_fit calls that weigh against those of the present one
_MOST_ROWS_OF_ONE = 1e6  # that a row of a large weight stands for, where columns are measured
MAX_SEED = 2**31 - 1
# In training, at most: rows, those of the folds that choose a decay, in double precision too; weights and gradients of all folds,
# what optimizers gather, and copies; layers of a batch with their gradients.
_COPIES_OF_ROWS, _COPIES_OF_WEIGHTS, _LAYERS = 8, 30, 60


@dataclass(frozen=True)
class Progress:
    """Where training stands.

    Attributes
    ----------
    seed : int
        The fit's one random integer, from which all its random streams come.
    n_steps, n_passes, n_rows : int
        Steps taken, calls of fit or partial_fit, and rows that these were given.
    total_steps : int
        Steps that schedules stretch over.
    optimizer : dict or None
        State of the optimizer, as plain data.
    """

    seed: int
    n_steps: int = 0
    n_passes: int = 0
    n_rows: int = 0
    total_steps: int = 0
    optimizer: dict[str, Any] | None = None

    def as_plain(self) -> tuple[Any, ...]:
        """Values of the fields, in their order."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def share_of(self, n_rows: int) -> float:
        """Weight of so many new rows: a stream's last few must not replace what many before them have settled."""
        return n_rows / (n_rows + min(self.n_rows, REMEMBERED_ROWS))

    def stream(self, stream: Stream, *, of_pass: bool = False) -> int:
        """Seed of a random stream of the fit or, with `of_pass`, of the present pass alone."""
        (seed,) = seed_streams(self.seed, *([self.n_passes + 1] if of_pass else []), stream, n=1)
        return seed


class FitRun:
    """One fit of an estimator: anew, or from the state there is; for one pass, or for a run.

    All that is learned about the rows is noted on a draft of the estimator, which takes its place once all has gone well.

    Parameters
    ----------
    estimator : BaseAutoEncoder
    single_pass : bool
        Whether this is `partial_fit`.
    callbacks : list
        What training calls, see `Plan`.

    Attributes
    ----------
    resumes, goes_on : bool
        Whether training starts from the present weights, and whether it goes on with the present schedules, too.
    device : torch.device
    rows : Table
        All rows that were passed in.
    given : Table
        Those that are learned from, with what belongs to each, as they were passed in.
    table : Table
        The same, with gross errors moved to the end of the range of all other entries of their columns.
    progress : Progress
        Before this fit.
    share : float
        Weight of these rows, next to that of earlier calls.
    module : LatentModule
    prepared : dict
        What `_prepare` returned.
    held_out_rows : Rows or None
        What early stopping looks at.
    validates : bool
        Whether the rows at hand are those that were passed in to validate on.
    concern : str or None
        What is said about gross errors.
    chooses_decay : bool
        Whether the weight decay beside a linear path is left to the fit.
    new_energy : ndarray of shape (n_features,) or None
        Mean energy of the residuals of new rows, where it is known.
    """

    device: torch.device
    rows: Table
    given: Table
    table: Table
    progress: Progress
    module: LatentModule
    prepared: dict[str, Any]
    chooses_decay: bool
    held_out_rows: Rows | None
    validates = False
    mean_weight = 1.0

    def __init__(self, estimator: BaseAutoEncoder, *, single_pass: bool, callbacks: list[Any]):
        self.single_pass, self.callbacks = single_pass, callbacks
        self.new_energy: np.ndarray | None = None
        self.concern: str | None = None
        self.resumes = hasattr(estimator, "module_") and (single_pass or estimator.warm_start)
        self.goes_on = single_pass and self.resumes
        self.draft = draft_of(estimator, with_state=self.resumes)

    @property
    def share(self) -> float:
        """Weight of these rows."""
        return self.progress.share_of(self.table.n_rows)

    def run(self, X: Any, sample_weight: Any, held_out: HeldOut, **side: Any) -> dict[str, Any]:
        """Fit, and return all attributes of the fitted estimator.

        Parameters
        ----------
        X, sample_weight : object
            As they were passed in.
        held_out : HeldOut
            What was said about rows that are held out.
        **side : dict
            What else `fit` was given about the rows, by name.
        """
        draft = self.draft
        stopping = resolve("early_stopping", draft.early_stopping)
        if self.single_pass and stopping is not None:
            raise ValueError(
                f"partial_fit does not support early_stopping={draft.early_stopping!r}: one pass has nothing to stop."
            )
        held_out.check(stopping, X)
        began, waited_before = perf_counter(), waited()
        self.device = check.resolve_device(draft.device)
        if self.resumes:
            self._check_unchanged()
        self._read(X, sample_weight, held_out, side)
        given = None if held_out.X is None else self._read_validation(held_out)
        self.progress = draft._progress if self.goes_on else Progress(_draw_seed(draft.random_state))
        is_drawn = stopping is not None and given is None
        train_index, valid_index = self._split(stopping.validation_fraction if is_drawn else None)
        self.module = self._resumed_module() if self.resumes else self._new_module(train_index)
        move(self.module, self.device)
        with PrivateRandomness(self.progress.seed):
            check.check_network(self.module, *(self.arguments[name] for name in NETWORKS))
        if self.concern is not None:
            warn_user(self.concern)
        with reserve(self._n_bytes, of=free_memory(self.device)):
            self._learn(train_index, valid_index, given, held_out, stopping)
        draft.fit_seconds_ = perf_counter() - began - (waited() - waited_before)
        return vars(draft)

    @property
    def _n_bytes(self) -> int:
        """Bytes that training takes, about: rows and their standardized copies, and weights with all that goes with them."""
        rows = _COPIES_OF_ROWS * self.table.n_rows * self.table.n_features
        weights = sum(param.numel() for param in self.module.parameters())
        layers = min(self._batch_rows(self.table.n_rows), self.table.n_rows) * self.module.widest_layer
        return 4 * (rows + _COPIES_OF_WEIGHTS * weights + _LAYERS * layers)

    def _batch_rows(self, n_rows: int) -> int:
        return batch_rows_of(self.draft.batch_size, self.draft._frame_form, n_rows)

    def _learn(
        self,
        train_index: np.ndarray | None,
        valid_index: np.ndarray | None,
        given: Table | None,
        held_out: HeldOut,
        stopping: EarlyStopping | None,
    ) -> None:
        """Train the module, and note what comes of it."""
        draft = self.draft
        noise_before = self.module.likelihood.noise.moment.clone()
        rows, valid = self._training_rows(self.table, train_index), None
        if given is not None:
            valid = self._validation_rows(given)
        elif valid_index is not None:
            valid = self._training_rows(self.table, valid_index)
        plan = self._plan(len(rows), stopping)
        if held_out.groups is not None:
            self._check_groups(plan)
        self.held_out_rows = valid
        try:
            self.prepared = draft._prepare(self, rows, plan)
            if not self.resumes:
                self._begin_at_linear_model(self.table if train_index is None else self.table.take(train_index), plan)
                if self.module.is_solved:  # one pass, for what is noted of passes
                    plan, self.new_energy = replace(plan, n_epochs=1, learning_rate=0.0), None
        except DivergedError:
            raise ValueError(self._divergence()) from None
        outcome = self._train(rows, valid, plan)
        self._note_training(outcome, plan)
        self._note_measures(noise_before, outcome, plan)
        self._note_progress(outcome, plan)
        if not self.single_pass and not outcome.diverged:
            for concern in draft._concerns(self):
                warn_user(concern)

    # -- before training ----------------------------------------------------------------------------------------------

    def _read(self, X: Any, sample_weight: Any, held_out: HeldOut, side: dict[str, Any]) -> None:
        draft, min_rows = self.draft, 1 if self.goes_on else 2
        X = draft._check_rows(X, reset=not self.resumes, min_rows=min_rows, sets_form=not self.goes_on, weight=sample_weight)
        self.rows = replace(Table.of(X), groups=held_out.numbers(X))
        empty = self.rows.empty_rows if draft._drops_empty_rows else None
        kept, weight = check.check_weights(sample_weight, X, empty, min_rows=min_rows)
        if sample_weight is not None and draft._frame_form is not None:
            # How many rows one of them stands for; weights below one say what counts, and not that there are fewer rows.
            given = np.broadcast_to(np.asarray(sample_weight, dtype=np.float64), self.rows.n_rows)[kept]
            self.mean_weight = float(np.clip(given, 0.0, _MOST_ROWS_OF_ONE).mean().clip(min=1.0))
        self.given, noted = draft._make_table(self, kept, weight, **side)
        vars(draft).update(noted)
        self.table = self._without_gross_errors(np.arange(self.rows.n_rows)[kept])

    def _without_gross_errors(self, numbers: np.ndarray) -> Table:
        """Return the given rows, and clean ones, with gross errors moved to where others lie, and note what is said of them."""
        if self.draft._frame_form is not None:  # whose columns are read by rank where they have tails
            return self.given
        table, concerns, given = self.given, [], replace(self.given, target=None)
        for part, what, rows in (("source", "X", given), ("target", "the clean rows", self.given)):
            if part == "target" and table.target is None:
                continue
            entries = rows.entries()
            errors = find_gross_errors(entries.source, entries.weight)
            if errors is not None:
                table = replace(table, **{part: errors.winsorize(getattr(table, part))})
                is_flat = entries.n_rows == len(numbers)
                concerns.append(errors.describe(table.name, numbers if is_flat else None, of=what))
        if concerns:
            self.concern = describe_learning(concerns, type(self.draft).__name__)
        return table

    def _read_validation(self, held_out: HeldOut) -> Table:
        """Make the table of rows to validate on, which are read as rows of a later call, and of which nothing is noted."""
        draft, later = self.draft, copy.copy(self)
        later.validates = later.resumes = later.goes_on = later.single_pass = True
        try:
            X = draft._check_rows(held_out.X, reset=False)
            later.rows = Table.of(X)
            empty = later.rows.empty_rows if draft._drops_empty_rows else None
            kept, weight = check.check_weights(None, X, empty, min_rows=1)
            table, _ = draft._make_table(later, kept, weight, **held_out.side)
        except ValueError as error:
            raise ValueError(f"validation_data: {error}") from error
        return table

    def _validation_rows(self, table: Table) -> Rows:
        try:
            self.module.likelihood.check(table.entries().source, table.name)
        except ValueError as error:
            raise ValueError(f"validation_data: {error}") from error
        return self._training_rows(table, None)

    def _check_groups(self, plan: Plan) -> None:
        """Raise a ValueError about groups of rows of which none are held out, or that cannot be held apart."""
        if plan.early_stopping is None:
            looks_for_decay = not self.resumes and self.chooses_decay and has_networks(self.module)
            if looks_for_decay and not self._is_long(plan):
                self._refuse_groups(f", nor is a decay chosen by held-out rows in a run of {plan.total_steps} step(s)")
            if not looks_for_decay:
                self._refuse_groups()
        if len(np.unique(self.table.groups)) < 2:
            raise ValueError("groups has one group; at least 2 are needed for some rows to be held out.")

    @staticmethod
    def _refuse_groups(why: str = "") -> None:
        raise ValueError(
            f"groups keep rows together where some are held out, which early_stopping=False does not do{why}: set "
            "early_stopping=True, or leave out groups."
        )

    def _is_long(self, plan: Plan) -> bool:
        """Whether a run is long enough for the decay beside a linear path to be chosen."""
        return not self.single_pass and plan.total_steps >= FEWEST_STEPS

    def _check_unchanged(self) -> None:
        """Raise if parameters that shape the module changed since it was built."""
        draft = self.draft
        now = draft._module_arguments(draft._arguments["n_features"])
        if getattr(draft, "image_shape", None) is not None:
            now["image_shape"] = check.check_image_shape(draft.image_shape)
        changed = []
        for name, value in now.items():
            before = draft._arguments[name]
            if name == "linear_path" and value == AUTO and (hasattr(draft, "decay_curve_") or before == STREAM_DECAY):
                continue  # the choice stays
            if name == "prior" and value == AUTO:
                if not may_stand_for_auto(before, draft._frame_form):
                    changed.append(name)
                continue  # the choice stays
            follows = {"linear_path": NETWORKS, "kl_warmup": (*NETWORKS, "linear_path")}.get(name, ())
            if getattr(draft, name, None) == AUTO and any(each.partition("__")[0] in follows for each in changed):
                continue  # what follows from other parameters is named by them
            if name in NAMED:
                before, value = (resolve(name, each) if isinstance(each, str) else each for each in (before, value))
            if before == value:
                continue
            mirrors = name == "decoder" and changed and (draft.decoder in (None, "auto") or isinstance(draft.decoder, DefaultNet))
            if type(before) is type(value) and isinstance(value, Spec):
                asked = asked_of(draft.decoder) if mirrors and isinstance(draft.decoder, DefaultNet) else {}
                keys = [key for key in differences(before, value) if key not in changed and (not mirrors or key in asked)]
                changed += [f"{name}__{key}" for key in keys]
            elif not mirrors:  # what changed with the encoder is named once
                changed.append(draft._argument_names.get(name, name))
        if changed:
            raise ValueError(
                f"{', '.join(changed)} changed since the model was built; warm_start and partial_fit go on with the same "
                "network. Use a clone, or fit with warm_start=False."
            )

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the module."""
        return self.draft._arguments

    def _new_module(self, train_index: np.ndarray | None) -> LatentModule:
        """Build the module with private random weights and let its likelihood measure the columns."""
        draft, table = self.draft, self.table
        measured = table if train_index is None else table.take(train_index)
        arguments = {"n_features": table.n_features, **draft._module_arguments(table.n_features)}
        if draft._module_class.takes_missing:
            check.check_missing(draft, measured, begins_stream=self.single_pass)
            arguments.update(draft._module_class.missing_arguments(measured.n_missing, measured.n_rows))
        self.chooses_decay = arguments.get("linear_path") == AUTO
        if self.chooses_decay:
            arguments["linear_path"] = STREAM_DECAY
        if arguments.get("prior") == AUTO:
            n_rows = 0.0 if self.single_pass else float(self._weights(measured).sum())
            arguments["prior"] = prior_for(draft._frame_form, n_rows)
        if draft._frame_form is not None:
            arguments["marginals"] = self._marginals(measured)
        draft._arguments = arguments
        module = build_module(draft._module_class, arguments, self.progress)
        module.likelihood.check(self.given.entries().source, table.name)
        entries = measured.entries()
        is_image = getattr(draft, "image_shape_", None) is not None
        what = "X" if measured.target is None else "the clean rows"
        try:
            module.likelihood.fit(entries.source, entries.weight, shared=True if is_image else None)
            what = "X"
            if measured.target is not None:
                module.likelihood.fit_inputs(measured.source, measured.weight, shared=True if is_image else None)
        except SpreadError as error:
            raise error.named(table.name, what) from None
        return module

    def _marginals(self, measured: Table) -> tuple[Marginal, ...]:
        """Measure what the columns of a mixed frame look like by themselves."""
        form, entries = self.draft._frame_form.take(measured.names), measured.entries()
        asked = resolve("likelihood", self.draft.likelihood).likelihoods or {}
        families = {j: asked[name] for j, name in enumerate(form.names) if name in asked}
        try:
            return measure_columns(form.kinds, form.n_levels, entries.source, self._weights(entries), families)
        except SpreadError as error:
            raise error.named(measured.name, "X") from None

    def _weights(self, table: Table) -> NDArray[np.float64]:
        """Weights of rows, as they were given."""
        weight: NDArray[np.float64] = self.mean_weight * (np.ones(table.n_rows) if table.weight is None else table.weight)
        return weight

    def _begin_at_linear_model(self, table: Table, plan: Plan) -> None:
        """Set the linear maps beside the networks, where there are some, and choose how far the latter are held back."""
        draft, arguments = self.draft, self.arguments
        if "linear_path" not in arguments:
            return
        vars(draft).pop("decay_curve_", None)
        if arguments["linear_path"] is None:
            draft.linear_path_ = None
            return
        if self.chooses_decay and self._is_long(plan) and has_networks(self.module):
            curve = search_decay(self.module, table, self.device, plan)
            if table.groups is not None and plan.early_stopping is None and np.isnan(curve.loss).all():
                self._refuse_groups(", nor is a decay chosen by held-out rows where so few are different")
            draft.decay_curve_ = {"weight_decay": curve.decay, "loss": curve.loss, "error": curve.error}
            arguments["linear_path"] = self.module.decay = float(curve.decay[curve.best])
            self.new_energy = curve.energy[curve.best]
            if np.isinf(self.module.decay):
                measured = self.module.likelihood
                self.module = build_module(draft._module_class, arguments, self.progress)
                self.module.likelihood = measured
        draft.linear_path_ = LinearPath(arguments["linear_path"])
        inference.start(self.module, table, self.device)

    def _resumed_module(self) -> LatentModule:
        draft, entries = self.draft, self.table.entries()
        module = copy_of(draft.module_)
        module.likelihood.check(self.given.entries().source, self.table.name)
        if draft._frame_form is not None:
            draft._beyond += check.warn_of_values_beyond(draft, self.table)
        try:
            columns = module.likelihood.extend(entries.source, entries.weight, draft._progress.n_rows)
        except SpreadError as error:
            raise error.named(self.table.name, "X") from None
        if len(columns):
            module.begin_columns(columns)
            if draft._keeps_rows:
                draft._kept_rows = draft._kept_rows.under(draft.module_.likelihood, module.likelihood)
        return module

    def _split(self, validation_fraction: float | None) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Draw the rows to train on and, with early stopping, those to hold out."""
        if validation_fraction is None:
            return None, None
        n_rows, groups = self.table.n_rows, self.table.groups
        n_valid = max(1, round(validation_fraction * n_rows))
        seed = self.progress.stream(Stream.SPLIT)
        if groups is not None and len(np.unique(groups)) > 1:
            held = draw_groups(groups, n_valid, seed)
            if n_rows - held.sum() < 2:
                raise ValueError(f"early_stopping holds out whole groups, which leaves {n_rows - held.sum()} row(s) to train on.")
            return np.flatnonzero(~held), np.flatnonzero(held)
        if n_rows - n_valid < 2:
            raise ValueError(
                f"early_stopping with validation_fraction={validation_fraction} of {n_rows} rows leaves {n_rows - n_valid} to "
                "train on; at least 2 are needed."
            )
        order = np.random.default_rng(seed).permutation(n_rows)
        return np.sort(order[n_valid:]), np.sort(order[:n_valid])

    def _training_rows(self, table: Table, index: np.ndarray | None) -> Rows:
        missing = inference.misses_entries(self.module, table)
        return Rows(table, self.module.likelihood, self.device, index=index, missing=missing)

    def _plan(self, n_rows: int, stopping: Any) -> Plan:
        draft, progress = self.draft, self.progress
        batch_size = self._batch_rows(n_rows)
        n_batches = -(-n_rows // batch_size)
        n_epochs, self.learning_rate = draft._auto_training(n_batches, batch_size)
        n_epochs = n_epochs if draft.max_epochs == "auto" else int(draft.max_epochs)
        self.learning_rate = self.learning_rate if draft.learning_rate == "auto" else float(draft.learning_rate)
        networks = [self.arguments[name] for name in NETWORKS]
        with PrivateRandomness(progress.seed):
            check.check_batches(self.module, *networks, n_rows, batch_size)
            precision = check.check_precision(draft, self.module, *networks)
        goes_on = self.single_pass and progress.n_passes > 0
        return Plan(
            batch_size=batch_size,
            n_epochs=1 if self.single_pass else n_epochs,
            total_steps=progress.total_steps if goes_on else n_epochs * n_batches,
            first_step=progress.n_steps,
            pass_index=progress.n_passes,
            learning_rate=self.learning_rate,
            optimizer=resolve("optimizer", draft.optimizer),
            seed=progress.seed,
            early_stopping=stopping,
            verbose=int(draft.verbose),
            precision=precision,
            callbacks=self.callbacks,
        )

    # -- training and after -------------------------------------------------------------------------------------------

    def _train(self, rows: Rows, valid: Rows | None, plan: Plan) -> Outcome:
        try:
            outcome = train(self.module, rows, valid, plan, self.progress.optimizer)
        except DivergedError:
            raise ValueError(self._divergence()) from None
        if outcome.diverged:
            warn_user(self._divergence(), ConvergenceWarning)
        return outcome

    def _note_training(self, outcome: Outcome, plan: Plan) -> None:
        draft, history = self.draft, outcome.history
        if self.goes_on:
            history = _joined(draft.history_, history)
        draft.module_, draft.n_components_ = self.module, self.module.n_components
        draft.history_, draft.n_iter_, draft.batch_size_ = history, len(history["loss"]), plan.batch_size

    def _note_measures(self, noise_before: torch.Tensor, outcome: Outcome, plan: Plan) -> None:
        """Measure what the model needs once training is over."""
        self.plan = plan
        likelihood = self.module.likelihood
        try:
            vars(self.draft).update(self.draft._measure(self))
            if self.new_energy is not None:
                inference.widen_noise(self.module, self.table, self.device, self.new_energy)
            blew_up = not np.isfinite(likelihood.noise_scale()).all()
        except (np.linalg.LinAlgError, torch.linalg.LinAlgError):
            blew_up = True
        if blew_up:  # by steps so large that nothing can be computed from the weights
            raise ValueError(self._divergence())
        likelihood.noise.blend(noise_before, self.share)
        if self.draft._keeps_rows:
            seed, earlier = self.progress.stream(Stream.REFERENCES, of_pass=True), getattr(self.draft, "_kept_rows", None)
            room = room_for_rows(self.module, outcome.optimizer_state, vars(self.draft).values())
            self.draft._kept_rows = keep_rows(self.module, self.table, room, seed, earlier, self.share)

    def _note_progress(self, outcome: Outcome, plan: Plan) -> None:
        progress = self.progress
        self.draft._progress = replace(
            progress,
            n_steps=progress.n_steps + outcome.n_steps,
            n_passes=progress.n_passes + 1,
            n_rows=progress.n_rows + self.table.n_rows,
            total_steps=plan.total_steps,
            optimizer=outcome.optimizer_state,
        )

    def _divergence(self) -> str:
        """Message about a loss that is not finite: what may have caused it and what to change."""
        entries = self.table.entries()
        largest, column = self.module.likelihood.units.largest_entry(entries.source)
        clip_norm = resolve("optimizer", self.draft.optimizer).clip_norm
        cause = f"learning_rate={self.learning_rate:g} may be too large; lower it or set optimizer__clip_norm (now {clip_norm})."
        if largest > 100.0:
            name = self.table.name(column)
            cause += f" Column {name!r} has a value {largest:.3g} standard deviations from its mean: transform or clip it."
        return f"The training loss of {type(self.draft).__name__} stopped being finite. {cause}"


def _joined(before: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Append records of a pass to those of earlier ones; a term of the loss that one of them lacks was zero there."""
    parts = [(history, np.zeros(len(history["loss"]))) for history in (before, now)]
    return {name: np.concatenate([history.get(name, zeros) for history, zeros in parts]) for name in {**before, **now}}


def build_module(module_class: type[LatentModule], arguments: dict[str, Any], progress: Progress) -> LatentModule:
    """Build a module with the private random weights of a fit."""
    with PrivateRandomness(progress.stream(Stream.WEIGHTS)):
        return module_class(**arguments).float()


def draft_of(estimator: Any, *, with_state: bool = False) -> Any:
    """Shallow copy of an estimator, with its fitted state or without, for a fit that may fail to work on."""
    draft = object.__new__(type(estimator))
    for name, value in vars(estimator).items():
        is_state = name in estimator._private_state or (name.endswith("_") and not name.startswith("_"))
        if with_state or not is_state:
            vars(draft)[name] = value
    return draft


def _draw_seed(random_state: Any) -> int:
    return int(check_random_state(random_state).randint(MAX_SEED))
