"""A Vision Transformer's forward pass in NumPy, from published files' own tensors.

Equations (1) to (4) of Dosovitskiy et al. 2021 (arXiv 2010.11929) with the attention of its
appendix A, in float64 and in the conventions of the library that a file is of: flax's DenseGeneral
sums over the named axes of [D, n, d] and [n, d, D], PyTorch's Linear computes x W^T + b. Nothing
here knows of this project's layers or names.
"""

import math

import numpy as np

_erf = np.vectorize(math.erf)


def gelu(x, form="exact"):
    """x Phi(x), or its tanh form (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""
    if form == "tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x / np.sqrt(2)))


def layer_norm(x, scale, shift, epsilon):
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon) * scale + shift


def attend(query, key, value):
    """[T, n, d] three times -> [T, n, d]: A = softmax(q k^T / sqrt(d)), then A v, head by head."""
    heads = []
    for head in range(query.shape[1]):
        scores = query[:, head] @ key[:, head].T / np.sqrt(query.shape[2])
        weights = np.exp(scores - scores.max(1, keepdims=True))
        heads.append(weights / weights.sum(1, keepdims=True) @ value[:, head])
    return np.stack(heads, axis=1)


def patches(image, size):
    """The patches of an image [H, W, C], row by row: a list of [P, P, C]."""
    height, width, _ = image.shape
    return [
        image[top : top + size, left : left + size]
        for top in range(0, height, size)
        for left in range(0, width, size)
    ]


def google_logits(file, images, depth, form="tanh"):
    """Of an .npz of google-research/vision_transformer; heads are in the kernels' shapes."""
    p = {name: np.float64(array) for name, array in file.items()}

    def norm(x, name):
        return layer_norm(x, p[f"{name}/scale"], p[f"{name}/bias"], 1e-6)

    def dense(x, name):
        return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    def encode(image):
        kernel = p["embedding/kernel"]
        tokens = [np.einsum("pqc,pqcd->d", x, kernel) for x in patches(image, kernel.shape[0])]
        x = np.stack(tokens) + p["embedding/bias"]
        if "cls" in p:
            x = np.concatenate([p["cls"][0], x])
        x = x + p["Transformer/posembed_input/pos_embedding"][0]
        for i in range(depth):
            block = f"Transformer/encoderblock_{i}"
            attention = f"{block}/MultiHeadDotProductAttention_1"
            y = norm(x, f"{block}/LayerNorm_0")
            query, key, value = (
                np.einsum("tD,Dnd->tnd", y, p[f"{attention}/{part}/kernel"])
                + p[f"{attention}/{part}/bias"]
                for part in ("query", "key", "value")
            )
            y = attend(query, key, value)
            x = x + np.einsum("tnd,ndD->tD", y, p[f"{attention}/out/kernel"])
            x = x + p[f"{attention}/out/bias"]
            y = gelu(dense(norm(x, f"{block}/LayerNorm_2"), f"{block}/MlpBlock_3/Dense_0"), form)
            x = x + dense(y, f"{block}/MlpBlock_3/Dense_1")
        x = norm(x, "Transformer/encoder_norm")
        x = x[0] if "cls" in p else x.mean(0)
        if "pre_logits/kernel" in p:
            x = np.tanh(dense(x, "pre_logits"))
        return dense(x, "head")

    return np.stack([encode(np.float64(image)) for image in images])


def hugging_face_logits(file, images, depth, num_heads):
    """Of a model.safetensors of transformers' ViTForImageClassification."""
    return _torch_logits(
        file, images, depth, num_heads, 1e-12,
        patch="vit.embeddings.patch_embeddings.projection",
        cls="vit.embeddings.cls_token",
        positions="vit.embeddings.position_embeddings",
        block="vit.encoder.layer.{}.",
        norms=("layernorm_before", "layernorm_after"),
        qkv=lambda p, y, block: [
            y @ p[f"{block}attention.attention.{part}.weight"].T
            + p[f"{block}attention.attention.{part}.bias"]
            for part in ("query", "key", "value")
        ],
        layers=("attention.output.dense", "intermediate.dense", "output.dense"),
        last=("vit.layernorm", "classifier"),
    )  # fmt: skip


def timm_logits(file, images, depth, num_heads):
    """Of a safetensors file of timm's VisionTransformer: query, key, value are one product."""
    return _torch_logits(
        file, images, depth, num_heads, 1e-6,
        patch="patch_embed.proj",
        cls="cls_token",
        positions="pos_embed",
        block="blocks.{}.",
        norms=("norm1", "norm2"),
        qkv=lambda p, y, block: (
            (y @ p[f"{block}attn.qkv.weight"].T + p[f"{block}attn.qkv.bias"])
            .reshape(len(y), 3, -1)
            .transpose(1, 0, 2)
        ),
        layers=("attn.proj", "mlp.fc1", "mlp.fc2"),
        last=("norm", "head"),
    )  # fmt: skip


def _torch_logits(
    file, images, depth, num_heads, epsilon, *,
    patch, cls, positions, block, norms, qkv, layers, last,
):  # fmt: skip
    p = {name: np.float64(array) for name, array in file.items()}

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(x, name):
        return layer_norm(x, p[f"{name}.weight"], p[f"{name}.bias"], epsilon)

    def encode(image):
        kernel = p[f"{patch}.weight"]
        tokens = [np.einsum("pqc,dcpq->d", x, kernel) for x in patches(image, kernel.shape[2])]
        x = np.concatenate([p[cls][0], np.stack(tokens) + p[f"{patch}.bias"]]) + p[positions][0]
        out, first, second = layers
        for i in range(depth):
            here = block.format(i)
            y = norm(x, here + norms[0])
            query, key, value = (z.reshape(len(x), num_heads, -1) for z in qkv(p, y, here))
            x = x + linear(attend(query, key, value).reshape(len(x), -1), here + out)
            x = x + linear(gelu(linear(norm(x, here + norms[1]), here + first)), here + second)
        return linear(norm(x, last[0])[0], last[1])

    return np.stack([encode(np.float64(image)) for image in images])
