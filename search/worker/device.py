"""Chooses the training device, and sets the process up for it.

The settings are global, so a process makes them once. PyTorch is imported only if a study uses it.
"""

import sys

from search.errors import UserError

THREADS = 1
"""Default number of CPU threads. With PyTorch's own default, one for each core, the threads of two
workers wait for each other, and metrics depend on the machine."""
TYPES = ("cuda", "mps", "cpu")
"""Device types; `auto` takes the first available one."""


def is_there(kind: str) -> bool:
    """Return whether PyTorch can use a device of this type on this machine."""
    if kind == "cpu":
        return True
    import torch

    return torch.cuda.is_available() if kind == "cuda" else torch.backends.mps.is_available()


def choose(name: str, *, uses_torch: bool = True) -> str:
    """Return the device called `name`; `auto` takes CUDA, else MPS, else the CPU.

    A study that does not use PyTorch gets the CPU by `auto`.

    Raises:
        UserError: the name is not a device, or this machine does not have it.
    """
    if name == "auto":
        name = next(kind for kind in TYPES if is_there(kind)) if uses_torch else "cpu"
    if name == "cpu":
        return name
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    # PyTorch takes `cuda:300` for `cuda:44`.
    if device.type not in TYPES or str(device) != name or (device.type == "cpu" and device.index):
        raise UserError(f"--device {name}: give auto, cuda, cuda:1, mps or cpu")
    if not is_there(device.type):
        why = "that PyTorch can use; nvidia-smi tells whether its driver works"
        if device.type == "mps" or torch.version.cuda is None:
            why = f"for this PyTorch, {torch.__version__}"
        raise UserError(
            f"--device {name}: this machine has no such device {why}; --device auto takes what "
            "there is"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: this machine has {torch.cuda.device_count()}, counted from cuda:0"
        )
    return name


def prepare(device: str, threads: int, *, uses_torch: bool = True) -> None:
    """Set the process up for `device`, before the first number is computed.

    On a CPU: `threads` threads, for PyTorch or else for NumPy's and OpenMP's libraries, and for
    PyTorch subnormal numbers are flushed to zero. Weights and optimizer states fill with them, and
    on some processors each costs a hundred times as much as a normal number. New threads inherit
    the setting. On CUDA: TF32 where autocast leaves float32, and deterministic convolutions, so
    that a replay gives the same metrics.
    """
    if not uses_torch:
        from threadpoolctl import threadpool_limits

        threadpool_limits(threads)
        return
    import torch

    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def describe(device: str, threads: int) -> str:
    """Return the device in words, such as `CPU, 2 threads`."""
    if device.startswith("cuda"):
        import torch

        index = torch.device(device).index or 0
        return f"CUDA device {index} ({torch.cuda.get_device_name(device)})"
    if device == "cpu":
        return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    return device.upper()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` means that the device or this machine is out of memory."""
    if isinstance(error, MemoryError):
        return True
    if (torch := sys.modules.get("torch")) and isinstance(error, torch.OutOfMemoryError):
        return True
    # The CPU's allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in str(error) or "not enough memory" in str(error)
    )
