from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import Image

from medexp.core.errors import DataError
from medexp.core.faults import Fault
from medexp.data.sources._files import ENDINGS, read_image, read_labels, stem
from medexp.data.sources._itk import data_file

SHAPE = (6, 5, 4)
# Neither a mere scaling nor of one orientation: a rotation about z, a flip, a shift.
AFFINE = np.array(
    [
        [0.8 * 0.6, -0.7 * 0.8, 0, -10],
        [-0.8 * 0.8, -0.7 * 0.6, 0, 20],
        [0, 0, 2.5, 5],
        [0, 0, 0, 1.0],
    ]
)
ITK_ENDINGS = [".nrrd", ".nhdr", ".mha", ".mhd"]
RANDOM = np.random.default_rng(0)


def volume(dtype: Any = np.float32, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return (np.random.default_rng(1).random(shape) * 200).astype(dtype)


def save_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nifti = nib.Nifti1Image(voxels, affine)
    nifti.set_qform(affine, 1)
    nib.save(nifti, path)
    return path


def converted(path: Path, ending: str) -> Path:
    """The same image in another format, by SimpleITK's own reader of NIfTI."""
    target = path.parent / f"converted{ending}"
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(path)), str(target))
    return target


def image_of(path: Path, dims: int, **knobs: Any) -> Any:
    return read_image(path, case_id="c1", spatial_dims=dims, **knobs)


def labels_of(path: Path, dims: int, **knobs: Any) -> Any:
    return read_labels(path, case_id="c1", spatial_dims=dims, **knobs)


def fault_of(read: Any, *arguments: Any) -> Fault:
    """The one fault with which reading fails; it names the case."""
    with pytest.raises(DataError, match="case c1") as caught:
        read(*arguments)
    (fault,) = caught.value.faults
    assert fault.case_id == "c1"
    return fault


def png(path: Path, values: np.ndarray, bits: int) -> Path:
    """A grey PNG of so many bits, which Pillow does not write."""
    rows = b""
    for row in values:
        text = "".join(format(int(value), f"0{bits}b") for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + int(text, 2).to_bytes(len(text) // 8, "big")
    height, width = values.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_stem_is_the_name_without_an_ending_in_any_case_of_letters(ending: str) -> None:
    assert stem(f"Müller 1.b{ending}") == stem(f"Müller 1.b{ending.upper()}") == "Müller 1.b"


@pytest.mark.parametrize("name", ["a.npy", "png", "a.gz", "a.dcm", "a.png.txt"])
def test_another_file_has_no_stem(name: str) -> None:
    assert stem(name) is None


@pytest.mark.parametrize("ending", [*ITK_ENDINGS, ".nii"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_a_volume_has_the_same_voxels_and_affine_in_every_format(tmp_path: Path, ending: str, dtype: type) -> None:
    path = save_nifti(tmp_path / "a.nii.gz", volume(dtype))
    pixels, geometry = image_of(path, 3)
    np.testing.assert_array_equal(pixels, volume(dtype).astype(np.float32)[None])
    np.testing.assert_allclose(geometry.affine, AFFINE, rtol=1e-6, atol=1e-6)
    other, other_geometry = image_of(converted(path, ending), 3)
    np.testing.assert_array_equal(other, pixels)
    np.testing.assert_allclose(other_geometry.affine, geometry.affine, atol=1e-5)
    assert other_geometry.unit == geometry.unit == "mm"
    assert other.dtype == pixels.dtype == np.float32


def test_an_nrrd_in_the_world_of_nifti_has_the_affine_that_it_states(tmp_path: Path) -> None:
    header = (
        "NRRD0004\ntype: uint8\ndimension: 3\nspace: right-anterior-superior\nsizes: 2 3 4\n"
        "space directions: (0,2,0) (3,0,0) (0,0,-1)\nkinds: domain domain domain\nencoding: raw\n"
        "space origin: (7,8,9)\n\n"
    )
    path = tmp_path / "a.nrrd"
    path.write_bytes(header.encode() + bytes(range(24)))
    pixels, geometry = image_of(path, 3)
    np.testing.assert_array_equal(pixels[0], np.arange(24).reshape(2, 3, 4, order="F"))
    expected = [[0, 3, 0, 7], [2, 0, 0, 8], [0, 0, -1, 9], [0, 0, 0, 1]]
    np.testing.assert_allclose(geometry.affine, expected, atol=1e-12)


@pytest.mark.parametrize("ending", [".nii.gz", *ITK_ENDINGS])
def test_several_values_a_voxel_are_channels(tmp_path: Path, ending: str) -> None:
    voxels = volume(shape=(*SHAPE, 3))
    if ending == ".nii.gz":
        path = save_nifti(tmp_path / "a.nii.gz", voxels)
    else:
        path = tmp_path / f"a{ending}"
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.transpose(2, 1, 0, 3)), isVector=True)
        SimpleITK.WriteImage(image, str(path))
    np.testing.assert_array_equal(image_of(path, 3)[0], np.moveaxis(voxels, -1, 0))


def test_a_vector_that_itk_writes_as_nifti_is_channels(tmp_path: Path) -> None:
    voxels = volume(shape=(*SHAPE, 2))
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.transpose(2, 1, 0, 3)), isVector=True)
    SimpleITK.WriteImage(image, str(tmp_path / "a.nii.gz"))
    assert nib.load(tmp_path / "a.nii.gz").ndim == 5
    np.testing.assert_array_equal(image_of(tmp_path / "a.nii.gz", 3)[0], np.moveaxis(voxels, -1, 0))


def test_a_series_of_volumes_is_channels(tmp_path: Path) -> None:
    voxels = volume(shape=(*SHAPE, 2))
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.transpose(3, 2, 1, 0)), isVector=False)
    SimpleITK.WriteImage(image, str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(image_of(tmp_path / "a.nrrd", 3)[0], np.moveaxis(voxels, -1, 0))


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("axes", [2, 3])
def test_a_slice_keeps_its_spacing(tmp_path: Path, ending: str, axes: int) -> None:
    voxels = volume(shape=(6, 5))
    path = tmp_path / f"a{ending}"
    image = SimpleITK.GetImageFromArray(voxels.T if axes == 2 else voxels.T[None])
    image.SetSpacing((0.8, 0.7, 2.5)[:axes])
    SimpleITK.WriteImage(image, str(path))
    pixels, geometry = image_of(path, 2)
    np.testing.assert_array_equal(pixels, voxels[None])
    assert geometry.spacing_mm == pytest.approx((0.8, 0.7), rel=1e-6)
    assert geometry.unit == "mm"


@pytest.mark.parametrize(("plane", "spacing"), [("axial", (0.8, 0.7)), ("coronal", (0.8, 2.5))])
def test_a_slice_keeps_its_place_only_in_an_axial_plane(tmp_path: Path, plane: str, spacing: tuple) -> None:
    affine = AFFINE if plane == "axial" else AFFINE[:, [0, 2, 1, 3]]
    pixels, geometry = image_of(save_nifti(tmp_path / "a.nii", volume(shape=(6, 5, 1)), affine), 2)
    assert pixels.shape == (1, 6, 5)
    assert geometry.spacing_mm == pytest.approx(spacing, rel=1e-6)
    expected = AFFINE[np.ix_([0, 1, 3], [0, 1, 3])] if plane == "axial" else np.diag([*spacing, 1])
    np.testing.assert_allclose(geometry.affine, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ending", [".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".PNG", ".TIF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_has_rows_and_columns_and_no_physical_scale(tmp_path: Path, ending: str, channels: int) -> None:
    values = np.full((6, 9, channels), 30, np.uint8)
    values[:, 4:] = 200
    path = tmp_path / f"a{ending}"
    Image.fromarray(values.squeeze()).save(path)
    pixels, geometry = image_of(path, 2)
    expected = np.asarray(Image.open(path), dtype=np.float32).reshape(6, 9, channels)
    np.testing.assert_array_equal(pixels, np.moveaxis(expected, -1, 0))
    assert (geometry.shape, geometry.unit, geometry.spacing_mm) == ((6, 9), "px", (1.0, 1.0))
    assert pixels.flags.writeable


def test_a_gif_gives_its_grey_values_and_a_film_is_refused(tmp_path: Path) -> None:
    grey = np.arange(54, dtype=np.uint8).reshape(6, 9) * 4
    Image.fromarray(grey).save(tmp_path / "a.gif")
    np.testing.assert_array_equal(image_of(tmp_path / "a.gif", 2)[0], grey[None])
    Image.fromarray(grey).save(tmp_path / "b.gif", save_all=True, append_images=[Image.fromarray(255 - grey)])
    assert "a film of 2 frames" in fault_of(image_of, tmp_path / "b.gif", 2).found


@pytest.mark.parametrize("name", ["grey.png", "colours.png", "grey.tif", "colours.tif", "lzw.tif", "lzw_colours.tif"])
def test_16_bits_are_kept(tmp_path: Path, name: str) -> None:
    shape = (6, 9, 3) if "colours" in name else (6, 9)
    values = np.random.default_rng(0).integers(0, 2**16, shape, dtype=np.uint16)
    path = tmp_path / name
    image = SimpleITK.GetImageFromArray(values, isVector="colours" in name)
    writer = SimpleITK.ImageFileWriter()
    writer.SetFileName(str(path))
    if "lzw" in name:
        writer.SetCompressor("LZW")
        writer.UseCompressionOn()
    writer.Execute(image)
    if "lzw" in name:
        with tifffile.TiffFile(path) as file:
            assert file.pages[0].compression == tifffile.COMPRESSION.LZW
    expected = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
    np.testing.assert_array_equal(image_of(path, 2)[0], expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_values_of_few_bits_are_those_of_the_file(tmp_path: Path, bits: int) -> None:
    values = np.arange(2**bits).reshape(2, -1)
    path = png(tmp_path / "a.png", values, bits)
    np.testing.assert_array_equal(image_of(path, 2)[0], values[None])
    np.testing.assert_array_equal(labels_of(path, 2)[0], values)


STACK = np.random.default_rng(0).integers(0, 255, (4, 6, 9), dtype=np.uint8)


def save_stack(path: Path, kind: str) -> Path:
    if kind == "imagej":
        tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "ZYX"})
    elif kind == "bare":
        tifffile.imwrite(path, STACK, photometric="minisblack", metadata=None)
    elif kind in ("lzw", "packbits"):
        pages = [Image.fromarray(page) for page in STACK]
        pages[0].save(
            path, save_all=True, append_images=pages[1:], compression=kind if kind == "packbits" else "tiff_lzw"
        )
    else:
        tifffile.imwrite(path, STACK, photometric="minisblack", compression=None if kind == "plain" else kind)
    return path


@pytest.mark.parametrize("kind", ["plain", "bare", "imagej", "zlib", "packbits", "lzw"])
def test_the_pages_of_a_tiff_are_a_volume_and_no_picture(tmp_path: Path, kind: str) -> None:
    path = save_stack(tmp_path / "a.tif", kind)
    pixels, geometry = image_of(path, 3)
    np.testing.assert_array_equal(pixels, STACK[None])
    assert (geometry.shape, geometry.unit) == ((4, 6, 9), "px")
    np.testing.assert_array_equal(labels_of(path, 3)[0], STACK)
    fault = fault_of(image_of, path, 2)
    assert (fault.check, fault.found) == ("wrong_dimensions", "shape (4, 6, 9)")


def test_channels_of_imagej_are_channels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata={"axes": "CYX"})
    np.testing.assert_array_equal(image_of(tmp_path / "a.tif", 2)[0], STACK)


def test_planes_of_colours_are_channels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK[:3], photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(image_of(tmp_path / "a.tif", 2)[0], STACK[:3])


def test_a_stack_of_colours_is_a_volume_with_channels(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (4, 6, 9, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
    np.testing.assert_array_equal(image_of(tmp_path / "a.tif", 3)[0], np.moveaxis(colours, -1, 0))


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_with_white_at_zero_is_turned_round_as_an_image_and_kept_as_labels(
    tmp_path: Path, compression: str | None
) -> None:
    path = tmp_path / "a.tif"
    if compression is None:
        tifffile.imwrite(path, STACK[0], photometric="miniswhite")
    else:
        Image.fromarray(STACK[0]).save(path, compression=compression, tiffinfo={262: 0})
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.MINISWHITE
    image, labels = image_of(path, 2)[0][0], labels_of(path, 2)[0]
    np.testing.assert_array_equal(image, 255 - labels.astype(np.float32))
    if compression is None:
        np.testing.assert_array_equal(labels, STACK[0])


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_channel_is_left_out_where_it_is_the_same_everywhere(tmp_path: Path, ending: str, mode: str) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (6, 9, len(mode)), dtype=np.uint8)
    colours[..., -1] = 255
    path = tmp_path / f"a{ending}"
    Image.fromarray(colours, mode=None).save(path)
    np.testing.assert_array_equal(image_of(path, 2)[0], np.moveaxis(colours[..., :-1], -1, 0))
    colours[0, 0, -1] = 0
    Image.fromarray(colours).save(path)
    for read in (image_of, labels_of):
        fault = fault_of(read, path, 2)
        assert fault.check == "wrong_channels"
        assert "alpha" in fault.found


def palette(path: Path) -> tuple[Path, np.ndarray]:
    """A picture of five colours out of order."""
    indices = np.random.default_rng(0).integers(0, 5, (6, 9), dtype=np.uint8)
    image = Image.fromarray(indices, mode=None).convert("L")
    image = Image.frombytes("P", image.size, indices.tobytes())
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9, 1, 2, 3])
    image.save(path)
    return path, indices


@pytest.mark.parametrize("ending", [".png", ".bmp", ".gif", ".tif"])
def test_a_palette_picture_gives_its_indices_as_labels_and_is_no_image(tmp_path: Path, ending: str) -> None:
    path, indices = palette(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(labels_of(path, 2)[0], indices)
    fault = fault_of(image_of, path, 2)
    assert fault.check == "wrong_channels"
    assert "palette" in fault.found


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".tif"])
def test_labels_of_any_number_type_are_integers_that_torch_can_use(tmp_path: Path, dtype: type, ending: str) -> None:
    ids = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(dtype)
    path = tmp_path / f"a{ending}"
    if ending == ".nii.gz":
        save_nifti(path, ids)
    elif ending == ".nrrd":
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ascontiguousarray(ids.T)), str(path))
    else:
        tifffile.imwrite(path, ids, photometric="minisblack")
    labels, _ = labels_of(path, 3)
    np.testing.assert_array_equal(labels, ids)
    assert labels.dtype == np.uint8


@pytest.mark.parametrize(
    ("largest", "dtype"), [(255, np.uint8), (256, np.int32), (2**31 - 1, np.int32), (2**31, np.int64)]
)
def test_large_ids_keep_their_value(tmp_path: Path, largest: int, dtype: type) -> None:
    ids = np.zeros((6, 9), np.uint32)
    ids[2, 3] = largest
    tifffile.imwrite(tmp_path / "a.tif", ids)
    labels, _ = labels_of(tmp_path / "a.tif", 2)
    assert labels.dtype == dtype
    np.testing.assert_array_equal(labels, ids)


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 1e30])
def test_labels_that_are_no_whole_numbers_are_refused(tmp_path: Path, value: float) -> None:
    ids = np.zeros(SHAPE)
    ids[1, 2, 3] = value
    fault = fault_of(labels_of, save_nifti(tmp_path / "a.nii", ids), 3)
    assert fault.check == "non_integer_label"
    assert "1 voxels" in fault.found


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.tif"])
def test_labels_compressed_with_loss_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(STACK[0]).save(path, **({"compression": "jpeg"} if name == "a.tif" else {}))
    fault = fault_of(labels_of, path, 2)
    assert fault.check == "lossy_mask"
    assert image_of(path, 2)[0].shape == (1, 6, 9)


def test_labels_in_colours_are_refused_unless_all_channels_are_equal(tmp_path: Path) -> None:
    colours = np.repeat(STACK[0][..., None], 3, axis=-1)
    Image.fromarray(colours).save(tmp_path / "a.png")
    np.testing.assert_array_equal(labels_of(tmp_path / "a.png", 2)[0], STACK[0])
    colours[0, 0, 0] ^= 1
    Image.fromarray(colours).save(tmp_path / "a.png")
    fault = fault_of(labels_of, tmp_path / "a.png", 2)
    assert fault.check == "wrong_channels"


def small_file(path: Path, ending: str) -> Path:
    if ending in (".nii", ".nii.gz"):
        return save_nifti(path, volume())
    if ending in ITK_ENDINGS:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume(np.int16)), str(path))
    else:
        Image.fromarray(RANDOM.integers(0, 255, (40, 30), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("damage", ["empty", "html", "half", "other"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_damaged_file_is_named(tmp_path: Path, ending: str, damage: str) -> None:
    path = small_file(tmp_path / f"a{ending}", ending)
    dims = 2 if ending in (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif") else 3
    assert image_of(path, dims)[0].ndim == dims + 1
    content = path.read_bytes()
    other = small_file(tmp_path / "other.png", ".png") if ending != ".png" else small_file(tmp_path / "o.jpg", ".jpg")
    damaged = {
        "empty": b"",
        "html": b"<!DOCTYPE html><html>" + b"no such file " * 100,
        "half": content[: len(content) // 2],
        "other": other.read_bytes(),
    }
    path.write_bytes(damaged[damage])
    for read in (image_of, labels_of):
        fault = fault_of(read, path, dims)
        assert (fault.check, fault.file) == ("unreadable", path)
    assert ("an empty file" in fault.found) == (damage == "empty")
    assert ("a web page" in fault.found) == (damage == "html")


def read_cut(whole: Path, length: int, dims: int) -> np.ndarray | set[str]:
    """What the first bytes of a file give: pixels, or the checks that it fails."""
    path = whole.with_name(f"cut_{whole.name}")
    path.write_bytes(whole.read_bytes()[:length])
    try:
        return image_of(path, dims)[0]
    except DataError as error:
        return {fault.check for fault in error.faults}


@pytest.mark.parametrize("kind", ["plain", "bare", "imagej", "zlib", "lzw"])
def test_a_truncated_stack_is_refused_or_whole(tmp_path: Path, kind: str) -> None:
    path = save_stack(tmp_path / "a.tif", kind)
    found = [read_cut(path, length, 3) for length in range(8, path.stat().st_size, 7)]
    assert {"unreadable"} in found
    for pixels in found:
        if not isinstance(pixels, set) or pixels != {"unreadable"}:
            np.testing.assert_array_equal(pixels, STACK[None])


@pytest.mark.parametrize("ending", [".png", ".bmp", ".jpg", ".gif", ".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_truncated_file_is_refused_or_whole(tmp_path: Path, ending: str) -> None:
    path, dims = small_file(tmp_path / f"a{ending}", ending), 2 if ending in (".png", ".bmp", ".jpg", ".gif") else 3
    whole = image_of(path, dims)[0]
    found = [read_cut(path, length, dims) for length in range(1, path.stat().st_size, 13)]
    assert {"unreadable"} in found
    for pixels in found:
        if not isinstance(pixels, set) or pixels != {"unreadable"}:
            np.testing.assert_array_equal(pixels, whole)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("absence", ["missing", "loop", "folder", "long"])
def test_a_missing_file_is_named(tmp_path: Path, ending: str, absence: str) -> None:
    path = tmp_path / f"{'a' * (300 if absence == 'long' else 1)}{ending}"
    if absence == "loop":
        path.symlink_to(path)
    if absence == "folder":
        path.mkdir()
    fault = fault_of(image_of, path, 3)
    assert (fault.check, fault.file) == ("missing_file", path)
    assert fault_of(labels_of, path, 3).check == "missing_file"


def test_a_file_of_another_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"x")
    assert fault_of(image_of, tmp_path / "a.npy", 2).check == "unreadable"


@pytest.mark.parametrize(
    ("name", "dims", "shape"),
    [
        ("a.nii.gz", 2, (6, 5, 4)),
        ("a.nrrd", 2, (6, 5, 4)),
        ("a.nii.gz", 3, (6, 5)),
        ("a.mha", 3, (6, 5)),
        ("a.nii.gz", 3, (6, 5, 4, 2, 3)),
        ("a.png", 3, (6, 9)),
    ],
)
def test_another_number_of_axes_is_refused(tmp_path: Path, name: str, dims: int, shape: tuple) -> None:
    path = tmp_path / name
    if name == "a.png":
        Image.fromarray(STACK[0]).save(path)
    elif name in ("a.nrrd", "a.mha"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume(shape=shape).T.copy()), str(path))
    else:
        save_nifti(path, volume(shape=shape))
    fault = fault_of(image_of, path, dims)
    assert fault.check == "wrong_dimensions"
    assert str(shape) in fault.found


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume() + 1j), str(tmp_path / "a.nrrd"))
    save_nifti(tmp_path / "a.nii", volume() + 1j)
    assert "complex" in fault_of(image_of, tmp_path / "a.nrrd", 3).found
    assert "complex" in fault_of(image_of, tmp_path / "a.nii", 3).found


def test_a_nifti_that_is_unsure_of_its_grid_is_refused_unless_told(tmp_path: Path) -> None:
    nifti = nib.Nifti1Image(volume(), None)
    nib.save(nifti, tmp_path / "a.nii")
    assert fault_of(image_of, tmp_path / "a.nii", 3).check == "unsure_grid"
    assert image_of(tmp_path / "a.nii", 3, header_tolerance_voxels=None)[0].shape == (1, *SHAPE)


def test_a_singular_affine_is_named(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[2, 2] = 0
    nifti = nib.Nifti1Image(volume(), None)
    nifti.set_sform(affine, 1)
    nib.save(nifti, tmp_path / "a.nii")
    assert fault_of(image_of, tmp_path / "a.nii", 3).check == "singular_affine"


def test_a_tiff_of_images_of_different_shapes_is_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(STACK[0], metadata=None)
        writer.write(STACK[0, :3], metadata=None)
    fault = fault_of(image_of, tmp_path / "a.tif", 2)
    assert "(6, 9), (3, 9)" in fault.found


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_the_voxels_of_a_header_lie_in_a_file_beside_it(tmp_path: Path, ending: str) -> None:
    path = small_file(tmp_path / f"a{ending}", ending)
    found = data_file(path)
    assert found is not None
    assert [found] == [other for other in tmp_path.iterdir() if other != path]
    found.unlink()
    fault = fault_of(image_of, path, 3)
    assert fault.check == "missing_file"
    assert found.name in fault.found


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".png", ".nii"])
def test_a_whole_file_has_no_file_beside_it(tmp_path: Path, ending: str) -> None:
    assert data_file(small_file(tmp_path / f"a{ending}", ending)) is None


@pytest.mark.parametrize("ending", [".nhdr", ".mhd", ".nrrd", ".mha"])
@pytest.mark.parametrize("target", ["../secret.raw", "/secret.raw", "sub/secret.raw", "LIST", "a%03d.raw 1 4 1"])
def test_a_header_that_points_elsewhere_is_refused(tmp_path: Path, ending: str, target: str) -> None:
    (tmp_path / "secret.raw").write_bytes(bytes(24))
    path = tmp_path / "data" / f"a{ending}"
    path.parent.mkdir()
    nrrd = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 3 4\nencoding: raw\ndata file: {target}\n\n"
    meta = f"ObjectType = Image\nNDims = 3\nDimSize = 2 3 4\nElementType = MET_UCHAR\nElementDataFile = {target}\n"
    path.write_text(meta if ending in (".mhd", ".mha") else nrrd)
    assert fault_of(image_of, path, 3).check == "path_traversal"
    assert data_file(path) is None


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_header_under_the_name_of_a_whole_file_is_refused(tmp_path: Path, ending: str) -> None:
    header = small_file(tmp_path / "a.nhdr", ".nhdr") if ending == ".nrrd" else small_file(tmp_path / "a.mhd", ".mhd")
    fault = fault_of(image_of, header.rename(tmp_path / f"a{ending}"), 3)
    assert "rename it to" in fault.remedy
