"""The input stage with NVIDIA DALI, which needs no GPU for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nvidia.dali import fn, pipeline_def, types

from benchmarks.contenders.serve import Work, serve


def main() -> None:
    """Times batches when asked on standard input."""
    work = Work.of_arguments()
    pipeline = _pipeline(
        work, batch_size=work.batch_size, num_threads=work.threads, device_id=None, seed=0
    )
    pipeline.build()

    def batches() -> Iterator[Any]:
        while True:
            yield pipeline.run()

    serve(batches, work.batch_size)


@pipeline_def
def _pipeline(work: Work) -> Any:
    content, _ = fn.readers.file(files=[str(file) for file in work.files], random_shuffle=True)
    # Decodes only the crop, as far as the format allows it.
    images = fn.decoders.image_random_crop(
        content, random_area=[work.min_area, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
    )
    images = fn.resize(
        images, size=[work.size, work.size], interp_type=types.INTERP_LINEAR, antialias=True
    )
    return fn.crop_mirror_normalize(
        images, mirror=fn.random.coin_flip(), mean=[127.5] * 3, std=[127.5] * 3,
        dtype=types.FLOAT, output_layout="HWC",
    )  # fmt: skip


if __name__ == "__main__":
    main()
