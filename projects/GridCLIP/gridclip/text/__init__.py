"""Vocabularies as text: category names, prompts, and CLIP's embeddings of them."""

from gridclip.text.embeddings import TextEmbeddings
from gridclip.text.encoder import (
    Vocabulary,
    as_text_embeddings,
    build_text_embeddings,
    embed_names,
    encode_prompts,
    find_names,
)
from gridclip.text.names import Category, load_categories, prompt_phrases
from gridclip.text.templates import TEMPLATES, get_templates, render_prompts

__all__ = [
    "TEMPLATES",
    "Category",
    "TextEmbeddings",
    "Vocabulary",
    "as_text_embeddings",
    "build_text_embeddings",
    "embed_names",
    "encode_prompts",
    "find_names",
    "get_templates",
    "load_categories",
    "prompt_phrases",
    "render_prompts",
]
