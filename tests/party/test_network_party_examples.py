"""Inputs of an owner: archives, folders of images and tables give the same arrays, and bad ones are named."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.errors import FragmentError, InvalidOption
from quiltwork.party.examples import Examples, bounds_of
from quiltwork.party.images import held_out, open_examples

PIXELS = np.random.default_rng(0).integers(0, 256, size=(6, 4, 5), dtype=np.uint8)
LABELS = np.array([3, 10, 3, 10, 3, 3])


def archive(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def folder(root: Path, pixels: np.ndarray = PIXELS, suffix: str = "png") -> Path:
    image = pytest.importorskip("PIL.Image")
    for number, (one, label) in enumerate(zip(pixels, LABELS, strict=True)):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        image.fromarray(one).save(root / str(label) / f"{number}.{suffix}")
    return root


# Reading


def test_an_archive_is_read_as_it_stands(tmp_path: Path) -> None:
    found = open_examples([archive(tmp_path / "a.npz", inputs=PIXELS, labels=LABELS)], units="0..255")
    assert found.shape == (1, 4, 5)
    assert found.classes == ("3", "10")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 0]
    assert found.inputs(0, 6).dtype == np.float32
    assert np.array_equal(found.inputs(0, 6)[:, 0], PIXELS)
    assert (len(found), found.outputs) == (6, 2)


def test_a_folder_of_images_is_the_same_inputs_by_class(tmp_path: Path) -> None:
    found = open_examples([folder(tmp_path / "scans")], units="0..1")
    order = np.argsort([f"{label}/{number}" for number, label in enumerate(LABELS)], kind="stable")
    assert found.classes == ("3", "10")
    assert found.labels is not None
    assert found.labels.tolist() == [0 if LABELS[i] == 3 else 1 for i in order]
    assert np.allclose(found.inputs(0, 6)[:, 0], PIXELS[order] / 255, atol=1e-7)
    assert found.inputs(0, 6).max() <= 1.0
    signed = open_examples([tmp_path / "scans"], units="-1..1")
    assert np.allclose(signed.inputs(0, 6)[:, 0], PIXELS[order] / 127.5 - 1, atol=1e-6)
    raw = open_examples([tmp_path / "scans"], units="0..255", channels=3, size=(2, 2))
    assert raw.shape == (3, 2, 2)
    assert raw.values.dtype == np.uint8


def test_colour_images_have_their_channels_first(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, size=(6, 4, 5, 3), dtype=np.uint8)
    found = open_examples([folder(tmp_path / "scans", colours)], units="0..255")
    order = np.argsort([f"{label}/{number}" for number, label in enumerate(LABELS)], kind="stable")
    assert np.array_equal(found.inputs(0, 6), colours[order].transpose(0, 3, 1, 2))


def test_a_table_gives_vectors_and_a_shape_makes_images_of_them(tmp_path: Path) -> None:
    lines = ["a,b,c,d,kind"] + [f"0.{i},0.5,1,0,{'no' if i % 2 else 'yes'}" for i in range(5)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    found = open_examples([tmp_path / "t.csv"], units="0..1", target="kind", shape=(1, 2, 2))
    assert (found.shape, found.classes) == ((1, 2, 2), ("no", "yes"))
    assert np.allclose(found.inputs(3, 4).ravel(), [0.3, 0.5, 1.0, 0.0])
    numbers = open_examples([tmp_path / "t.csv"], units="any", task="regression", target="a", features=["b", "c"])
    assert numbers.classes is None
    assert numbers.labels is not None
    assert np.allclose(numbers.labels[:, 0], [0.0, 0.1, 0.2, 0.3, 0.4])
    assert open_examples([tmp_path / "t.csv"], units="any", features=["a"]).labels is None


def test_numbers_to_predict_come_from_archives_too(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", inputs=np.eye(3), labels=np.array([[0.5, 1.0]] * 3))
    found = open_examples([path], units="0..1", task="regression")
    assert (found.outputs, found.classes) == (2, None)


# Rows held out


@given(n=st.integers(2, 60), share=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_held_out_rows_and_the_others_are_all_rows_once(n: int, share: float, seed: int) -> None:
    examples = Examples("memory", np.arange(n, dtype=np.float64)[:, None], "any")
    if not 0 < round(share * n) < n:
        with pytest.raises(InvalidOption, match="one side empty"):
            held_out(examples, share, seed)
        return
    kept, held = held_out(examples, share, seed)
    again = held_out(examples, share, seed)[1]
    assert np.array_equal(held.values, again.values)
    assert len(held) == round(share * n)
    both = np.concatenate([kept.values, held.values]).ravel()
    assert sorted(both.tolist()) == list(range(n))
    assert (np.diff(kept.values.ravel()) > 0).all()


def test_batches_are_all_rows_in_their_order() -> None:
    examples = Examples("memory", np.arange(10.0)[:, None], "any", np.arange(10) % 2, ("a", "b"))
    found = list(examples.batches(4))
    assert [len(batch.inputs) for batch in found] == [4, 4, 2]
    assert np.concatenate([batch.inputs for batch in found]).ravel().tolist() == list(range(10))


# Refusals


@pytest.mark.parametrize(
    ("arrays", "options", "why"),
    [
        ({"inputs": np.eye(3), "labels": np.arange(3), "more": np.eye(2)}, {}, "other arrays"),
        ({"labels": np.arange(3)}, {}, "other arrays"),
        ({"inputs": np.eye(3), "labels": np.array([1, "a", None], dtype=object)}, {}, "no whole NumPy|objects"),
        ({"inputs": np.array(["a", "b"])}, {}, "not of numbers"),
        ({"inputs": np.zeros(3)}, {}, "shape"),
        ({"inputs": np.zeros((0, 3))}, {}, "no rows"),
        ({"inputs": np.eye(3), "labels": np.arange(4)}, {}, "4 labels for 3"),
        ({"inputs": np.eye(3), "labels": np.zeros(3, dtype=int)}, {}, "fewer than two"),
        ({"inputs": np.eye(3), "labels": np.array([0.5, 1, 2])}, {}, "whole numbers or text"),
        ({"inputs": np.eye(3), "labels": np.array([0, 1, 7])}, {"classes": ("0", "1")}, "row 3.*none of the classes"),
        ({"inputs": np.eye(3), "labels": np.array(["a", "b", "a"])}, {"task": "regression"}, "no .n. or .n, q."),
        ({"inputs": 2 * np.eye(3), "labels": np.arange(3)}, {}, "row 1.*outside the declared units 0..1"),
        ({"inputs": np.eye(3) - 2 * (np.arange(3) == 1)[:, None]}, {}, "row 2.*outside"),
        ({"inputs": np.where(np.eye(3) > 0, np.nan, 0.0)}, {}, "row 1.*NaN"),
        ({"inputs": np.eye(3), "labels": np.array([0.0, np.nan, 1.0])}, {"task": "regression"}, "row 2.*label"),
    ],
)
def test_bad_archives_are_refused_by_file_and_row(
    tmp_path: Path, arrays: dict[str, Any], options: dict[str, Any], why: str
) -> None:
    path = archive(tmp_path / "a.npz", **arrays)
    with pytest.raises(FragmentError, match=why) as caught:
        open_examples([path], units="0..1", **options)
    assert str(path) in caught.value.what
    assert caught.value.__cause__ is None


def test_no_pickle_in_an_archive_is_ever_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return open, (str(tmp_path / "ran"), "w")  # type: ignore[return-value]

    path = archive(tmp_path / "a.npz", inputs=np.array([Trap()], dtype=object))
    with pytest.raises(FragmentError):
        open_examples([path], units="0..1")
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_declares_more_than_it_holds_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(data, {"descr": "<f8", "fortran_order": False, "shape": (2**36, 3)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("inputs.npy", data.getvalue())
    with pytest.raises(FragmentError, match="too large"):
        open_examples([tmp_path / "a.npz"], units="0..1")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"not a zip", b"\x93NUMPY" * 20])
def test_files_that_are_no_archives(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(FragmentError, match="no whole NumPy archive"):
        open_examples([tmp_path / "a.npz"], units="0..1")


def test_bad_image_folders_are_refused_by_file(tmp_path: Path) -> None:
    root = folder(tmp_path / "scans")
    (root / "3" / "9.png").write_bytes(b"\x89PNG damaged")
    with pytest.raises(FragmentError, match=r"9\.png.*cannot be decoded") as caught:
        open_examples([root], units="0..1")
    assert caught.value.__cause__ is None
    (root / "3" / "9.png").write_bytes(b"")
    (root / "3" / "9.png").rename(root / "3" / "9.txt")
    with pytest.raises(FragmentError, match=r"9\.txt.*not that of an image"):
        open_examples([root], units="0..1")
    (root / "3" / "9.txt").unlink()
    with pytest.raises(InvalidOption, match="states none"):
        open_examples([root], units="Hounsfield")
    with pytest.raises(InvalidOption, match="1 or 3"):
        open_examples([root], units="0..1", channels=4)
    with pytest.raises(FragmentError, match="none of the classes"):
        open_examples([root], units="0..1", classes=("3", "7"))
    assert open_examples([root], units="0..1", classes=("3", "7", "10")).outputs == 3


def test_a_file_of_another_size_or_depth_is_named(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    root = folder(tmp_path / "scans")
    image.fromarray(np.zeros((9, 9), dtype=np.uint8)).save(root / "3" / "z.png")
    with pytest.raises(FragmentError, match=r"z\.png.*shape"):
        open_examples([root], units="0..1")
    assert open_examples([root], units="0..1", size=(4, 5)).shape == (1, 4, 5)
    image.fromarray(np.zeros((4, 5), dtype=np.uint16)).save(root / "3" / "z.png")
    with pytest.raises(FragmentError, match=r"z\.png.*eight bits"):
        open_examples([root], units="0..1")


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "scans")
    (tmp_path / "secret.png").write_bytes(b"x")
    (root / "3" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(FragmentError, match="leaves the fragment's directory"):
        open_examples([root], units="0..1")


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", inputs=PIXELS, labels=LABELS)
    with pytest.raises(InvalidOption, match="as many numbers"):
        open_examples([path], units="0..255", shape=(3, 3))
    with pytest.raises(InvalidOption, match="neither kind"):
        open_examples([path], units="0..255", task="counts")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="interval is empty"):
        bounds_of("1..0")
