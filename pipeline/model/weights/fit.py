"""What a network takes of published weights, and a report of it by name.

Decided here:

- The head is kept where it has as many classes and stands on the same pre-logits layer, or on none;
  else it is dropped, and ours begins as in any new run.
- A pre-logits layer is taken where the network has one of its size, and left out elsewhere.
- A class token is left out where `model.pool` is another than token, with its position. A file
  without one does not fit a network that has one: a token that no block has ever seen would have
  to be learned from nothing.
- A class token without a position of its own (big_vision's today) gets one of zeros, which is the
  same network.
- The form of the GELU is the recipe's. Where the file's is the other, that is said: after
  fine-tuning it hardly matters, before it the logits differ a little.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from pipeline.errors import SettingsError
from pipeline.model.architecture import SIZES, Architecture
from pipeline.model.weights.layouts import PATCHES, POSITIONS, Arrays
from pipeline.model.weights.published import TOKEN, Normalization, Published
from pipeline.model.weights.resample import resample_patches, resample_positions

Shapes = Mapping[str, tuple[int, ...]]

_ROOT = "vit/"
_HEAD, _PRE_LOGITS = ("head/kernel", "head/bias"), ("pre_logits/kernel", "pre_logits/bias")
_BLOCKS = "blocks"
_LISTED = 6

_SAME_PIXELS = 2e-3  # between two ways to write the same mean or deviation


@dataclass
class Fitted:
    """Weights for a network's variables, and what was done to get them.

    Attributes:
      weights: By the variable's path; shapes are the variables'.
      resampled: Lines of path and sizes.
      dropped: Tensors of the head that is not taken, as the file calls them, and why.
      left_out: Others of the file that are not taken, and why.
      initial: Variables that keep their initial values.
      notes: What else is worth knowing.
    """

    weights: Arrays
    resampled: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    initial: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """What was loaded, resampled, dropped and left out, by name: a line each."""
        loaded = [name for name in self.weights if name not in self.resampled]
        lines = {
            f"loaded {len(loaded)}": group_names(loaded, [*self.weights, *self.initial]),
            "resampled": [f"{name} {how}" for name, how in self.resampled.items()],
            "dropped": self.dropped,
            "left out": self.left_out,
            "keep their initial values": self.initial,
        }
        said = [f"  {what}: {', '.join(names)}" for what, names in lines.items() if names]
        return "\n".join([*said, *(f"  note: {note}" for note in self.notes)])


def fit_weights(
    published: Published, shapes: Shapes, arch: Architecture, image_size: int, origin: str
) -> Fitted:
    """Makes of published weights those of a network.

    Args:
      published: The file's.
      shapes: Of the network's variables, by path.
      arch: Of the network.
      image_size: Pixels a side.
      origin: The setting, for errors.

    Raises:
      SettingsError: The networks differ; the sizes and parameters that do are named, and the
        settings that would fit.
    """
    here = {name.removeprefix(_ROOT): shape for name, shape in shapes.items()}
    check_same_network(published, arch, origin, here)
    weights = dict(published.weights)
    fitted = Fitted(weights, notes=[*published.notes, *_notes(published, arch)])
    fitted.left_out += _group_left_out(published.left_out)
    _fit_patches(fitted, arch.patch_size)
    _fit_token(fitted, published, arch)
    _fit_positions(fitted, published, image_size // arch.patch_size)
    _fit_head(fitted, published, here)
    fitted.initial = [name for name in here if name not in weights and _is_head(name)]
    if wrong := list(_differences(weights, here, published.names)):
        raise SettingsError(_say_different(origin, wrong))
    fitted.weights = {_ROOT + n: np.ascontiguousarray(weights[n]) for n in here if n in weights}
    fitted.resampled = {_ROOT + name: how for name, how in fitted.resampled.items()}
    fitted.initial = [_ROOT + name for name in fitted.initial]
    return fitted


def check_same_network(
    published: Published, arch: Architecture, origin: str, here: Shapes | None = None
) -> None:
    """Refuses weights of another network than these settings'.

    Args:
      published: The file's.
      arch: Of the network.
      origin: The setting, for errors.
      here: Shapes of its variables, without the leading `vit/`; None where it is not built.

    Raises:
      SettingsError: With what differs, and the settings that would fit.
    """
    there = published.size
    wrong = [
        f"{name}: {size} in the file, {getattr(arch, name)} here"
        for name, size in there.items()
        if name != "patch_size" and size != getattr(arch, name)
    ]
    if wrong:
        tensors = _differences(published.weights, here or {}, published.names)
        wrong += [] if here is None else [line for line in tensors if _tells(line)]
        raise SettingsError(_say_different(origin, wrong, _settings_for(there)))
    if arch.mlp_activates_output:
        raise SettingsError(
            f"{origin}: model.variant=keras_example has a GELU after the second layer of each MLP, "
            "which no published ViT has. Choose another model.variant"
        )
    if arch.stem != "patches":
        raise SettingsError(
            f"{origin}: its network makes a token of each patch: set model.stem=patches"
        )
    learned = POSITIONS in published.weights
    if learned != (arch.positions == "learned"):
        kind, words = ("learned", "learned") if learned else ("sincos2d", "no learned")
        raise SettingsError(
            f"{origin}: its network has {words} positions: set model.positions={kind}"
        )
    if arch.pool == "token" and TOKEN not in published.weights:
        raise SettingsError(f"{origin}: its network has no class token: set model.pool=mean")


def normalization_note(
    before: Normalization | None, here: Normalization, known: Mapping[str, Normalization]
) -> str | None:
    """What to say where the pixels are normalized otherwise than when the weights were trained.

    Args:
      before: Mean and deviation then; None where nobody knows.
      here: Mean and deviation that the recipe leads to.
      known: Those that `data.normalize` has a name for.
    """
    if before is None:
        return None
    there = np.array(before)
    if np.allclose(there, here, atol=_SAME_PIXELS):
        return None
    mean, deviation, own_mean, own_deviation = (
        " ".join(f"{x:.3g}" for x in row) for row in (*there, *here)
    )
    fitting = (n for n, own in known.items() if np.allclose(there, own, atol=_SAME_PIXELS))
    name = next(fitting, None)
    advice = (
        "data.normalize has no name for the former, and training adapts the weights"
        if name is None
        else f"data.normalize={name} keeps the former"
    )
    return (
        f"its pixels were normalized by mean {mean} and deviation {deviation}, here by mean "
        f"{own_mean} and deviation {own_deviation}: {advice}"
    )


def group_names(names: Iterable[str], every: Iterable[str]) -> list[str]:
    """Short for many paths: `vit/norm/*` for all of a layer, `vit/block_0..11/*` for all blocks.

    Args:
      names: To be shortened, in their order.
      every: All that the network has.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_group(name), []).append(name)
    sizes = Counter(_group(name) for name in every)
    depth = len({name.split("/")[1] for name in groups.get(_BLOCKS, [])})
    title = {_BLOCKS: f"vit/block_0..{depth - 1}/*"}
    return [
        part
        for group, members in groups.items()
        for part in ([title.get(group, group)] if len(members) == sizes[group] else members)
    ]


def _group(name: str) -> str:
    layer = "/".join(name.split("/")[:2])
    return _BLOCKS if re.fullmatch(r"vit/block_\d+", layer) else f"{layer}/*"


def _fit_patches(fitted: Fitted, patch_size: int) -> None:
    kernel = fitted.weights[PATCHES]
    old = len(kernel)
    if old != patch_size:
        kernel = resample_patches(kernel, patch_size)
        fitted.resampled[PATCHES] = f"{old}x{old} -> {patch_size}x{patch_size} pixels"
    fitted.weights[PATCHES] = kernel.reshape(-1, kernel.shape[-1])  # [P, P, C, D] -> [P*P*C, D]


def _fit_token(fitted: Fitted, published: Published, arch: Architecture) -> None:
    """Makes token and positions, where there are any, those that `pool` needs."""
    weights, names = fitted.weights, published.names
    positions = weights.get(POSITIONS)
    if arch.pool == "token":
        if positions is not None and not published.token_has_position:
            weights[POSITIONS] = np.pad(positions, ((1, 0), (0, 0)))  # [N, D] -> [1 + N, D]
            fitted.notes.append("its class token has no position: here one of zeros, the same")
        return
    if weights.pop(TOKEN, None) is not None:
        fitted.left_out.append(f"{names[TOKEN]} (model.pool={arch.pool} has no class token)")
    if positions is not None and published.token_has_position:
        weights[POSITIONS] = positions[1:]
        fitted.left_out.append(f"the first row of {names[POSITIONS]}, which is the class token's")


def _fit_positions(fitted: Fitted, published: Published, side: int) -> None:
    old = published.grid
    if old in (0, side):
        return
    positions = fitted.weights[POSITIONS]
    first, grid = positions[: -(old**2)], positions[-(old**2) :]
    grid = resample_positions(grid.reshape(old, old, -1), side, side)
    grid = grid.reshape(side**2, -1)  # [h, w, D] -> [N, D]
    fitted.weights[POSITIONS] = np.concatenate([first, grid])
    fitted.resampled[POSITIONS] = f"{old}x{old} -> {side}x{side}"


def _fit_head(fitted: Fitted, published: Published, here: Shapes) -> None:
    weights, names = fitted.weights, published.names
    layer = weights.get(_PRE_LOGITS[0])
    before, now = None if layer is None else layer.shape, here.get(_PRE_LOGITS[0])
    if before is not None and before != now:
        for name in _PRE_LOGITS:
            if weights.pop(name, None) is not None:
                fitted.left_out.append(names[name])
        fitted.notes.append(f"model.pre_logits={before[-1]} would take its pre-logits layer")
    same = all(name in weights and weights[name].shape == here.get(name) for name in _HEAD)
    if same and before == now:
        return
    dropped = [names[name] for name in _HEAD if weights.pop(name, None) is not None]
    if dropped:
        classes = here[_HEAD[1]][0]
        why = (
            f"{published.num_classes:,} classes there, {classes:,} here"
            if published.num_classes != classes
            else "it stands on other features"
        )
        fitted.dropped.append(f"{', '.join(dropped)} ({why})")


def _is_head(name: str) -> bool:
    return re.match(r"(head(_\d+)?|pre_logits)/", name) is not None


def _notes(published: Published, arch: Architecture) -> Iterator[str]:
    if published.gelu != arch.gelu:
        yield f"it was trained with model.gelu={published.gelu}, here it is {arch.gelu}"
    if published.pool != arch.pool:
        sees = {"token": "the class token", "mean": "the mean of the tokens"}[published.pool]
        yield f"its head saw {sees}, here model.pool={arch.pool}"


def _differences(weights: Arrays, here: Shapes, names: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(weights.keys() | here.keys()):
        there, shape = weights.get(name), here.get(name)
        if there is None and not _is_head(name):
            yield f"{_ROOT}{name}: not in the file"
        elif there is not None and shape is None:
            yield f"{names[name]}: only in the file"
        elif there is not None and there.shape != shape:
            yield f"{_ROOT}{name}: {there.shape} in the file, {shape} here"


def _tells(line: str) -> bool:
    """Whether a difference is none of those that are made up for: patches, positions, head."""
    return not re.match(r"vit/(patch_embedding/kernel|position_embedding|head)", line)


def _settings_for(size: Mapping[str, int]) -> str:
    """The settings of a network of this size: a variant where one is so."""
    sizes = {k: v for k, v in size.items() if k != "patch_size"}
    for name, arch in SIZES.items():
        if all(getattr(arch, key) == value for key, value in sizes.items()):
            return f"model.variant={name}/{size['patch_size']}"
    return " ".join(f"model.{key}={value}" for key, value in size.items())


def _say_different(origin: str, wrong: list[str], settings: str = "") -> str:
    more = [f"and {len(wrong) - _LISTED} more"] if len(wrong) > _LISTED else []
    lines = "\n  ".join(wrong[:_LISTED] + more)
    fits = f"\nIts network is {settings}" if settings else ""
    return f"{origin} is of another network than the recipe's:\n  {lines}{fits}"


def _group_left_out(names: Iterable[str]) -> list[str]:
    """An optimizer's hundreds of tensors as one entry."""
    groups = dict.fromkeys("/".join(name.split("/")[:2]) for name in names)
    return [f"{group}/*" if group not in names else group for group in groups]
