"""Lines of telemetry tools and cores of /proc/cpuinfo: formats as printed, numbers made up."""

from __future__ import annotations

TEGRASTATS_AGX_ORIN = (
    "11-30-2026 10:12:13 RAM 3201/30536MB (lfb 6170x4MB) SWAP 0/15268MB (cached 0MB) "
    "CPU [4%@1190,0%@1190,1%@729,off,off,off] EMC_FREQ 0%@2133 GR3D_FREQ 7%@[305,306] VIC_FREQ 729 "
    "APE 174 CV0@-256C CPU@49.531C Tboard@38C SOC2@45.5C Tdiode@39C SOC0@45.218C CV1@-256C "
    "GPU@-256C tj@49.531C SOC1@46.312C CV2@-256C VDD_GPU_SOC 2401mW/2390mW VDD_CPU_CV 800mW/790mW "
    "VIN_SYS_5V0 4032mW/4031mW NC 0mW/0mW VDDQ_VDD2_1V8AO 604mW/603mW NC 0mW/0mW"
)
"""JetPack 5."""
TEGRASTATS_ORIN_NANO = (
    "12-03-2026 06:21:16 RAM 2465/7620MB (lfb 2x1MB) SWAP 1/3810MB (cached 0MB) "
    "CPU [3%@729,0%@729,0%@729,12%@1510,0%@729,0%@729] EMC_FREQ 1%@2133 GR3D_FREQ 41%@[611] "
    "NVDEC off NVJPG off VIC off OFA off APE 200 cpu@48.125C soc2@47.5C soc0@47.625C gpu@49.187C "
    "tj@49.187C soc1@47.906C VDD_IN 4712mW/4636mW VDD_CPU_GPU_CV 523mW/483mW VDD_SOC 1411mW/1410mW"
)
"""JetPack 6, as root."""
TEGRASTATS_NO_ROOT = (
    "12-03-2026 06:21:17 RAM 2465/7620MB (lfb 2x1MB) SWAP 1/3810MB (cached 0MB) "
    "CPU [3%@729,0%@729,0%@729,12%@1510,0%@729,0%@729] GR3D_FREQ 0% cpu@48.125C tj@48.125C "
    "VDD_IN 4590mW/4590mW VDD_CPU_GPU_CV 480mW/480mW VDD_SOC 1400mW/1400mW"
)
"""JetPack 6, as anybody."""
TEGRASTATS_THOR = (
    "04-21-2026 15:50:52 RAM 10526/125772MB (lfb 34x4MB) CPU [0%@972,8%@2601,0%@972] "
    "EMC_FREQ 7%@4266 GR3D_FREQ @[1574,1575,1574] NVENC0_FREQ @314 NVDEC0_FREQ @314 VIC off "
    "OFA_FREQ @315 PVA0_FREQ off APE 300 cpu@37.343C/38C tj@38.875C/39.5C soc012@37.468C/37.5C "
    "gpu@38.875C/39C soc345@37.406C/37.5C VDD_GPU 1962mW/1960mW/2354mW "
    "VDD_CPU_SOC_MSS 5887mW/5800mW/6272mW VIN_SYS_5V0 5635mW/5600mW/5735mW "
    "VIN 19780mW/9890mW/20110mW"
)
"""JetPack 7: temperatures and rails have their highest too, and rails come with the input."""
TEGRASTATS_OLD = (
    "RAM 2020/7852MB (lfb 1164x4MB) CPU [0%,5%,off]@1420 EMC_FREQ 0% GR3D_FREQ 0% PLL@42.5C "
    "MCPU@42.5C PMIC@100C VDD_SYS_GPU 153/158 VDD_IN 3140/3208"
)
"""JetPack 4, whose numbers have no unit."""


def core_of_x86(cpu: int, *more: str) -> str:
    """One entry of /proc/cpuinfo."""
    flags = " ".join(("fpu", "sse2", "avx", "f16c", "fma", "avx2", "avx_vnni", *more))
    return (
        f"processor\t: {cpu}\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Core(TM) i5-14400\n"
        f"cpu MHz\t\t: 1200.000\nflags\t\t: {flags}\nbugs\t\t: spectre_v1\n"
    )


def cores_of_arm(count: int, implementer: str, part: str, first: int = 0) -> str:
    """Entries of /proc/cpuinfo of equal cores."""
    features = "fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
    return "".join(
        f"processor\t: {first + core}\nBogoMIPS\t: 62.50\nFeatures\t: {features}\n"
        f"CPU implementer\t: {implementer}\nCPU architecture: 8\nCPU variant\t: 0x0\n"
        f"CPU part\t: {part}\nCPU revision\t: 1\n\n"
        for core in range(count)
    )
