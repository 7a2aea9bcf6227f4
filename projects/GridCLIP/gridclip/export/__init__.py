"""Exports a detector to other engines than PyTorch."""

from .export import Exported, Form, export

__all__ = ["Exported", "Form", "export"]
