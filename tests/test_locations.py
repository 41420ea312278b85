"""Places that users name: paths, addresses and databases, each where the user means it."""

from pathlib import Path

import mlflow
import pytest

from otad_ray.artifacts import storage_root
from otad_ray.errors import InputError
from otad_ray.locations import find_database, resolve_path, resolve_tracking_uri, sqlite_uri
from otad_ray.tracking import how_to_look


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("~/x", "{home}/x"),
        ("x", "{home}/x"),
        ("/a/b", "/a/b"),
        ("file:///a/b%20c", "/a/b c"),
        ("file://localhost/a?b", "/a?b"),
    ],
)
def test_path_is_absolute_and_in_the_home_folder_where_it_says_so(given: str, path: str, home: Path) -> None:
    assert resolve_path(given, "--labels") == Path(path.format(home=home))


@pytest.mark.parametrize("given", ["s3://bucket/otad", "gs://bucket", "hdfs://host/otad", "file://host/otad"])
def test_storage_that_is_no_local_path_is_refused(given: str, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("OTAD_STORAGE", given)
    with pytest.raises(InputError, match=f"OTAD_STORAGE is '{given}': a shared POSIX path is needed"):
        storage_root()
    assert not list(home.iterdir())


def test_path_of_an_unknown_user_is_refused() -> None:
    with pytest.raises(InputError, match=r"--memory is '~nobody_here/x': .*; give an absolute path"):
        resolve_path("~nobody_here/x", "--memory")


def test_database_in_the_home_folder_is_found(home: Path) -> None:
    assert resolve_tracking_uri("sqlite:///~/m.db") == f"sqlite:///{home / 'm.db'}"
    assert resolve_tracking_uri("sqlite:////a/m.db?timeout=5") == "sqlite:////a/m.db?timeout=5"
    assert find_database("http://host/x.db") is None


@pytest.mark.parametrize("name", ["plain", "a b", "a?b", "a%41b", "it's", "%3F/c?d"])
def test_database_lies_in_the_root_whatever_its_name(name: str, home: Path) -> None:
    root = home / "roots" / name
    root.mkdir(parents=True)
    uri = sqlite_uri(root / "m.db")
    assert resolve_tracking_uri(uri) == uri
    assert find_database(uri) == root / "m.db"
    client = mlflow.MlflowClient(tracking_uri=uri)
    client.create_experiment("digits", artifact_location=root.as_uri())
    assert (root / "m.db").is_file()
    # MLflow makes no folder elsewhere.
    assert {path.name for path in (home / "roots").iterdir()} == {Path(name).parts[0]}


def test_command_to_look_at_runs_can_be_pasted_into_a_shell() -> None:
    uri = sqlite_uri(Path("/it's/a b/m.db"))
    assert how_to_look(uri).endswith("""--backend-store-uri 'sqlite:////it'"'"'s/a b/m.db'""")
    assert how_to_look("sqlite:////a/m.db?timeout=5").endswith("--backend-store-uri 'sqlite:////a/m.db?timeout=5'")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("localhost:5000", r"names no protocol; give http://localhost:5000"),
        ("./mlruns", r"is './mlruns', a folder, .* or of a database, sqlite:///.*/mlflow\.db"),
        ("file:///a/mlruns", r"a folder, .* sqlite:////a/mlflow\.db"),
    ],
)
def test_tracking_in_a_folder_or_without_a_protocol_is_refused(given: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_tracking_uri(given)
