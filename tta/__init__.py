"""Test-time augmentation: views as pure functions, named sets of them, and networks that look through them."""

from typing import TYPE_CHECKING, Any

from tta.views import VIEW_SETS, View, view_set

if TYPE_CHECKING:
    from tta.predict import TTA, autocast, view_logits

__all__ = ["TTA", "VIEW_SETS", "View", "autocast", "view_logits", "view_set"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import what needs torch when it is first asked for."""
    if name in {"TTA", "autocast", "view_logits"}:
        from tta import predict  # noqa: PLC0415

        return getattr(predict, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
