"""Data sets: what they are, where their rows come from, and their fixed splits."""

from otad_ray.data.catalog import DATA_SETS, DEFAULT_LABEL_COLUMN, absolute_name, data_set
from otad_ray.data.definition import SPLITS, DataFolders, DataSet, Split, open_split
from otad_ray.data.description import DataDescription, describe_data_set
from otad_ray.data.rows import Batch, Rows, load_all

__all__ = [
    "DATA_SETS",
    "DEFAULT_LABEL_COLUMN",
    "SPLITS",
    "Batch",
    "DataDescription",
    "DataFolders",
    "DataSet",
    "Rows",
    "Split",
    "absolute_name",
    "data_set",
    "describe_data_set",
    "load_all",
    "open_split",
]
