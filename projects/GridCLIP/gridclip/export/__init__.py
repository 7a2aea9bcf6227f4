"""Exports a detector to other engines than PyTorch."""

from .export import Form, export

__all__ = ["Form", "export"]
