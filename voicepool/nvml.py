"""The GPU probe: a process that asks NVIDIA's management library, and may hang or crash there.

The supervisor starts it (`gpuprobe.py`) and asks for a Sight at a time over a control socket. It
has a process of its own because

- a driver in trouble blocks its callers for seconds, and may crash them;
- a library that is loaded stays the old one when the driver is replaced under it. So when all is
  lost the probe says so and ends, and the next one starts with whatever is installed then.

Source: the NVML API reference guide (https://docs.nvidia.com/deploy/nvml-api/).
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from typing import Any

from voicepool import ipc, linux
from voicepool.gpu import ComputeMode, Gpu
from voicepool.ipc import Look, Sight

_MODES: dict[int, ComputeMode] = {1: "exclusive", 2: "prohibited", 3: "exclusive"}
"""nvmlComputeMode_t."""


class Nvml:
    """An initialised library. Every method may raise pynvml.NVMLError."""

    def __init__(self) -> None:
        import pynvml

        self._nvml: Any = pynvml
        pynvml.nvmlInit()

    def sight(self) -> Sight:
        """All GPUs that can be read; the others are counted."""
        nvml = self._nvml
        gpus: list[Gpu] = []
        lost = 0
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                gpus += self._devices(index)
            except nvml.NVMLError_NoPermission:
                continue  # a container was not given this one
            except nvml.NVMLError:
                lost += 1
        return Sight(driver=_text(nvml.nvmlSystemGetDriverVersion()), gpus=tuple(gpus), lost=lost)

    def _devices(self, index: int) -> Iterator[Gpu]:
        """The GPU, or its MIG instances if it is split."""
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        if not self._split(handle):
            yield self._device(handle, str(index))
            return
        parent = _text(nvml.nvmlDeviceGetUUID(handle))
        for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            except nvml.NVMLError_NotFound:
                continue  # that many there could be
            yield self._device(instance, f"{index}:{number}", parent)

    def _split(self, handle: Any) -> bool:
        try:
            current, _ = self._nvml.nvmlDeviceGetMigMode(handle)
        except (self._nvml.NVMLError_NotSupported, self._nvml.NVMLError_FunctionNotFound):
            return False  # neither the GPU nor an old driver knows of MIG
        return bool(current)

    def _device(self, handle: Any, index: str, parent: str = "") -> Gpu:
        nvml = self._nvml
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return Gpu(
            uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
            index=index,
            name=_text(nvml.nvmlDeviceGetName(handle)),
            total=memory.total,
            used=memory.total - memory.free,  # so what the driver keeps for itself counts too
            processes=self._processes(handle),
            compute_mode=self._compute_mode(handle),
            parent=parent,
        )

    def _processes(self, handle: Any) -> dict[int, int | None] | None:
        """All kinds together: one that is of several kinds is in several lists.

        Clients of CUDA MPS have a list of their own. Only the first list has to be there; but one
        that could not be had this time makes all unknown, lest its processes seem to use nothing.
        """
        nvml = self._nvml
        absent = (
            nvml.NVMLError_NotSupported,
            nvml.NVMLError_FunctionNotFound,
            nvml.NVMLError_NoPermission,
            nvml.NVMLError_InvalidArgument,
        )
        found: dict[int, int | None] = {}
        for kind in ("Compute", "Graphics", "MPSCompute"):
            try:
                listed = self._listed(kind, handle)
            except nvml.NVMLError as error:
                if kind == "Compute" or not isinstance(error, absent):
                    return None
                continue
            for process in listed:
                known, told = found.get(process.pid), process.usedGpuMemory
                found[process.pid] = told if known is None else max(known, told or 0)
        return found

    def _listed(self, kind: str, handle: Any) -> Any:
        """By the newest function that the driver has; v2 is of the drivers from 2021 on.

        By name, for the bindings' unversioned one turns what the driver lacks into an error that
        is no NVMLError.
        """
        name = f"nvmlDeviceGet{kind}RunningProcesses"
        try:
            return getattr(self._nvml, f"{name}_v3")(handle)
        except self._nvml.NVMLError_FunctionNotFound:
            return getattr(self._nvml, f"{name}_v2")(handle)

    def _compute_mode(self, handle: Any) -> ComputeMode:
        try:
            return _MODES.get(self._nvml.nvmlDeviceGetComputeMode(handle), "default")
        except self._nvml.NVMLError:
            return "default"  # a MIG instance, for one, has none


def _text(value: str | bytes) -> str:
    """Old bindings give bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def explain(error: Exception) -> str:
    """Why there is nothing to see, for people."""
    import pynvml

    match error:
        case pynvml.NVMLError_LibraryNotFound():
            return "no NVIDIA driver is installed (there is no libnvidia-ml.so.1)"
        case pynvml.NVMLError_DriverNotLoaded():
            return "the NVIDIA driver is not loaded"
        case pynvml.NVMLError_LibRmVersionMismatch():
            return "the NVIDIA driver was replaced while in use: load the new one, or reboot"
        case pynvml.NVMLError_NoPermission():
            return "this user may not use the NVIDIA driver"
    return f"the NVIDIA driver says: {error}"


def serve(channel: ipc.Channel[Look]) -> None:
    """Answer until the other side closes, or until there is nothing left to see."""
    import pynvml

    library: Nvml | None = None
    while channel.receive() is not None:
        try:
            library = library or Nvml()
            answer = library.sight()
        except pynvml.NVMLError as error:
            answer = Sight(error=explain(error))
        channel.send(answer)
        if answer.error:
            return


def main() -> None:
    """`python -m voicepool.nvml LIFELINE`: the control socket is standard input."""
    linux.name_process("vp-gpu-probe")
    linux.arm_lifeline(int(sys.argv[1]))
    sock = socket.socket(fileno=0)
    sock.setblocking(True)
    with ipc.Channel[Look](sock, Look) as channel:
        try:
            serve(channel)
        except (BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    main()
