"""Which devices are fast at bfloat16, from what Linux and TensorFlow say of them."""

import pytest

from pipeline.runtimes import bfloat16
from pipeline.runtimes.bfloat16 import describe_slow_cpu, describe_slow_gpu, slow_at_bfloat16

# As /proc/cpuinfo has them, shortened.
HASWELL = "model name\t: Xeon E5-2680 v3\nflags\t\t: fpu sse2 avx avx2 fma\nbugs\t\t: none\n"
SKYLAKE = "flags\t\t: fpu avx2 avx512f avx512bw avx512_vnni\n"
ZEN_4 = "flags\t\t: fpu avx2 avx512f avx512_bf16 avx512_vnni\nbugs\t\t:\n"
SAPPHIRE_RAPIDS = "flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile\n"
AMX_ALONE = "flags\t\t: fpu amx_bf16 amx_tile\n"
GRAVITON_3 = "CPU implementer\t: 0x41\nFeatures\t: fp asimd sve svei8mm svebf16 i8mm bf16\n"
GRAVITON_2 = "Features\t: fp asimd evtstrm aes\n"


@pytest.mark.parametrize("cpuinfo", [ZEN_4, SAPPHIRE_RAPIDS, AMX_ALONE])
def test_a_cpu_with_instructions_for_bfloat16_is_fast(cpuinfo):
    assert describe_slow_cpu(cpuinfo) is None


@pytest.mark.parametrize("cpuinfo", [HASWELL, SKYLAKE, "", "flags : avx512_bf16x\n"])
def test_a_cpu_without_them_is_slow(cpuinfo):
    said = "a CPU without avx512_bf16 and amx_bf16 is slow at bfloat16"
    assert describe_slow_cpu(cpuinfo) == said


@pytest.mark.parametrize("cpuinfo", [GRAVITON_2, GRAVITON_3])
def test_of_an_arm_cpu_nothing_is_said_that_holds_for_x86_alone(cpuinfo):
    assert describe_slow_cpu(cpuinfo) == "an ARM CPU is not known to be fast at bfloat16"


# Compute capabilities: https://developer.nvidia.com/cuda-gpus
@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_gpus_from_a100_on_are_fast(capability):
    assert describe_slow_gpu({"device_name": "GPU", "compute_capability": capability}) is None


@pytest.mark.parametrize(
    ("details", "text"),
    [
        (
            {"device_name": "Tesla T4", "compute_capability": (7, 5)},
            "Tesla T4 is slow at bfloat16 (compute cap.* 7.5",
        ),
        ({"device_name": "V100", "compute_capability": (7, 0)}, "V100 .*7.0, and 8.0 is needed"),
        ({}, "a GPU is slow at bfloat16 (compute capability unknown"),
    ],
)
def test_gpus_before_it_and_unknown_ones_are_slow(details, text):
    import re

    assert re.match(text.replace("(", r"\("), describe_slow_gpu(details))


def test_this_machine_is_asked(tmp_path, monkeypatch):
    for cpuinfo in (HASWELL, ZEN_4):
        file = tmp_path / "cpuinfo"
        file.write_text(cpuinfo)
        monkeypatch.setattr(bfloat16, "_CPU_FACTS", file)
        assert slow_at_bfloat16() == describe_slow_cpu(cpuinfo)
    monkeypatch.setattr(bfloat16, "_CPU_FACTS", tmp_path / "none")  # not Linux
    assert slow_at_bfloat16() is not None


class _OneGpuOf:
    """TensorFlow's configuration on a machine with GPUs of these compute capabilities."""

    def __init__(self, *capabilities):
        self._capabilities = capabilities
        self.experimental = self

    def get_visible_devices(self, kind):
        assert kind == "GPU"
        return list(range(len(self._capabilities)))

    def get_device_details(self, gpu):
        return {"device_name": f"GPU {gpu}", "compute_capability": self._capabilities[gpu]}


def test_where_there_are_gpus_the_slowest_of_them_decides_and_not_the_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(bfloat16, "_CPU_FACTS", tmp_path / "none")
    for capabilities, slow in [([(9, 0)], None), ([(9, 0), (7, 5)], "GPU 1 is slow")]:
        monkeypatch.setattr(bfloat16.tf, "config", _OneGpuOf(*capabilities))
        found = slow_at_bfloat16()
        assert found is slow or found.startswith(slow)
