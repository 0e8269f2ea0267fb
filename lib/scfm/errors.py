"""What can be wrong with a dataset, by name. Every message says what was found, what was expected and what to do."""

from __future__ import annotations


class DatasetError(ValueError):
    """A dataset could not be loaded as human raw counts; the base of all errors of ``scfm.datasets``."""


class UnknownDatasetError(DatasetError):
    """The name is in no list and no such file exists."""


class FileFormatError(DatasetError):
    """The file is damaged, cut off, of a kind that is not read, or not what its name says."""


class NotCountsError(DatasetError):
    """No matrix of the file holds raw counts: normalized, log-transformed, scaled, NaN or empty."""


class GeneNameError(DatasetError):
    """The genes are of another species, unknown, or lie where the cells should be."""


class ColumnError(DatasetError):
    """A column that was asked for is not in ``obs``."""


class DownloadError(DatasetError):
    """A file could not be fetched, or is not the file that was published."""
