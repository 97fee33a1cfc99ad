"""The type of a processor is its model and the instruction sets that select kernels."""

import platform

from pipeline.runtimes.processor import describe_cpu, processor_type

XEON = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse2 fma avx avx2 avx512f avx512_bf16 amx_bf16

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse2 fma avx avx2 avx512f avx512_bf16 amx_bf16
"""
GRAVITON = """\
processor\t: 0
Features\t: fp asimd aes sve bf16
CPU part\t: 0xd40
"""


def test_model_and_instruction_sets_are_named():
    model = "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert describe_cpu(XEON) == f"{model} (avx2 fma avx512f avx512_bf16 amx_bf16)"
    assert describe_cpu(GRAVITON) == "0xd40 (asimd sve bf16)"
    assert describe_cpu("") == platform.machine()


def test_this_machine_has_one():
    assert processor_type()
