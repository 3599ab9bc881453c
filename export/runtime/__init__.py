"""ONNX Runtime sessions over exported graphs: the provider asked for is the one got, or an error says why not."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.runtime.answer import Answer
    from export.runtime.cascade import CascadeSession
    from export.runtime.open import open_session
    from export.runtime.session import Session

__all__ = ["Answer", "CascadeSession", "Session", "open_session"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import what needs ONNX Runtime when it is first asked for."""
    homes = {"Answer": "answer", "CascadeSession": "cascade", "Session": "session", "open_session": "open"}
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"export.runtime.{homes[name]}"), name)
