"""Describe a data set: splits, columns read and left out, memory, and rows that repeat. Nothing is computed.

python jobs/describe.py --data-set ~/images
"""

import sys
from dataclasses import dataclass
from typing import Any

from otad_ray.artifacts import to_jsonable
from otad_ray.data import DEFAULT_LABEL_COLUMN, DataFolders, data_set, describe_data_set


@dataclass(frozen=True, kw_only=True)
class DescribeConfig:
    """What to describe.

    Attributes:
        data_set: a name in the catalog that OTAD_DATA holds, or the path of your own directory of Parquet files or
            .h5ad file.
        label_column: of your own data: its column of classes or targets.
        allow_copies: of your own directory: whether a file may be a copy of another one, which is refused else.
    """

    data_set: str
    label_column: str = DEFAULT_LABEL_COLUMN
    allow_copies: bool = False


def run_describe(config: DescribeConfig) -> dict[str, Any]:
    """Print what a data set holds, for people, and return it as the command's summary.

    Args:
        config: what to describe.

    Returns:
        The description, of JSON types.

    Raises:
        InputError: for an unknown data set, and for files that cannot be read.
    """
    definition = data_set(config.data_set, label_column=config.label_column, allow_copies=config.allow_copies)
    description = describe_data_set(definition, DataFolders.from_environment())
    # The last line of stdout is the summary; people read the other stream.
    print(description, file=sys.stderr)
    return to_jsonable(description.to_json())
