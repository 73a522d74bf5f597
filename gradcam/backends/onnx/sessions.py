"""Sessions of onnxruntime: one for each part of a graph that is asked for, made once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from gradcam.backends.onnx.files import names_of

__all__ = ["Sessions"]

MOST = 8
"""Sessions that are kept: each holds the weights of its part."""


class Sessions:
    """Parts of one model, ready to run.

    folder: where tensors lie that are in files of their own.
    providers: what runs them, by onnxruntime's names; none: whatever it takes first.
    """

    def __init__(self, folder: Path | None, providers: tuple[str, ...]) -> None:
        self._folder = folder
        self._providers = list(providers) or onnxruntime.get_available_providers()
        self._made: OrderedDict[Hashable, Any] = OrderedDict()

    def run(
        self, key: Hashable, make: Callable[[], onnx.ModelProto], feeds: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The outputs of a part, by name."""
        session = self._session(key, make)
        names = names_of(session.get_outputs())
        try:
            values = session.run(names, dict(feeds))
        except Exception as error:  # onnxruntime's own kinds have no common base
            raise RuntimeError(f"onnxruntime: {_line(error)}") from error
        return dict(zip(names, values, strict=True))

    def array(self, tensor: onnx.TensorProto) -> np.ndarray:
        """A tensor's values, those in files of their own too."""
        folder = "" if self._folder is None else str(self._folder)
        return np.asarray(onnx.numpy_helper.to_array(tensor, base_dir=folder))

    def _session(self, key: Hashable, make: Callable[[], onnx.ModelProto]) -> Any:
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if self._folder is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(self._folder)
            )
        try:
            session = onnxruntime.InferenceSession(
                make().SerializeToString(), options, providers=self._providers
            )
        except Exception as error:  # likewise
            raise ValueError(f"onnxruntime cannot load the model: {_line(error)}") from error
        self._made[key] = session
        while len(self._made) > MOST:
            self._made.popitem(last=False)
        return session


def _line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
