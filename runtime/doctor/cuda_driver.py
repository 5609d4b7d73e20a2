"""Asks the NVIDIA driver through its own library, libcuda, which is all that a Jetson may have."""

from __future__ import annotations

import ctypes
from typing import Any

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""Numbers of device attributes in CUDA's interface of C."""


def ask_cuda() -> dict[str, Any]:
    """`version` of CUDA that the driver speaks, `gpus`, and `error` where it does not start.

    An empty answer: there is no driver.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return {}
    found: dict[str, Any] = {}
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)) == 0:
        found["version"] = f"{number.value // 1000}.{number.value % 1000 // 10}"
    code = driver.cuInit(0)
    if code != 0:
        return {**found, "error": f"the driver does not start: {_name(driver, code)}"}
    driver.cuDeviceGetCount(ctypes.byref(number))
    return {**found, "gpus": [_gpu(driver, index) for index in range(number.value)]}


def _gpu(driver: Any, index: int) -> dict[str, Any]:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    parts = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        parts.append(str(value.value))
    return {
        "name": name.value.decode(errors="replace"),
        "compute_capability": ".".join(parts),
        "memory": memory.value,
    }


def _name(driver: Any, code: int) -> str:
    text = ctypes.c_char_p()
    if driver.cuGetErrorName(code, ctypes.byref(text)) == 0 and text.value:
        return f"{text.value.decode(errors='replace')} ({code})"
    return f"error {code}"
