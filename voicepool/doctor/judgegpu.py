"""What the doctor says of GPUs, of CUDA's libraries and of CUDA MPS. Pure."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from voicepool.config import Settings
from voicepool.doctor.facts import CTranslate2, Cuda, Host, Library, Torch
from voicepool.doctor.findings import Finding, note, ok, problem, wrong
from voicepool.errors import ConfigError
from voicepool.gpu import NONE, Gpu, chosen, usable, visible
from voicepool.quantities import format_size
from voicepool.remedies import install_extra, pip_install

if TYPE_CHECKING:
    from voicepool.ipc import Sight

TORCH_BUILDS: Final = "https://pytorch.org/get-started/locally"

_PACKAGES: Final = (
    ("libcudnn", "nvidia-cudnn-cu12==9.*", "cudnn"),
    ("libcublas", "nvidia-cublas-cu12", "cublas"),
    ("libcudart", "nvidia-cuda-runtime-cu12", "cuda_runtime"),
    ("libcufft", "nvidia-cufft-cu12", "cufft"),
    ("libnvrtc", "nvidia-cuda-nvrtc-cu12", "cuda_nvrtc"),
)
"""How a library's name begins, the package that has it for CUDA 12, its folder in `nvidia`."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the engines that would run want of a GPU."""

    gpu: bool = False
    """Without one nothing runs."""
    torch: bool = False
    """A stage computes on it by torch."""
    ctranslate2: bool = False


def pick(sight: Sight, settings: Settings) -> tuple[list[Gpu], str]:
    """GPUs for workers, and the error of the setting `gpus` if it is wrong."""
    try:
        return usable(sight.gpus, settings.visible_gpus, settings.gpus), ""
    except ConfigError as error:
        return [], str(error)


# --- GPUs ------------------------------------------------------------------------------------


def judge(
    sight: Sight, settings: Settings, host: Host, needs: Needs, cuda: Cuda | None
) -> list[Finding]:
    """Findings about the GPUs; `cuda` is None where nobody looked."""
    found = [*_sight(sight, settings, host, needs)]
    if cuda is not None:
        found += _libraries(cuda, needs, any_gpu=bool(sight.gpus))
    if needs.gpu:
        found += _sharing(pick(sight, settings)[0], settings, host)
    return found


def _sight(sight: Sight, settings: Settings, host: Host, needs: Needs) -> Iterator[Finding]:
    gpus, error = pick(sight, settings)
    if error:
        text, _, remedy = error.partition(": ")[2].partition(": ")
        yield problem(f"gpus: {text}", f"choose among: {remedy}; or --gpus auto")
    if sight.error:
        yield _blind(sight.error, host, serious=needs.gpu)
        return
    if sight.lost:
        yield wrong(
            f"{sight.lost} GPU{'s' * (sight.lost > 1)} cannot be read",
            "see what nvidia-smi and `dmesg | grep -i nvrm` say of it; a reboot may bring it back",
            serious=needs.gpu and not gpus,
        )
    yield from (_gpu(gpu, sight, settings, serious=needs.gpu) for gpu in sight.gpus)
    if not gpus and not error and not sight.lost:
        yield _none(sight, settings, serious=needs.gpu)


def _blind(error: str, host: Host, *, serious: bool) -> Finding:
    """No driver, or one in trouble."""
    if not host.cards and error.startswith("no NVIDIA driver"):
        remedy = "choose another profile, for example: voicepool start --profile cpu"
        text = f"no NVIDIA GPU is on the PCI bus, and {error}"
        return problem(text, remedy) if serious else ok(f"{text}; nothing here needs one")
    if error.startswith("no NVIDIA driver"):
        remedy = "install the driver, on Ubuntu with: sudo ubuntu-drivers install"
        if host.container:
            remedy = "let the container have them: docker run --gpus all (NVIDIA Container Toolkit)"
        cards = "an NVIDIA GPU is" if host.cards == 1 else f"{host.cards} NVIDIA GPUs are"
        return wrong(f"{cards} on the PCI bus, but {error}", remedy, serious=serious)
    remedies = {
        "is not loaded": "load it: sudo modprobe nvidia; if that fails, install it anew",
        "was replaced": "reboot",
        "may not use": "let this user use /dev/nvidia*: see ls -l /dev/nvidia*",
    }
    fitting = (remedy for words, remedy in remedies.items() if words in error)
    return wrong(
        error, next(fitting, "see what nvidia-smi says; a reboot may help"), serious=serious
    )


def _gpu(gpu: Gpu, sight: Sight, settings: Settings, *, serious: bool) -> Finding:
    text = (
        f"{gpu.device}: {gpu.name}, {format_size(gpu.total)}, {format_size(gpu.used)} in use, "
        f"driver {sight.driver}"
    )
    shown = visible(sight.gpus, settings.visible_gpus)
    if gpu not in shown:
        return note(f"{text}; hidden by CUDA_VISIBLE_DEVICES={settings.visible_gpus}")
    if gpu.compute_mode == "prohibited":
        return wrong(
            f"{text}; its compute mode prohibits processes",
            f"sudo nvidia-smi -i {gpu.index} -c DEFAULT",
            serious=serious,
        )
    if gpu not in _chosen(shown, settings):
        return note(f"{text}; left alone by gpus = {settings.gpus}")
    return ok(text)


def _chosen(gpus: Sequence[Gpu], settings: Settings) -> Sequence[Gpu]:
    try:
        return chosen(gpus, settings.gpus)
    except ConfigError:
        return gpus


def _none(sight: Sight, settings: Settings, *, serious: bool) -> Finding:
    if settings.gpus == NONE:
        text, remedy = "gpus = none: workers get no GPU", "--gpus auto"
    elif not sight.gpus:
        text = "the NVIDIA driver sees no GPU"
        remedy = "in a container, give it some: docker run --gpus all"
    else:
        text, remedy = "no GPU is left for workers", "unset CUDA_VISIBLE_DEVICES, or --gpus auto"
    return wrong(text, remedy, serious=serious)


# --- CUDA's libraries ------------------------------------------------------------------------


def _libraries(cuda: Cuda, needs: Needs, *, any_gpu: bool) -> Iterator[Finding]:
    """`any_gpu`: there is one to be seen; else that has been said before."""
    if cuda.driver is not None and cuda.driver.cuda:
        yield ok(f"the driver runs CUDA up to {cuda.driver.cuda}")
    newest = cuda.driver.cuda if cuda.driver else ""
    if cuda.torch is not None and (any_gpu or not cuda.torch.cuda):
        yield _torch(cuda.torch, newest, serious=needs.torch)
    if cuda.ctranslate2 is not None:
        yield from _ctranslate2(cuda.ctranslate2, any_gpu=any_gpu, serious=needs.ctranslate2)
    if cuda.ending:
        parts = {"the driver": cuda.driver, "torch": cuda.torch, "ctranslate2": cuda.ctranslate2}
        dead = next((name for name, part in parts.items() if part is None), "the last library")
        yield wrong(
            f"the look at {dead} {cuda.ending}",
            "see whether nvidia-smi answers, and: python -c 'import torch; torch.cuda.init()'",
            serious=needs.gpu,
        )


def _torch(torch: Torch, newest: str, *, serious: bool) -> Finding:
    if not torch.version:
        return wrong("torch is not installed", install_extra("models"), serious=serious)
    build = f"the build for CUDA {newest} or older" if newest else "a build for your CUDA version"
    if not torch.cuda:
        return wrong(
            f"torch {torch.version} is a build without CUDA",
            f"pip uninstall torch, then install {build}: {TORCH_BUILDS}",
            serious=serious,
        )
    name = f"torch {torch.version} for CUDA {torch.cuda}"
    if torch.devices and not torch.error:
        return ok(f"{name} sees {_gpus(torch.devices)}")
    if newest and _version(torch.cuda) > _version(newest):
        return wrong(
            f"{name} is too new for the driver, which runs CUDA up to {newest}",
            f"update the driver, or install {build}: {TORCH_BUILDS}",
            serious=serious,
        )
    return wrong(
        f"{name} sees no GPU" + (f": {torch.error}" if torch.error else ""),
        f"see whether nvidia-smi lists it; else install {build}: {TORCH_BUILDS}",
        serious=serious,
    )


def _ctranslate2(found: CTranslate2, *, any_gpu: bool, serious: bool) -> Iterator[Finding]:
    if not found.version:
        remedy = install_extra("models")
        yield wrong("ctranslate2 is not installed", remedy, serious=serious)
        return
    name = f"ctranslate2 {found.version}"
    missing = [library for library in found.libraries if library.error]
    if found.devices and not missing:
        names = ", ".join(library.name for library in found.libraries)
        yield ok(f"{name} sees {_gpus(found.devices)}" + (f" and loads {names}" if names else ""))
    if any_gpu and not found.devices:
        yield wrong(
            f"{name} sees no GPU" + (f": {found.error}" if found.error else ""),
            "see whether nvidia-smi lists it, and update the driver",
            serious=serious,
        )
    if missing:
        names = ", ".join(library.name for library in missing)
        yield wrong(f"{name} needs {names}, not found", library_remedy(missing), serious=serious)


def library_remedy(missing: Sequence[Library]) -> str:
    """Commands that bring these libraries to where the loader finds them, as faster-whisper's
    README has it."""
    site = sysconfig.get_path("purelib")
    packages: dict[str, None] = {}
    folders: dict[str, None] = {}
    for library in missing:
        if library.folder:
            folders[library.folder] = None
            continue
        _, package, folder = next(
            (known for known in _PACKAGES if library.name.startswith(known[0])),
            ("", f"the package with {library.name}", "*"),
        )
        packages[_for_version(package, library.name)] = None
        folders[f"{site}/nvidia/{folder}/lib"] = None
    path = f"export LD_LIBRARY_PATH={':'.join(folders)}:$LD_LIBRARY_PATH"
    if not packages:
        return path
    return f"{pip_install(' '.join(packages))} && {path}"


def _for_version(package: str, library: str) -> str:
    """cuDNN counts its own versions; the others are CUDA's, and there are packages for each."""
    major = library.rpartition(".")[2]
    if "cudnn" in package:
        return package.replace("9", major)
    return package.replace("cu12", f"cu{major}")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


# --- CUDA MPS --------------------------------------------------------------------------------


def _sharing(gpus: Sequence[Gpu], settings: Settings, host: Host) -> Iterator[Finding]:
    """Whether several workers can compute on one GPU at the same time."""
    most = settings.max_connections + settings.spare
    if not gpus or most <= len(gpus):
        return
    if host.mps is not None:
        yield ok(f"CUDA MPS runs (pid {host.mps}): workers compute on a GPU at the same time")
        return
    for gpu in gpus:
        if gpu.compute_mode == "exclusive":
            yield problem(
                f"{gpu.device} takes one process at a time without CUDA MPS, and up to {most} "
                "workers would share the GPUs",
                f"sudo nvidia-smi -i {gpu.index} -c DEFAULT, or start MPS first: "
                "nvidia-cuda-mps-control -d",
            )
    if host.mps_pipe:
        yield note(
            "CUDA MPS's pipe is there, but no daemon is seen: it runs in another container, or "
            "has died",
            "see: echo get_server_list | nvidia-cuda-mps-control",
        )
        return
    yield note(
        "without CUDA MPS, workers that share a GPU take turns on it, so calls slow each other "
        "down more than they must",
        "as the user who starts voicepool, and before it: nvidia-cuda-mps-control -d",
    )
