"""
Headers by which a gateway in front of several models chooses one, whatever a request's body names.

OpenAI has none. Which of them an upstream obeys nobody here knows, so whoever's models are limited may send none.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

# One of these in a header's name says what it is for, as in `x-litellm-model` or `azureml-model-deployment`. Not a
# route, nor a provider: what stands in front of the proxy tells of them, as Heroku by `total-route-time`.
_WORDS = frozenset({"deployment", "deployments", "fallback", "fallbacks", "model", "models", "routing"})
_OF_THE_WAY = "x-vercel-"  # which has the deployment that a request came by
# By these a gateway finds rules of its own, a key that has some, or where to send a request.
_NAMES = frozenset(
    {
        "helicone-openai-api-base", "helicone-target-url",
        "oe-ai-provider", "oe-gateway-name",  # EdgeOne
        "x-amzn-sagemaker-inference-component", "x-amzn-sagemaker-target-variant",
        "x-bf-api-key", "x-bf-api-key-id", "x-bf-direct-key", "x-bf-passthrough-extra-params", "x-bf-vk",  # Bifrost
        "x-bt-endpoint-name",  # Braintrust
        "x-gateway-destination-endpoint",  # Kubernetes
        "x-litellm-tags",
        "x-provider",  # WSO2
        "x-tfy-metadata", "x-tfy-provider-name",  # TrueFoundry
    }
)  # fmt: skip
# Portkey's choose by nearly everything, and Bifrost passes on what is in the others to whom it has chosen.
_PREFIXES = ("x-bf-eh-", "x-portkey-")
_MOST_REMEMBERED_CHARS = 64


def choosing_header(received: Iterable[tuple[str, str]]) -> str | None:
    """The name of the first header, as sent, by which a gateway might choose the model; None without one."""
    for name, _ in received:
        # Callers choose the names: what is kept of them is short.
        if _chooses(name) if len(name) <= _MOST_REMEMBERED_CHARS else _chooses.__wrapped__(name):
            return name
    return None


@lru_cache(maxsize=1024)
def _chooses(name: str) -> bool:
    # Servers behind may read an underscore as a dash.
    plain = name.lower().replace("_", "-")
    if plain.startswith(_OF_THE_WAY):
        return False
    return plain in _NAMES or plain.startswith(_PREFIXES) or not _WORDS.isdisjoint(plain.split("-"))
