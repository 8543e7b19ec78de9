"""Checks of what users pass in, a file for each subject; estimators call them as ``check.check_rows``."""

from skvae.estimators._checks.codes import check_codes, check_discrete_codes
from skvae.estimators._checks.columns import check_columns, check_mask, column_names
from skvae.estimators._checks.entries import off_tensor, refuse_no_table, refuse_text
from skvae.estimators._checks.frames import (
    check_likelihood,
    has_kinds,
    present_likelihood,
    refuse_other_columns,
    warn_of_values_beyond,
)
from skvae.estimators._checks.given import Given, check_given, check_n_given, refuse_given
from skvae.estimators._checks.graphs import check_graph
from skvae.estimators._checks.images import check_image_shape
from skvae.estimators._checks.labels import as_array, as_columns, check_class_labels, check_entries, check_labels
from skvae.estimators._checks.missing import (
    AUTO_MISSING,
    MISSING_VALUES,
    check_missing,
    check_missing_values,
    is_nan,
    mark_missing,
    missing_in,
)
from skvae.estimators._checks.networks import (
    check_architecture,
    check_batches,
    check_corruption,
    check_network,
    check_precision,
    refuse_hidden_layers,
)
from skvae.estimators._checks.parameters import (
    check_anomaly_method,
    check_count,
    check_flags,
    check_parameter,
    check_sizes,
    list_callbacks,
    resolve_device,
)
from skvae.estimators._checks.rows import check_rows, validate_rows
from skvae.estimators._checks.targets import check_clean, choose_clean
from skvae.estimators._checks.weights import check_score_weights, check_weights

__all__ = [
    "AUTO_MISSING",
    "MISSING_VALUES",
    "Given",
    "as_array",
    "as_columns",
    "check_anomaly_method",
    "check_architecture",
    "check_batches",
    "check_class_labels",
    "check_clean",
    "check_codes",
    "check_columns",
    "check_corruption",
    "check_count",
    "check_discrete_codes",
    "check_entries",
    "check_flags",
    "check_given",
    "check_graph",
    "check_image_shape",
    "check_labels",
    "check_likelihood",
    "check_mask",
    "check_missing",
    "check_missing_values",
    "check_n_given",
    "check_network",
    "check_parameter",
    "check_precision",
    "check_rows",
    "check_score_weights",
    "check_sizes",
    "check_weights",
    "choose_clean",
    "column_names",
    "has_kinds",
    "is_nan",
    "list_callbacks",
    "mark_missing",
    "missing_in",
    "off_tensor",
    "present_likelihood",
    "refuse_given",
    "refuse_hidden_layers",
    "refuse_no_table",
    "refuse_other_columns",
    "refuse_text",
    "resolve_device",
    "validate_rows",
    "warn_of_values_beyond",
]
