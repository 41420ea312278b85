"""The machine that results are computed on: its processor, its cores, and the versions of what is installed."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path

from otad_ray.errors import InputError

# Where Linux says what a process's container may use.
_PROCESS, _CONTROL_GROUPS = Path("/proc/self"), Path("/sys/fs/cgroup")
_VERSIONED_PACKAGES = ("otad_ray", "torch", "numpy", "ray", "cvxpy", "Mosek", "faiss-cpu", "pyarrow", "mlflow")
# Options that say where results go, and where a cluster is.
_PLACES = ("--storage", "--tracking-uri", "--address")
_CREDENTIALS = re.compile(r"://[^/@\s]*@")


def num_cores() -> int:
    """Return the number of cores that this process may use, which containers make fewer than the machine's.

    They do so by naming the cores, or by a quota of time: with one of 2.5 cores, 2 processes can work all the time.
    """
    named = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(named, _find_cpu_quota())))


def _find_cpu_quota() -> float:
    """Return the cores whose time this process may use, as its control groups limit it; infinity without a limit."""
    try:
        lines = (_PROCESS / "cgroup").read_text().splitlines()
    except OSError:
        return inf
    quotas = [inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            quotas += _read_quotas(_CONTROL_GROUPS, path, _read_quota)
        elif "cpu" in controllers.split(","):
            for folder in {"cpu", controllers}:
                quotas += _read_quotas(_CONTROL_GROUPS / folder, path, _read_first_version)
    return min(quotas)


def _read_quotas(top: Path, path: str, read: Callable[[Path], float]) -> list[float]:
    """Return the quotas of a group and of those above it; a container may see its own group as the topmost."""
    own = top / path.lstrip("/")
    quotas = []
    for group in (own, *own.parents[: len(own.parts) - len(top.parts)]):
        try:
            quotas.append(read(group))
        except (OSError, ValueError):
            # The group is not visible here, or has no limit ("max").
            continue
    return quotas


def _read_quota(group: Path) -> float:
    """Return the quota of a group in cores; ValueError without one."""
    quota, period = (group / "cpu.max").read_text().split()
    return int(quota) / int(period)


def _read_first_version(group: Path) -> float:
    """Return the quota of a group of the first version of control groups; ValueError without one."""
    quota = int((group / "cpu.cfs_quota_us").read_text())
    if quota <= 0:
        raise ValueError("no quota")
    return quota / int((group / "cpu.cfs_period_us").read_text())


def job_command(name: str) -> str:
    """Return what starts a job here: its script in a checkout, else the command that the wheel installs."""
    script = Path(__file__).parents[1] / "jobs" / f"{name}.py"
    return f"python jobs/{name}.py" if script.is_file() else f"otad {name.replace('_', '-')}"


def describe_command(arguments: Sequence[str] | None = None) -> str:
    """Return the command line that started this process, without the places of storage and servers.

    What it says of these differs from machine to machine, and may hold credentials. Credentials
    in other addresses are masked.

    Args:
        arguments: the program and its arguments; None for those of this process.
    """
    program, *given = sys.argv if arguments is None else arguments
    path = Path(program)
    shown = ["python", f"jobs/{path.name}"] if path.parent.name == "jobs" else [path.name]
    follows_place = False
    for argument in given:
        name = argument.partition("=")[0].replace("_", "-")
        if name not in _PLACES and not follows_place:
            shown.append(_CREDENTIALS.sub("://***@", argument))
        follows_place = name in _PLACES and "=" not in argument
    return shlex.join(shown)


def available_memory() -> int | None:
    """Return the bytes that this process can still allocate, by the machine and its container; None if unknown."""
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    limit, used = (_read_number(_CONTROL_GROUPS / name) for name in ("memory.max", "memory.current"))
    # What the container's files hold in the page cache is given back on demand.
    return found if limit is None or used is None else min(found, limit - used + _cached_memory())


def require_memory(num_bytes: float, *, what: str, advice: str) -> None:
    """Refuse what does not fit into memory, before any of it is allocated.

    Args:
        num_bytes: what is needed at the same time.
        what: what needs it, a phrase.
        advice: what to do, a phrase.

    Raises:
        InputError: if more is needed than is available.
    """
    available = available_memory()
    if available is not None and num_bytes > available:
        raise InputError(f"{what} need {format_bytes(num_bytes)}, {format_bytes(available)} are available; {advice}")


def format_bytes(count: float) -> str:
    """Return a number of bytes as people read it, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _read_number(path: Path) -> int | None:
    """Return the number in a file; None if there is no file, or no number in it (such as "max")."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _cached_memory() -> int:
    try:
        lines = (_CONTROL_GROUPS / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.split()[0] == "inactive_file")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _VERSIONED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe_machine() -> dict[str, str]:
    """Return processor, cores, memory and commit: every published number needs them beside it."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": str(num_cores()),
        "memory": f"{pages / 2**30:.0f} GiB",
        # Outside a checkout, as in a submitted job, the variable says it.
        "commit": find_commit(Path(__file__).parent) or os.environ.get("OTAD_COMMIT", "unknown"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def find_commit(directory: Path) -> str | None:
    """Return the commit of a directory, with a plus sign if files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=7"]
    try:
        found = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
