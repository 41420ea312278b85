"""The table of all jobs and commands: what each is called, which module holds it, and what its exit code says.

Both doors, the scripts in `jobs/` and the command `otad`, read it. It is plain data: a list of the jobs is printed
before PyTorch and Ray, which take seconds, are imported.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

DEFAULT_PRESET = "digits"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job, by names that its module `otad_ray.jobs.<name>` defines.

    Attributes:
        name: the job's module, and its script in `jobs/`.
        config: class of its options.
        run: function that takes them and returns the summary, which is printed as JSON.
        subject: option that the first word of the command line says, before the preset; None for a job without one.
        default_preset: preset of a command line that names none; None for a job whose options name no single preset.
        finding: field of the summary that ends the job with 2 if it is neither empty nor zero. Bad input then ends it
            with 1 instead of 2.
    """

    name: str
    config: str
    run: str
    subject: str | None = None
    default_preset: str | None = DEFAULT_PRESET
    finding: str | None = None

    @property
    def module(self) -> str:
        """Return the full name of the job's module."""
        return f"{__package__}.{self.name}"


def _by_name(*jobs: Job) -> Mapping[str, Job]:
    return {job.name: job for job in jobs}


JOBS: Mapping[str, Job] = _by_name(
    Job(name="evaluate", config="EvaluateConfig", run="run_evaluation"),
    Job(name="attack_sweep", config="SweepConfig", run="run_attack_sweep"),
    Job(name="nightly_sweep", config="NightlyConfig", run="run_nightly", default_preset=None, finding="regressions"),
    Job(name="train_backbone", config="TrainJobConfig", run="run_backbone_training"),
    Job(name="train_metric", config="TrainJobConfig", run="run_metric_training", default_preset="digits_vit"),
    Job(name="train_defense", config="DefenseJobConfig", run="run_defense_training", subject="defense"),
    Job(name="build_memory", config="JobConfig", run="run_memory_build"),
    Job(name="label_qcp", config="LabelJobConfig", run="run_label_job"),
    Job(name="fit_potential", config="PotentialJobConfig", run="run_potential_job"),
    Job(name="train_cip_net", config="CipNetJobConfig", run="run_cip_net_training", default_preset="digits_vit"),
    Job(name="log_model", config="LogModelConfig", run="run_log_model"),
    Job(name="log_pending", config="LogPendingConfig", run="run_log_pending", default_preset=None, finding="pending"),
    Job(name="describe", config="DescribeConfig", run="run_describe", default_preset=None),
    Job(name="report", config="ReportConfig", run="run_report", default_preset=None),
    Job(name="draw_segment", config="SegmentConfig", run="run_segment", default_preset="mnist"),
    Job(name="benchmark", config="BenchmarkConfig", run="run_benchmark", default_preset="mnist"),
)

# Commands that are no jobs, by name: modules whose `main(arguments, prog=...)` returns the exit code.
COMMANDS: Mapping[str, str] = {
    "defenses": f"{__package__}.defenses",
    "submit": f"{__package__}.submit",
    "write_deployment": f"{__package__}.write_deployment",
}


def find_name(given: str) -> str | None:
    """Return the job or command that a word of the command line means, with `-` or `_`; None for an unknown one."""
    name = given.replace("-", "_")
    return name if name in JOBS or name in COMMANDS else None


def read_description(module: str) -> str:
    """Return a module's docstring without importing the module.

    Args:
        module: full name; only the packages above it are imported.

    Raises:
        ModuleNotFoundError: if there is no such module, or it has no source file.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module {module}", name=module)
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
