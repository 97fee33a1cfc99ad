"""The input stage with torchvision v2 and a DataLoader on PyTorch for CPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from benchmarks.contenders.serve import Work, serve


class _Photographs(Dataset[Any]):
    """The files, again and again, as a DataLoader reads them in training."""

    def __init__(self, files: list[Path], transform: Any) -> None:
        self._files = [str(file) for file in files]
        self._transform = transform

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, number: int) -> Any:
        content = read_file(self._files[number % len(self._files)])
        # uint8 [3, H, W] with the channels last in memory, for which resizing has SIMD code.
        return self._transform(decode_jpeg(content, mode=ImageReadMode.RGB))


def main() -> None:
    """Times batches when asked on standard input."""
    work = Work.of_arguments()
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(work.size, scale=(work.min_area, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    loader = DataLoader(
        _Photographs(work.files, transform), batch_size=work.batch_size, num_workers=work.threads
    )

    def batches() -> Iterator[Any]:
        return iter(loader)

    serve(batches, work.batch_size)


if __name__ == "__main__":
    main()
