"""Whether the gradients of an explanation are those of the model: finite differences say."""

from __future__ import annotations

from gradcam.verification.finite_differences import Check, Verification, verify

__all__ = ["Check", "Verification", "verify"]
