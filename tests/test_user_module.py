"""Users' files: each has modules of its own, leaves the process as it was, and ends in one clear line."""

import importlib
import inspect
import logging
import os
import pickle
import random
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from otad_ray.errors import InputError
from otad_ray.process_state import read_process_state, restore_process_state
from otad_ray.user_module import absolute_location, call_object, files_of, fingerprint, load_object, split_location

FUNCTION = "a function that returns a number"


def write(folder: Path, **files: str) -> Path:
    """Write `files`, by their names without `.py`: `pack_I_inner` is `pack/inner.py`."""
    for name, text in files.items():
        path = folder / f"{name.replace('_I_', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def call(path: Path, name: str = "build") -> object:
    return call_object(f"{path}:{name}", expected=FUNCTION)


def two_folders(tmp_path: Path, **files: str) -> tuple[Path, Path]:
    """Two folders with the same files, in which SIGN stands for 1 and for -1."""
    first, second = (
        write(tmp_path / name, **{path: text.replace("SIGN", sign) for path, text in files.items()})
        for name, sign in (("first", "1"), ("second", "-1"))
    )
    return first / "mine.py", second / "mine.py"


@pytest.mark.parametrize(
    "mine",
    [
        "import helper\ndef build(): return helper.VALUE",
        "from helper import VALUE\ndef build(): return VALUE",
        "def build():\n    from helper import VALUE\n    return VALUE",
        "import pack.inner\ndef build(): return pack.inner.VALUE",
        "def build():\n    import pack.inner as inner\n    return inner.VALUE",
        "from pack.outer import VALUE\ndef build(): return VALUE",
        "import importlib\ndef build(): return importlib.import_module('helper').VALUE",
        "from importlib import import_module\ndef build(): return import_module('pack.inner').VALUE",
        "def build(): return __import__('helper').VALUE",
        "from folder.inner import VALUE\ndef build(): return VALUE",
        "import sys, os\nsys.path.append(os.path.join(os.path.dirname(__file__), 'library'))\n"
        "from deep import VALUE\ndef build(): return VALUE",
    ],
)
def test_modules_beside_a_file_are_its_own(tmp_path: Path, mine: str) -> None:
    first, second = two_folders(
        tmp_path,
        mine=mine,
        helper="VALUE = SIGN",
        pack_I___init__="",
        pack_I_inner="VALUE = SIGN",
        pack_I_outer="from .inner import VALUE",
        folder_I_inner="VALUE = SIGN",
        library_I_deep="import deeper\nVALUE = deeper.VALUE",
        library_I_deeper="VALUE = SIGN",
    )
    # NumPy imports its generators when they are first asked for.
    read_process_state()
    before = set(sys.modules)
    functions = [load_object(f"{path}:build", expected=FUNCTION) for path in (first, second)]
    # Called long after loading, as a forward pass is, and in both orders.
    assert [function() for function in (*functions, *reversed(functions))] == [1, -1, -1, 1]
    assert {name.partition(".")[0] for name in set(sys.modules) - before} <= {
        module.partition(".")[0] for module in (function.__module__ for function in functions)
    }


def test_modules_beside_a_file_hide_nothing_from_others(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        mine="import colorsys, otad_ray.errors\nfrom own_data import VALUE\nfrom torch.nn import Flatten\n"
        "def build(): return VALUE, otad_ray.errors.__file__, colorsys.__name__, Flatten.__module__",
        own_data="VALUE = 'own'",
        otad_ray_I___init__="raise RuntimeError('a copy of the product was imported')",
        torch_I_notes="",
    )
    sys.modules.pop("colorsys", None)
    value, product, standard, layer = call(folder / "mine.py")
    assert (value, standard, layer) == ("own", "colorsys", "torch.nn.modules.flatten")
    assert product == sys.modules["otad_ray.errors"].__file__
    assert "own_data" not in sys.modules
    with pytest.raises(ImportError):
        importlib.import_module("own_data")


def test_a_file_of_a_package_imports_relatively(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        pack_I___init__="from .sub.mine import build",
        pack_I_helper="VALUE = 3",
        pack_I_sub_I___init__="",
        pack_I_sub_I_mine="from ..helper import VALUE\nfrom . import near\ndef build(): return VALUE + near.VALUE",
        pack_I_sub_I_near="VALUE = 4",
    )
    assert call(folder / "pack" / "sub" / "mine.py") == 7


def test_classes_can_be_inspected_and_pickled(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "import torch\nfrom helper import Layer\n"
        "@dataclass\nclass Settings:\n    width: int = 3\n"
        "class Net(torch.nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.layer = Layer()\n"
        "def build(): return Net(), Settings()"
    )
    folder = write(
        tmp_path,
        mine=text,
        helper="import torch\nclass Layer(torch.nn.Linear):\n    def __init__(self): super().__init__(2, 2)",
    )
    net, settings = call(folder / "mine.py")
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert "class Net" in inspect.getsource(type(net))
    torch.save(net, tmp_path / "net.pt")
    assert type(torch.load(tmp_path / "net.pt", weights_only=False)) is type(net)


def test_a_network_pickled_by_a_script_is_read(tmp_path: Path) -> None:
    # Its class is called `own_models.net.Net` in the file, as where it was trained.
    text = (
        "import pickle, pathlib\ndef build(): return pickle.loads(pathlib.Path(__file__).with_name('n').read_bytes())"
    )
    folder = write(tmp_path, mine=text, own_models_I___init__="", own_models_I_net="class Net: pass")
    (folder / "n").write_bytes(b"cown_models.net\nNet\n.")
    assert call(folder / "mine.py").__qualname__ == "Net"
    assert not {"own_models", "own_models.net"} & set(sys.modules)


def test_a_file_is_executed_once_and_again_after_a_change(tmp_path: Path) -> None:
    folder = write(
        tmp_path, mine="import helper\nclass Thing: pass\ndef build(): return helper.VALUE", helper="VALUE = 1"
    )
    path = folder / "mine.py"
    thing = load_object(f"{path}:Thing", expected="a class")
    assert call(path) == 1
    assert load_object(f"{path}:Thing", expected="a class") is thing
    prints = [fingerprint(f"{path}:build")]
    # Of the same length and, as files go, of the same second.
    write(folder, helper="VALUE = 2")
    assert call(path) == 2
    prints.append(fingerprint(f"{path}:build"))
    assert prints[0] != prints[1]


def test_fingerprint_covers_late_imports_and_not_the_place(tmp_path: Path) -> None:
    text = "import early\ndef build():\n    import late\n    return late.VALUE"
    prints = []
    for name in ("here", "there"):
        path = write(tmp_path / name, mine=text, early="", late="VALUE = 1", unused="") / "mine.py"
        load_object(f"{path}:build", expected=FUNCTION)
        assert [file.name for file in files_of(f"{path}:build")] == ["early.py", "mine.py"]
        prints.append(fingerprint(f"{path}:build"))
        call(path)
        assert [file.name for file in files_of(f"{path}:build")] == ["early.py", "late.py", "mine.py"]
        prints.append(fingerprint(f"{path}:build"))
    assert prints[:2] == prints[2:]
    assert prints[0] != prints[1]


CHANGES = """
import io, logging, os, random, signal, sys, warnings
import numpy, torch
os.chdir(os.path.dirname(__file__))
os.environ["OTAD_TEST_VARIABLE"] = "set"
os.environ.pop("OTAD_TEST_PRESENT")
sys.path.insert(0, "/nowhere")
sys.stdout = io.StringIO()
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
torch.set_grad_enabled(False)
torch.set_num_threads(torch.get_num_threads() + 1)
torch.autograd.set_detect_anomaly(True, check_nan=False)
torch.manual_seed(1); random.seed(1); numpy.random.seed(1)
signal.signal(signal.SIGTERM, lambda *args: None)
logging.disable(logging.CRITICAL)
logging.getLogger().setLevel(logging.CRITICAL)
logging.getLogger().handlers.clear()
logging.getLogger("otad_ray").disabled = True
warnings.simplefilter("ignore")
def build(): return os.getcwd(), torch.get_default_dtype(), torch.rand(2, device="cpu").tolist()
"""


def visible_state() -> list[object]:
    return [
        os.getcwd(),
        dict(os.environ),
        list(sys.path),
        list(sys.argv),
        sys.stdout,
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.is_anomaly_enabled(),
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        signal.getsignal(signal.SIGTERM),
        logging.root.manager.disable,
        logging.root.level,
        list(logging.root.handlers),
        logging.getLogger("otad_ray").disabled,
        list(warnings.filters),
    ]


def test_what_a_file_changes_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTAD_TEST_PRESENT", "here")
    logging.getLogger("otad_ray")
    path = write(tmp_path, mine=CHANGES) / "mine.py"
    before = visible_state()
    load_object(f"{path}:build", expected=FUNCTION)
    assert visible_state() == before
    # For the file's own functions it is as the file left it, whatever ran in between.
    first = call(path)
    torch.rand(5)
    second = call(path)
    assert first == second
    assert first[:2] == (str(tmp_path), torch.float64)


def test_restore_process_state_leaves_the_default_device_unset() -> None:
    state = read_process_state()
    torch.set_default_device("meta")
    restore_process_state(state)
    assert torch.empty(1).device.type == "cpu"
    assert not torch.overrides._get_current_function_mode_stack()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys; sys.exit(0)", r"cannot be loaded: it ends the program, by sys\.exit\(0\)"),
        ("raise SystemExit('no weights')", r"cannot be loaded: it ends the program, by sys\.exit\('no weights'\)"),
        ("raise KeyboardInterrupt", "cannot be loaded: it raises KeyboardInterrupt"),
        ("def build(): raise KeyboardInterrupt", "build cannot be built: it raises KeyboardInterrupt"),
        ("def build():\n    raise SystemExit", r"build cannot be built: it ends the program, by sys\.exit\(None\)"),
        ("import argparse\nargparse.ArgumentParser().parse_args()", r"reads the arguments.*mine\.py, line 2"),
        ("def build(): 1 / 0", r"build cannot be built: ZeroDivisionError: division by zero \(mine\.py, line 1\)"),
        ("import helper\ndef build(): pass", r"cannot be loaded: ValueError: no \(helper\.py, line 1\)"),
        ("def build(:", r"cannot be loaded: SyntaxError: .*mine\.py, line 1"),
        ("import missing_module", "cannot be loaded: ModuleNotFoundError: No module named 'missing_module'"),
        ("import os\ndef make(): pass\n_x = 1", r"has no 'build'; need a function .*\. It has: make$"),
        ("build = 3", r"mine\.py:build is an int; need a function"),
    ],
)
def test_trouble_in_a_file_is_one_line_that_names_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["job", "--option"])
    path = write(tmp_path, mine=text, helper="raise ValueError('no')") / "mine.py"
    with pytest.raises(InputError, match=message) as error:
        call(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")
    assert sys.argv == ["job", "--option"]


def test_ctrl_c_while_a_file_runs_is_the_users(tmp_path: Path) -> None:
    path = write(tmp_path, mine="import os, signal\ndef build(): os.kill(os.getpid(), signal.SIGINT)") / "mine.py"
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        call(path)
    assert signal.getsignal(signal.SIGINT) is handler


def test_locations_are_split_and_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, mine="")
    (tmp_path / "mine.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert split_location("mine.py:build", expected=FUNCTION) == (tmp_path / "mine.py", "build")
    assert absolute_location("./mine.py:build", expected=FUNCTION) == f"{tmp_path}/mine.py:build"
    assert split_location(f"{tmp_path.as_uri()}/mine.py:build", expected=FUNCTION) == (tmp_path / "mine.py", "build")
    for location, message in (
        ("mine.py", "has no name of Python's after a colon; need path/to/file.py:name, a function"),
        ("mine.py:not a name", "has no name of Python's after a colon"),
        ("nowhere.py:build", "there is no file .*/nowhere.py"),
        ("~nobody-of-this-name/mine.py:build", "give an absolute path"),
        ("s3://bucket/mine.py:build", "a shared POSIX path is needed"),
        ("mine.txt:build", r"is no Python file; its name must end with \.py"),
    ):
        with pytest.raises(InputError, match=message):
            split_location(location, expected=FUNCTION)
