"""Well-known published ViT checkpoints: their URLs, and the settings they need.

This module downloads nothing, and the table was written without downloading the files. The URLs are
those in the code of the papers, in timm and on the Hub. A test verifies the numbers of parameters.

References:
  ViT: Dosovitskiy et al. 2021, arXiv 2010.11929.
  AugReg: Steiner et al. 2022, "How to train your ViT?", arXiv 2106.10270. The table lists those of
  its thousands of checkpoints that github.com/google-research/big_vision (models/vit.py) and timm
  recommend.
  DeiT: Touvron et al. 2021, arXiv 2012.12877.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

_GOOGLE = "https://storage.googleapis.com/vit_models/"
_HUB = "https://huggingface.co/"

_TI = "augreg/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0"
_S = "augreg/S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0"
_B = "augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"
_L = "augreg/L_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1"

Kind = Literal["Google", "Hugging Face", "timm"]


@dataclass(frozen=True)
class Entry:
    """One published checkpoint.

    Attributes:
      name: Short name in the catalog.
      source: Paper and training data.
      kind: Layout: an .npz file by Google, or a folder by Hugging Face or timm.
      variant: Value of `model.variant`.
      image_size: Height and width in pixels in the last phase of training.
      num_classes: Number of logits; 0 if there is no head.
      parameters: Number of parameters.
      path: Path below the base URL of its kind.
      pre_logits: Value of `model.pre_logits` that loads all weights.
      normalize: Value of `data.normalize`.
      licence: Licence of the weights.
    """

    name: str
    source: str
    kind: Kind
    variant: str
    image_size: int
    num_classes: int
    parameters: int
    path: str
    pre_logits: int = 0
    normalize: str = "half"
    licence: str = "Apache-2.0"

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of its files."""
        if self.kind == "Google":
            return (f"{_GOOGLE}{self.path}.npz",)
        files = ["model.safetensors", "config.json"]
        files += ["preprocessor_config.json"] if self.kind == "Hugging Face" else []
        return tuple(f"{_HUB}{self.path}/resolve/main/{file}" for file in files)

    @property
    def page(self) -> str:
        """The URL for a browser: the file, or the page of the folder and the files needed."""
        if len(self.urls) == 1:
            return self.urls[0]
        files = [url.rpartition("/")[2] for url in self.urls]
        return f"{_HUB}{self.path}  ({', '.join(files)})"

    @property
    def download(self) -> tuple[str, str]:
        """A shell command that downloads its files, and the path where it puts them."""
        urls = [shlex.quote(url) for url in self.urls]
        if len(urls) == 1:
            file = f"{self.name}.npz"
            return f"curl --fail --location --output {file} {urls[0]}", file
        files = " ".join(f"--remote-name {url}" for url in urls)
        folder = f"--create-dirs --output-dir {self.name}"
        return f"curl --fail --location {folder} {files}", self.name

    @property
    def settings(self) -> dict[str, str | int]:
        """The settings for fine-tuning it at its own image size."""
        return {
            "model.variant": self.variant,
            "model.pool": "token",
            "model.gelu": "tanh" if self.kind == "Google" else "exact",
            "data.image_size": self.image_size,
            "data.normalize": self.normalize,
        } | ({"model.pre_logits": self.pre_logits} if self.pre_logits else {})


_AUG_21K, _AUG_1K = "AugReg, ImageNet-21k", "AugReg, ImageNet-21k, then ImageNet-1k"
_VIT_21K, _VIT_1K = "ViT, ImageNet-21k", "ViT, ImageNet-21k, then ImageNet-1k"
_DEIT_1K = "DeiT, ImageNet-1k"
_HF: Kind = "Hugging Face"

# fmt: off
_TI_224 = f"{_TI}--imagenet2012-steps_20k-lr_0.03-res_224"
_S_224 =  f"{_S}--imagenet2012-steps_20k-lr_0.03-res_224"
_S_384 =  f"{_S}--imagenet2012-steps_20k-lr_0.03-res_384"
_B_224 =  f"{_B}--imagenet2012-steps_20k-lr_0.01-res_224"
_B_384 =  f"{_B}--imagenet2012-steps_20k-lr_0.01-res_384"
_L_224 =  f"{_L}--imagenet2012-steps_20k-lr_0.01-res_224"

_HF_B = "google/vit-base-patch16-224"
_HF_B_21K = "google/vit-base-patch16-224-in21k"
_TIMM_TI = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
_TIMM_B = "timm/vit_base_patch16_224.augreg_in21k_ft_in1k"
_DEIT_S = "timm/deit_small_patch16_224.fb_in1k"
_DEIT_B = "timm/deit_base_patch16_224.fb_in1k"

#         name                source    kind      variant   px classes  parameters  path
CATALOG = (
    Entry("augreg-ti16-i21k", _AUG_21K, "Google", "Ti/16", 224, 21843,   9_740_115, _TI),
    Entry("augreg-s16-i21k",  _AUG_21K, "Google", "S/16",  224, 21843,  30_075_219, _S),
    Entry("augreg-b16-i21k",  _AUG_21K, "Google", "B/16",  224, 21843, 102_595_923, _B),
    Entry("augreg-l16-i21k",  _AUG_21K, "Google", "L/16",  224, 21843, 325_690_707, _L),
    Entry("augreg-ti16-224",  _AUG_1K,  "Google", "Ti/16", 224,  1000,   5_717_416, _TI_224),
    Entry("augreg-s16-224",   _AUG_1K,  "Google", "S/16",  224,  1000,  22_050_664, _S_224),
    Entry("augreg-s16-384",   _AUG_1K,  "Google", "S/16",  384,  1000,  22_196_584, _S_384),
    Entry("augreg-b16-224",   _AUG_1K,  "Google", "B/16",  224,  1000,  86_567_656, _B_224),
    Entry("augreg-b16-384",   _AUG_1K,  "Google", "B/16",  384,  1000,  86_859_496, _B_384),
    Entry("augreg-l16-224",   _AUG_1K,  "Google", "L/16",  224,  1000, 304_326_632, _L_224),
    Entry("vit-b16-i21k",     _VIT_21K, "Google", "B/16",  224, 21843, 103_186_515,
          "imagenet21k/ViT-B_16", pre_logits=768),
    Entry("vit-l16-i21k",     _VIT_21K, "Google", "L/16",  224, 21843, 326_740_307,
          "imagenet21k/ViT-L_16", pre_logits=1024),
    Entry("hf-vit-b16-224",   _VIT_1K,  _HF,      "B/16",  224,  1000,  86_567_656, _HF_B),
    Entry("hf-vit-b16-i21k",  _VIT_21K, _HF,      "B/16",  224,     0,  86_389_248,
          _HF_B_21K, pre_logits=768),
    Entry("timm-augreg-ti16", _AUG_1K,  "timm",   "Ti/16", 224,  1000,   5_717_416, _TIMM_TI),
    Entry("timm-augreg-b16",  _AUG_1K,  "timm",   "B/16",  224,  1000,  86_567_656, _TIMM_B),
    Entry("timm-deit-s16",    _DEIT_1K, "timm",   "S/16",  224,  1000,  22_050_664,
          _DEIT_S, normalize="imagenet"),
    Entry("timm-deit-b16",    _DEIT_1K, "timm",   "B/16",  224,  1000,  86_567_656,
          _DEIT_B, normalize="imagenet"),
)
# fmt: on
