"""Results on disk that wait to be logged: a file each below `<storage root>/pending`, gone once they are."""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from otad_ray.artifacts import write_json
from otad_ray.errors import InputError
from otad_ray.tracking.records import DataRecord, RunRecord, flat


@dataclass(frozen=True)
class PendingRun:
    """A finished result that is to be logged.

    Attributes:
        record: what is logged of it.
        result_id: by which the same result is known again.
        finished: when it was complete, in seconds since 1970.
        path: its file, which names no tracking URI.
    """

    record: RunRecord
    result_id: str
    finished: float
    path: Path

    @classmethod
    def of(cls, record: RunRecord, root: Path) -> "PendingRun":
        """Return a result that is to be logged, finished now unless its record says when."""
        # Texts and plain numbers, as they are read back: a replayed run is the same as one logged at once.
        record = replace(
            record,
            params=dict(flat(record.params)),
            metrics={name: float(value) for name, value in record.metrics.items()},
            series={
                name: [(int(step), float(value)) for step, value in points] for name, points in record.series.items()
            },
        )
        finished = time.time() if record.finished is None else record.finished
        return cls(record, record.result_id, finished, pending_directory(root) / f"{record.result_id}.json")

    @property
    def lock(self) -> Path:
        """Held by the process that logs it."""
        return self.path.with_name(f".{self.result_id}.lock")


def pending_directory(root: Path) -> Path:
    """Where a storage root keeps its pending runs."""
    return root / "pending"


def pending_files(root: Path) -> list[Path]:
    """The pending runs of a storage root."""
    return sorted(pending_directory(root).glob("*.json"))


def keep(pending: PendingRun, root: Path) -> PendingRun:
    """Write the file, unless the same result waits there already: then that one is returned, for it was told first.

    An older outcome that waits is dropped: the files that it was to show have been written over. Raises OSError.
    """
    if pending.path.is_file():
        try:
            return read_pending(pending.path, root)
        except InputError:
            # Half a file, as a crash of the machine may leave it: this one takes its place.
            pass
    fields = asdict(pending.record)
    fields["artifacts"] = [_relative(path, root) for path in pending.record.artifacts]
    for name in ("result", "outcome"):
        # They are in the id already.
        del fields[name]
    write_json(pending.path, {"result_id": pending.result_id, "finished": pending.finished, "record": fields})
    for older in pending.path.parent.glob(f"{pending.record.name_id}-*.json"):
        if older != pending.path:
            older.unlink(missing_ok=True)
    return pending


def read_pending(path: Path, root: Path) -> PendingRun:
    """What `keep` wrote; InputError where it cannot be read, FileNotFoundError where it is gone."""
    try:
        found = json.loads(path.read_text())
        fields: dict[str, Any] = found["record"]
        fields["data"] = None if fields["data"] is None else DataRecord(**fields["data"])
        fields["series"] = {
            name: [(step, value) for step, value in points] for name, points in fields["series"].items()
        }
        fields["artifacts"] = tuple(root / name for name in fields["artifacts"])
        pending = PendingRun(RunRecord(**fields, result={}), found["result_id"], float(found["finished"]), path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}); delete it, and run its job again"
        ) from error
    if path.stem != pending.result_id:
        raise InputError(f"{path} holds result {pending.result_id!r}; delete it, and run its job again")
    return pending


def _relative(path: Path, root: Path) -> str:
    """Below the root by its place there, so that the root may be moved."""
    path = Path(path).absolute()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
