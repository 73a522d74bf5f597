"""Whether the gradients of an explanation are those of the model, checked by finite differences."""

from __future__ import annotations

from gradcam.verification.finite_differences import verify
from gradcam.verification.report import Check, Verification

__all__ = ["Check", "Verification", "verify"]
