"""What a trial's metrics depend on besides its seed: machine, precision and versions.

Two runs with the same seed and environment give the same metrics bit for bit.
"""

import ast
import hashlib
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from search.study.training import Session
from search.study.trial_attributes import environments

Environment = Mapping[str, str | int | None]


def environment(
    device: str, *, threads: int, session: Session[Any], uses_torch: bool, file: str = ""
) -> Environment:
    """Return the environment of this process as JSON values; `file` is a user's study file."""
    found: dict[str, str | int | None] = {
        "device": f"{platform.machine()} CPU",
        "threads": threads if device == "cpu" else None,
        "precision": session.precision,
        "torch": None,
        "cuda": None,
        "cudnn": None,
        "data": session.digest,
        "code": _code_version(),
    }
    if uses_torch:
        found |= _of_torch(device)
    if file:
        content = Path(file).read_bytes()
        found["study file"] = hashlib.sha256(content).hexdigest()
        found["packages"] = _packages(content)
    return found


def _of_torch(device: str) -> dict[str, str | int | None]:
    import torch

    name = device
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    elif device == "cpu":
        # PyTorch chooses kernels by the processor's capability, not by its name.
        name = f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}"
    is_cuda = device.startswith("cuda")
    return {
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if is_cuda else None,
        "cudnn": torch.backends.cudnn.version() if is_cuda else None,
    }


def _packages(source: bytes) -> str:
    """Return the versions of the packages that a study file imports, such as `sklearn 1.9.0`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    versions = {name: getattr(sys.modules.get(name), "__version__", None) for name in names}
    return ", ".join(f"{name} {found}" for name, found in sorted(versions.items()) if found)


def device_type(of: Environment) -> str:
    """Return the type of an environment's device: `cpu`, `cuda` or `mps`."""
    if threads(of) is not None:
        return "cpu"
    return "cuda" if of["cuda"] is not None else "mps"


def threads(of: Environment) -> int | None:
    """Return an environment's number of CPU threads; None if its device is not a CPU."""
    return None if of["threads"] is None else int(of["threads"])


def described(of: Environment) -> str:
    """Return an environment's device in words, such as `with 2 threads`."""
    if (n := threads(of)) is not None:
        return f"with {n} thread{'s' if n != 1 else ''}"
    return f"on {of['device']} in {of['precision']}"


def differences(then: Environment, now: Environment) -> list[str]:
    """Return one line for each entry in which two environments differ."""
    return [
        f"{name}: {then.get(name)} then, {now.get(name)} now"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]


def last_with_another_file(trials: Sequence[FrozenTrial], now: Environment) -> int | None:
    """Return the number of the last trial that was trained with another content of the study file.

    None if there is none, or if the study is a shipped one.
    """
    file = now.get("study file")
    for trial in reversed(trials) if file is not None else ():
        for last in environments(trial)[-1:]:
            if last.get("study file") != file:
                return trial.number
    return None


def _code_version() -> str:
    """Return the commit of this checkout, with `+` if it was changed; else the package version."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12"]
    tracked = ["git", "-C", str(folder), "ls-files", "--error-unmatch", __file__]
    try:
        for call in (tracked, command):  # an installed copy may be inside another repository
            done = subprocess.run(call, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return version("search-service")
    return done.stdout.strip()
