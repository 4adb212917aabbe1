"""opsuite: one terminal for large-model runs.

In a trainer: ``import opsuite; opsuite.watch(model, optimizer)``.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
_PUBLIC = {
    "watch": "watch",
    "busy": "busy",
    "HuggingFaceCallback": "hugging_face_callback",
    "LightningCallback": "lightning_callback",
}
__all__ = ["HuggingFaceCallback", "LightningCallback", "__version__", "busy", "watch"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - as it is there
    if name in _PUBLIC:
        from opsuite import watching

        return getattr(watching, _PUBLIC[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
