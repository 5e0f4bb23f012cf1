"""What a trial's metrics depend on besides its seed: machine, precision and versions.

Two runs with the same seed and environment give the same metrics bit for bit.
"""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from search.vision.precision import precision

Environment = dict[str, str | int | None]


def environment(device: torch.device, data_digest: str) -> Environment:
    """Return the environment of this process as JSON values."""
    return {
        "device": _device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "precision": precision(device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "data": data_digest,
        "code": _code_version(),
    }


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


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        # PyTorch chooses kernels by the processor's capability, not by its name.
        return f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}"
    return device.type


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
