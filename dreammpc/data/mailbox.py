"""The newest weights of an agent, for its copies in other processes."""

import multiprocessing
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory

import torch
from torch import Tensor, nn

from dreammpc.runtime.devices import CPU

HEADER = 16
"""Bytes before the weights: a version and the agent's switch `random`, as int64."""
LOCK_S = 10.0


class Mailbox:
    """Shared memory that holds one set of weights, written and read as a whole.

    A lock stands between writer and readers, so that no reader ever sees half of one set and half of
    another. Pickles into processes that are being spawned, and there only.

    Args:
        agent: a module, with the switch `random`, whose parameters and buffers are sent.
    """

    def __init__(self, agent: nn.Module):
        self.memory = SharedMemory(create=True, size=mailbox_bytes(agent))
        self.lock = multiprocessing.get_context("spawn").Lock()
        self.post(agent)

    def post(self, agent: nn.Module) -> None:
        """Send the weights of `agent` and its switch.

        Raises:
            TimeoutError: a reader has died while it read.
        """
        if not self.lock.acquire(timeout=LOCK_S):
            raise TimeoutError(f"the weights were not free for writing within {LOCK_S:.0f} s")
        try:
            header = self._header()
            header[0] += 1
            header[1] = int(agent.random)  # type: ignore[arg-type]
            for tensor, (_, place) in zip(on_host(tensors_of(agent)), self._places(agent), strict=True):
                place.copy_(tensor)
        finally:
            self.lock.release()

    def fetch(self, agent: nn.Module, seen: int) -> int:
        """Give `agent` the newest weights and the switch, unless they are version `seen`.

        Returns:
            The version that the agent has now.
        """
        if int(self._header()[0]) == seen:
            return seen
        with self.lock:
            header = self._header()
            agent.random = bool(header[1])  # type: ignore[assignment]
            with torch.no_grad():
                for tensor, place in self._places(agent):
                    tensor.copy_(place)
            return int(header[0])

    def close(self) -> None:
        """Give the memory back."""
        self.memory.close()
        self.memory.unlink()

    def _header(self) -> Tensor:
        return torch.frombuffer(self.memory.buf, dtype=torch.int64, count=2)

    def _places(self, agent: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """Every tensor of `agent` with its place in the memory."""
        offset = HEADER
        for tensor in tensors_of(agent):
            place = torch.frombuffer(self.memory.buf, dtype=tensor.dtype, count=tensor.numel(), offset=offset)
            yield tensor, place.view(tensor.shape)
            offset += _room(tensor)


def mailbox_bytes(agent: nn.Module) -> int:
    """Of the memory of a mailbox."""
    return HEADER + sum(_room(tensor) for tensor in tensors_of(agent))


def tensors_of(agent: nn.Module) -> list[Tensor]:
    """The parameters and buffers of `agent`, but empty ones."""
    tensors = [*agent.parameters(), *agent.buffers()]
    return [tensor.detach() for tensor in tensors if tensor.numel()]


def on_host(tensors: list[Tensor]) -> list[Tensor]:
    """The same tensors on the CPU, by one transfer from another device."""
    if not tensors or tensors[0].device == CPU:
        return tensors
    content = torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in tensors]).cpu()
    parts = content.split([tensor.nbytes for tensor in tensors])
    # A part begins anywhere, and what is read as larger words must begin at a multiple of them.
    return [
        part.clone().view(tensor.dtype).view(tensor.shape)
        for part, tensor in zip(parts, tensors, strict=True)
    ]


def _room(tensor: Tensor) -> int:
    """Bytes of a tensor, rounded up to whole words."""
    return -(-tensor.numel() * tensor.element_size() // 8) * 8
