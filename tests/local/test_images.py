"""Folders of images become pixels with their folder's class, or are refused in one sentence."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scenarios.errors import ScenarioError
from scenarios.local import images, read_images
from scenarios.task import Split

CLASSES = ("cat", "dog")


def save(file: Path, pixels: object, mode: str | None = None, **options: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels))
    (image if mode is None else image.convert(mode)).save(file, **options)  # type: ignore[arg-type]


def read(folder: Path, *, gray: bool = False) -> Split:
    return read_images(folder, classes=CLASSES, size=(2, 3), gray=gray)


@given(
    pixels=st.lists(
        st.tuples(st.sampled_from(CLASSES), st.binary(min_size=18, max_size=18)), min_size=1, max_size=5
    )
)
@settings(max_examples=20)
def test_what_is_saved_is_what_is_read(
    pixels: list[tuple[str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("images")
    expected = []
    for number, (name, data) in enumerate(pixels):
        values = np.frombuffer(data, np.uint8).reshape(2, 3, 3)
        save(folder / name / f"{number}.png", values)
        expected.append((name, number, values.transpose(2, 0, 1).tolist()))
    split = read(folder)
    assert split.inputs.dtype == torch.uint8
    assert split.inputs.tolist() == [values for _, _, values in sorted(expected)]
    assert split.targets.tolist() == [CLASSES.index(name) for name, _, _ in sorted(expected)]


def test_images_get_the_size_and_the_channels_that_are_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "dog/large.jpg", np.full((40, 60, 3), 200, np.uint8))
    save(tmp_path / "dog/palette.gif", np.full((4, 6), 200, np.uint8))
    save(tmp_path / "dog/deep.png", np.full((4, 6), 200 << 8, np.uint16))
    save(tmp_path / "dog/seen_through.png", np.full((4, 6, 4), 200, np.uint8))
    assert read(tmp_path).inputs.shape == (4, 3, 2, 3)
    gray = read(tmp_path, gray=True).inputs
    assert gray.shape == (4, 1, 2, 3)
    assert gray.float().sub(200).abs().max() <= 1


def test_an_image_stands_as_the_camera_was_held(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = np.zeros((2, 3), np.uint8)
    pixels[0, 0] = 255
    save(tmp_path / "cat/a.png", pixels, exif=exif)
    assert read(tmp_path, gray=True).inputs[0, 0].tolist() == [[0, 0, 0], [0, 0, 255]]


def test_what_is_no_image_by_its_name_is_left_out(tmp_path: Path) -> None:
    save(tmp_path / "cat/a.png", np.zeros((2, 3), np.uint8))
    (tmp_path / "cat/Thumbs.db").write_bytes(b"x")
    (tmp_path / "cat/.a.png").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    (tmp_path / "readme.txt").write_text("x")
    assert read(tmp_path).targets.tolist() == [0]


def test_a_folder_without_folders_has_no_images(tmp_path: Path) -> None:
    assert read(tmp_path).inputs.shape == (0, 3, 2, 3)


def test_mistakes_are_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "dgo").mkdir()
    with pytest.raises(ScenarioError, match=r"'dgo' is no class; did you mean 'dog'\? the classes are: "):
        read(tmp_path)
    (tmp_path / "dgo").rmdir()
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/broken.png").write_bytes(b"no image")
    with pytest.raises(ScenarioError, match=r"broken\.png: cannot be read as an image: cannot identify"):
        read(tmp_path)
    save(tmp_path / "a.png", np.zeros((2, 3), np.uint8))
    with pytest.raises(ScenarioError, match=r"a\.png: images must lie in a folder of their class: cat, dog$"):
        read(tmp_path)
    with pytest.raises(ScenarioError, match=r"images need a folder, with a folder for each class$"):
        read(tmp_path / "a.png")


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "dog/a.png", np.zeros((50, 50, 3), np.uint8))
    whole = (tmp_path / "dog/a.png").read_bytes()
    (tmp_path / "dog/a.png").write_bytes(whole[:-30])
    with pytest.raises(ScenarioError, match=r"a\.png: cannot be read as an image"):
        read(tmp_path)


def test_who_has_no_pillow_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "dog/a.png", np.zeros((2, 3), np.uint8))
    monkeypatch.setitem(sys.modules, "PIL", None)
    images._pillow.cache_clear()
    with pytest.raises(ScenarioError, match=r"^images need Pillow: pip install 'fedlite-mqtt\[images\]'$"):
        read(tmp_path)
