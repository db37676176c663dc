"""What of a device's memory can be taken, by one who decides by it how much to take."""

from __future__ import annotations

import gc

import torch


def free_on(device: torch.device) -> int:
    """Bytes of a GPU that can be allocated: what its driver has, and what torch keeps for nobody.

    torch does not give back what was freed, for the next who asks it; to the driver that is taken.
    """
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def give_back(device: torch.device) -> None:
    """Have torch give back all that nobody uses, as one before the next array does.

    A recorded graph's memory is of use to nothing else, and what is kept for small arrays lies in
    pieces too small for large ones. On a CPU there is nothing to be done.
    """
    if device.type == "cuda":
        gc.collect()  # what hangs in cycles is in use until then
        torch.cuda.empty_cache()
