"""Whether NVIDIA's driver can serve a build of ONNX Runtime, asked through the driver's library."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from ifmmin.runtime.errors import BackendUnavailable

NO_DRIVER = (
    "install NVIDIA's driver; in a container, start it with --gpus all (on a Jetson --runtime "
    "nvidia)"
)
_NO_DEVICE = 100


def load_driver() -> Any | None:
    """The driver's library; None where there is none."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def require_gpu(driver: Any, device: int, cuda: str, cure: str) -> str:
    """The name of GPU `device`.

    cuda: version that the program was built for, e.g. `13.0`; empty where nobody knows. cure: how
    to get one that fits an older driver. Raises BackendUnavailable where the driver is older, does
    not start, or shows no such GPU.
    """
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)) == 0:
        # Within a major version, programs run with an older driver too.
        own, wanted = number.value // 1000, cuda.split(".")[0]
        if wanted.isdigit() and own < int(wanted):
            raise BackendUnavailable(
                f"the NVIDIA driver here is for CUDA {own}.{number.value % 1000 // 10}, ONNX "
                f"Runtime for {cuda}; update the driver, or {cure}"
            )
    code = int(driver.cuInit(0))
    if code not in (0, _NO_DEVICE):
        raise BackendUnavailable(
            f"the NVIDIA driver does not start here (CUDA error {code}); {NO_DRIVER}"
        )
    count = 0
    if code == 0 and driver.cuDeviceGetCount(ctypes.byref(number)) == 0:
        count = number.value
    if count == 0:
        raise BackendUnavailable(
            "the NVIDIA driver shows no GPU to this process; look at CUDA_VISIBLE_DEVICES, and in "
            "a container start it with --gpus all"
        )
    if not 0 <= device < count:
        raise BackendUnavailable(f"there is no GPU {device} here; choose one of 0 to {count - 1}")
    return _name(driver, device)


def _name(driver: Any, index: int) -> str:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    return name.value.decode(errors="replace")
