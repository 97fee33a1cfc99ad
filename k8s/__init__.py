"""Kustomize bases, a folder a way to run; `vit submit` renders from them. Not to be imported."""
