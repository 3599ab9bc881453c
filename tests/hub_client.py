"""The real Hub client in a test, told to talk to a fake Hub."""

import pytest

from tests.hub_server import HubServer

__all__ = ["use_hub"]


def use_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    """Let a test talk to a fake Hub, with an empty HF home, no token, no telemetry and no Xet.

    The client reads most of its environment when it is imported: what it took from there is set as well.
    """
    from huggingface_hub import constants

    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in {"HF_ENDPOINT": hub.url, "HF_HOME": home, "HF_HUB_DISABLE_XET": "1"}.items():
        monkeypatch.setenv(variable, value)
    for constant, value in {
        "ENDPOINT": hub.url,
        "HF_HOME": home,
        "HF_HUB_CACHE": f"{home}/hub",
        "HF_TOKEN_PATH": f"{home}/token",
        "HF_STORED_TOKENS_PATH": f"{home}/stored_tokens",
    }.items():
        monkeypatch.setattr(constants, constant, value)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
