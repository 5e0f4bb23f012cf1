"""Which device trains, and what PyTorch is told before it does.

The settings are PyTorch's own globals, so they are made once per process, by a command.
"""

import torch

from search.errors import UserError

THREADS = 1
"""Of PyTorch on a CPU, where nobody asks for another number. With one for each core, as PyTorch
has it, the threads of two workers wait for each other; and figures would depend on the machine."""
TYPES = ("cuda", "mps", "cpu")
"""Of devices; `auto` takes the first that is there."""


def is_there(kind: str) -> bool:
    """Return whether PyTorch can use a device of that type here."""
    match kind:
        case "cuda":
            return torch.cuda.is_available()
        case "mps":
            return torch.backends.mps.is_available()
    return kind == "cpu"


def choose(name: str) -> torch.device:
    """Return the device called `name`; `auto` takes CUDA, else MPS, else the CPU.

    Raises:
        UserError: PyTorch knows no such device, or this machine has none.
    """
    if name == "auto":
        name = next(kind for kind in TYPES if is_there(kind))
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
    return device


def prepare(device: torch.device, threads: int | None = None) -> None:
    """Set PyTorch up for `device`, before the first tensor of the process is computed.

    On a CPU: `threads` threads, `THREADS` for None, and numbers below the smallest normal one are
    flushed to zero, since weights and optimizers fill with them, and on some processors each costs
    a hundred times a normal one; threads take the setting over from the one that starts them. On
    CUDA: TF32 where autocast leaves float32, and deterministic convolutions, so that the same trial
    gives the same figures again.
    """
    torch.set_flush_denormal(True)
    torch.set_num_threads(THREADS if threads is None else threads)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def describe(device: torch.device) -> str:
    """Return the device in words, such as `CPU, 2 threads`."""
    if device.type == "cuda":
        return f"CUDA device {device.index or 0} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    return device.type.upper()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that the device, or this machine, has no memory left."""
    # The CPU's allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in str(error) or "not enough memory" in str(error))
    )
