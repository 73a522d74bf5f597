"""Explanations where experiments are followed: with the packages themselves."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import gradcam
from gradcam import Comparison, Explanation


def make(method="grad-cam"):
    maps = np.random.default_rng(0).random((2, 6, 8))
    return Explanation(maps, np.ones(2), np.array([0, 1]), size=(24, 32), method=method)


def photos():
    return [np.full((24, 32, 3), 200, np.uint8)] * 2


def images_of(folder):
    """By tag and step, the images of a folder of TensorBoard's events."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = loader.EventAccumulator(str(folder), {loader.IMAGES: 0})
    events.Reload()
    found = {}
    for tag in events.Tags()["images"]:
        for image in events.Images(tag):
            found[tag, image.step] = Image.open(io.BytesIO(image.encoded_image_string))
    return found


@pytest.fixture
def writer(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    pytest.importorskip("torch")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "events")) as found:
        yield found


def test_a_summary_writer_gets_the_figure(writer, tmp_path):
    gradcam.log(make(), writer, name="cats", step=3, photos=photos())
    gradcam.log(Comparison({"a": make(), "b": make()}), writer, "both", step=4)
    writer.flush()
    found = images_of(tmp_path / "events")
    assert set(found) == {("cats", 3), ("both", 4)}
    assert found["cats", 3].width > 400


class Writer:
    def add_image(self, name, pixels, global_step, dataformats):
        self.got = name, pixels, global_step, dataformats


def test_whatever_takes_images_gets_the_pixels():
    writer = Writer()
    gradcam.log(make(), writer, step=2)
    name, pixels, step, order = writer.got
    assert (name, step, order) == ("gradcam", 2, "HWC")
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


def test_mlflow_gets_the_files(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow-skinny")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with mlflow.start_run() as run:
        gradcam.log(make(), mlflow, "cats", 7, photos())
    folder = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, dst_path=str(tmp_path / "got")
    )
    found = Explanation.load(f"{folder}/cats/000007")
    np.testing.assert_array_equal(found.maps, make().maps)


def test_a_folder_gets_the_files(tmp_path):
    gradcam.log(make(), tmp_path, step=1)
    gradcam.log(Comparison({"a": make("a"), "b": make("b")}), tmp_path, "both", photos=photos())
    assert Explanation.load(tmp_path / "gradcam" / "000001").method == "grad-cam"
    assert Explanation.load(tmp_path / "both" / "final" / "b").method == "b"


def test_what_cannot_be_logged_to():
    with pytest.raises(TypeError, match="`to` of type int is nothing to log to; pass a Summary"):
        gradcam.log(make(), 3)
    with pytest.raises(TypeError, match="`step`"):
        gradcam.log(make(), "folder", step=1.5)


# --------------------------------------------------------------------------------------- callbacks


@pytest.mark.filterwarnings("ignore")  # Lightning's own, of its own defaults
def test_lightning_explains_the_same_samples_every_few_epochs(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    lightning = pytest.importorskip("pytorch_lightning", reason="needs pytorch-lightning")
    from gradcam.tracking.lightning import ExplainCallback

    class Net(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(
                torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
                torch.nn.Dropout(0.5), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
                torch.nn.Linear(4, 2),
            )  # fmt: skip
            self.net[1].eval()  # frozen by the user

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch):
            return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def trained(callbacks, folder):
        lightning.seed_everything(0, verbose=False)
        images, labels = torch.randn(16, 3, 12, 12), torch.arange(16) % 2
        data = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(images, labels), batch_size=8, shuffle=True
        )
        model = Net()
        trainer = lightning.Trainer(
            max_epochs=4, accelerator="cpu", callbacks=callbacks, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False,
            logger=lightning.loggers.TensorBoardLogger(str(folder), version=0),
        )  # fmt: skip
        trainer.fit(model, data)
        return model, trainer, images

    alone, _, images = trained([], tmp_path / "alone")
    callback = ExplainCallback(images[:2], every=2, name="fixed", target=1, layer="net.2")
    model, trainer, _ = trained([callback], tmp_path / "with")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, alone.state_dict()[name], rtol=0, atol=0)
    assert not model.net[1].training
    found = images_of(trainer.logger.log_dir)
    assert set(found) == {("fixed", 2), ("fixed", 4)}
    with pytest.raises(ValueError, match="`every` must be"):
        ExplainCallback(images, every=0)


def test_keras_explains_the_same_samples_every_few_epochs(tmp_path):
    keras = pytest.importorskip("keras")
    from gradcam.tracking.keras import ExplainCallback

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = np.random.default_rng(0).random((8, 12, 12, 3)).astype("float32")
    callback = ExplainCallback(images[:2], tmp_path, every=2, layer="conv", target=1, check=False)
    model.fit(images, np.arange(8) % 2, epochs=5, verbose=0, callbacks=[callback])
    assert sorted(path.name for path in (tmp_path / "gradcam").iterdir()) == ["000002", "000004"]
    first = Explanation.load(tmp_path / "gradcam" / "000002")
    later = Explanation.load(tmp_path / "gradcam" / "000004")
    assert not np.array_equal(first.scores, later.scores)
    assert first.layer == "conv"
