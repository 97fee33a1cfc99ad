"""Converts published weights to the variables of a network, and reports the result by name.

Rules:

- The head is loaded if it has the same number of classes and the same pre-logits layer (or none on
  both sides). Otherwise it is dropped, and the head starts from its initial weights.
- A pre-logits layer is loaded if the network has one of the same size, and ignored otherwise.
- A class token and its position are ignored unless `model.pool` is token. A file without a class
  token is rejected for a network that has one: the token would have to be learned from scratch.
- A class token without a position (as in current big_vision) gets a position of zeros, which is
  equivalent.
- The recipe decides the form of the GELU. A note is added if the file was trained with the other
  form: the logits differ slightly at first, and hardly at all after fine-tuning.
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

_SAME_PIXELS = 2e-3  # tolerance between differently rounded means or deviations


@dataclass
class Fitted:
    """Weights for the variables of a network, and how they were obtained.

    Attributes:
      weights: By path of the variable, in the shape of the variable.
      resampled: Old and new size, by path.
      dropped: Tensors of a head that was not loaded, as named in the file, and the reason.
      left_out: Other tensors of the file that were not loaded, and the reason.
      initial: Paths of the variables that keep their initial values.
      notes: Other remarks for the user.
    """

    weights: Arrays
    resampled: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    initial: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """One line each for what was loaded, resampled, dropped and left out, by name."""
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
    """Converts published weights to those of a network.

    Args:
      published: Weights of the file.
      shapes: Shapes of the network's variables, by path.
      arch: Shape of the network.
      image_size: Height and width of the images in pixels.
      origin: The setting that names the file, for error messages.

    Raises:
      SettingsError: The networks differ. The message names the sizes and parameters that differ,
        and the settings that would match.
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
        raise SettingsError(_mismatch_message(origin, wrong))
    fitted.weights = {_ROOT + n: np.ascontiguousarray(weights[n]) for n in here if n in weights}
    fitted.resampled = {_ROOT + name: how for name, how in fitted.resampled.items()}
    fitted.initial = [_ROOT + name for name in fitted.initial]
    return fitted


def check_same_network(
    published: Published, arch: Architecture, origin: str, here: Shapes | None = None
) -> None:
    """Rejects weights of a network that differs from the settings.

    Args:
      published: Weights of the file.
      arch: Shape of the network.
      origin: The setting that names the file, for error messages.
      here: Shapes of the network's variables without the prefix `vit/`, or None if it has not been
        built.

    Raises:
      SettingsError: The networks differ. The message names the differences and the settings that
        would match.
    """
    there = published.size
    wrong = [
        f"{name}: {size} in the file, {getattr(arch, name)} here"
        for name, size in there.items()
        if name != "patch_size" and size != getattr(arch, name)
    ]
    if wrong:
        tensors = _differences(published.weights, here or {}, published.names)
        wrong += [] if here is None else [line for line in tensors if _is_mismatch(line)]
        raise SettingsError(_mismatch_message(origin, wrong, _settings_for(there)))
    if arch.mlp_activates_output:
        raise SettingsError(
            f"{origin}: model.variant=keras_example has a GELU after the second layer of each MLP, "
            "which no published ViT has. Choose another model.variant"
        )
    if arch.stem != "patches":
        raise SettingsError(
            f"{origin}: its network has a linear patch embedding. Set model.stem=patches"
        )
    learned = POSITIONS in published.weights
    if learned != (arch.positions == "learned"):
        kind, words = ("learned", "learned") if learned else ("sincos2d", "no learned")
        raise SettingsError(
            f"{origin}: its network has {words} positions. Set model.positions={kind}"
        )
    if arch.pool == "token" and TOKEN not in published.weights:
        raise SettingsError(f"{origin}: its network has no class token. Set model.pool=mean")


def normalization_note(
    before: Normalization | None, here: Normalization, known: Mapping[str, Normalization]
) -> str | None:
    """A note for the user if the weights were trained with a different pixel normalization.

    Args:
      before: Mean and deviation used to train the weights, or None if unknown.
      here: Mean and deviation that the recipe uses.
      known: Mean and deviation of each value of `data.normalize`.
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
        "no value of data.normalize matches, and training will adapt the weights"
        if name is None
        else f"data.normalize={name} would match"
    )
    return (
        f"it was trained on pixels normalized by mean {mean} and deviation {deviation}, but this "
        f"recipe uses mean {own_mean} and deviation {own_deviation}: {advice}"
    )


def group_names(names: Iterable[str], every: Iterable[str]) -> list[str]:
    """Shortens a list of paths: `vit/norm/*` is all of a layer, `vit/block_0..11/*` all blocks.

    Args:
      names: Paths to shorten, in order.
      every: All paths of the network.
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
    """Adds or removes the class token and its position to match `model.pool`."""
    weights, names = fitted.weights, published.names
    positions = weights.get(POSITIONS)
    if arch.pool == "token":
        if positions is not None and not published.token_has_position:
            weights[POSITIONS] = np.pad(positions, ((1, 0), (0, 0)))  # [N, D] -> [1 + N, D]
            fitted.notes.append("its class token has no position, so a position of zeros was added")
        return
    if weights.pop(TOKEN, None) is not None:
        fitted.left_out.append(f"{names[TOKEN]} (model.pool={arch.pool} has no class token)")
    if positions is not None and published.token_has_position:
        weights[POSITIONS] = positions[1:]
        fitted.left_out.append(f"the first row of {names[POSITIONS]}, for the class token")


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
        fitted.notes.append(f"model.pre_logits={before[-1]} would load its pre-logits layer")
    same = all(name in weights and weights[name].shape == here.get(name) for name in _HEAD)
    if same and before == now:
        return
    dropped = [names[name] for name in _HEAD if weights.pop(name, None) is not None]
    if dropped:
        classes = here[_HEAD[1]][0]
        why = (
            f"{published.num_classes:,} classes in the file, {classes:,} here"
            if published.num_classes != classes
            else "its input features differ"
        )
        fitted.dropped.append(f"{', '.join(dropped)} ({why})")


def _is_head(name: str) -> bool:
    return re.match(r"(head(_\d+)?|pre_logits)/", name) is not None


def _notes(published: Published, arch: Architecture) -> Iterator[str]:
    if published.gelu != arch.gelu:
        yield f"it was trained with model.gelu={published.gelu}, but this recipe uses {arch.gelu}"
    if published.pool != arch.pool:
        pooled = {"token": "the class token", "mean": "the mean of the tokens"}[published.pool]
        yield f"its head was trained on {pooled}, but this recipe has model.pool={arch.pool}"


def _differences(weights: Arrays, here: Shapes, names: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(weights.keys() | here.keys()):
        there, shape = weights.get(name), here.get(name)
        if there is None and not _is_head(name):
            yield f"{_ROOT}{name}: not in the file"
        elif there is not None and shape is None:
            yield f"{names[name]}: only in the file"
        elif there is not None and there.shape != shape:
            yield f"{_ROOT}{name}: {there.shape} in the file, {shape} here"


def _is_mismatch(line: str) -> bool:
    """Whether a difference cannot be resolved by resampling or by dropping the head."""
    return not re.match(r"vit/(patch_embedding/kernel|position_embedding|head)", line)


def _settings_for(size: Mapping[str, int]) -> str:
    """The settings of a network of this size, as a variant if there is one."""
    sizes = {k: v for k, v in size.items() if k != "patch_size"}
    for name, arch in SIZES.items():
        if all(getattr(arch, key) == value for key, value in sizes.items()):
            return f"model.variant={name}/{size['patch_size']}"
    return " ".join(f"model.{key}={value}" for key, value in size.items())


def _mismatch_message(origin: str, wrong: list[str], settings: str = "") -> str:
    more = [f"and {len(wrong) - _LISTED} more"] if len(wrong) > _LISTED else []
    lines = "\n  ".join(wrong[:_LISTED] + more)
    fits = f"\nSettings that match the file: {settings}" if settings else ""
    return f"{origin} holds weights of a different network than the recipe's:\n  {lines}{fits}"


def _group_left_out(names: Iterable[str]) -> list[str]:
    """Groups the hundreds of tensors of an optimizer into one entry."""
    groups = dict.fromkeys("/".join(name.split("/")[:2]) for name in names)
    return [f"{group}/*" if group not in names else group for group in groups]
