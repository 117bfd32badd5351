from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK
from matplotlib.path import Path as Polygon
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RTStructureSetStorage,
    generate_uid,
)
from scipy.spatial.transform import Rotation

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Severity
from medexp.data.sources.dicom import DICOM

ROWS, COLUMNS, SLICES = 7, 6, 5
LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])
AXIAL = (1.0, 0, 0, 0, 1, 0)
OBLIQUE = tuple(Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()[:, :2].T.ravel().round(8))


def save(dataset: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def image(stored: np.ndarray, *, series: str = "1.2.3", **tags: Any) -> Dataset:
    """A whole image object; a tag that is None is left out."""
    dataset = Dataset()
    uid = generate_uid(entropy_srcs=[series, str(sorted(tags.items())), str(stored.tobytes())])
    defaults = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": uid,
        "SeriesInstanceUID": series,
        "StudyInstanceUID": "1.2.9",
        "FrameOfReferenceUID": "1.2.8",
        "PatientID": "patient 1",
        "PatientName": "Doe^Jane",
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyID": "1",
        "StudyDate": "",
        "StudyTime": "",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "Modality": "CT",
        "SeriesNumber": 4,
        "InstanceNumber": 1,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "PixelSpacing": [0.8, 0.7],
        "SliceThickness": 2.5,
        "RescaleSlope": 2.0,
        "RescaleIntercept": -1000.0,
        "PixelData": stored.astype(stored.dtype.newbyteorder("<")).tobytes(),
    }
    for keyword, value in (defaults | tags).items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


def voxels(slices: int = SLICES, shape: tuple[int, int] = (ROWS, COLUMNS), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2000, (slices, *shape)).astype(np.int16)


def write_series(
    folder: Path,
    *,
    places_mm: Sequence[float] = tuple(2.5 * k for k in range(SLICES)),
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-10.0, 20.0, 5.0),
    shift: Sequence[float] = (0.0, 0.0, 0.0),
    shape: tuple[int, int] = (ROWS, COLUMNS),
    names: Callable[[int], str] = lambda k: f"IM{k:04d}",
    **tags: Any,
) -> list[Path]:
    """Slices along the normal, in files whose names and numbers run against it."""
    normal = np.cross(orientation[:3], orientation[3:])
    paths = []
    for k, stored in enumerate(voxels(len(places_mm), shape)):
        position = np.array(origin) + normal * places_mm[k] + np.array(shift) * k
        place = {
            "ImagePositionPatient": [f"{value:.6f}" for value in position],
            "ImageOrientationPatient": list(orientation),
            "InstanceNumber": 100 - k,
        }
        dataset = image(stored, **(place | tags))
        paths.append(save(dataset, folder / names(len(places_mm) - k)))
    return paths


def read_only(root: Path, **knobs: Any) -> Any:
    """The one case of a folder."""
    source = DICOM(root=root, **knobs)
    (case,) = source.cases()
    return source.read(case)


def checks(root: Path, **knobs: Any) -> dict[str, list[str]]:
    """Names of the faults of each case; reading a case with an error tells all of them."""
    source = DICOM(root=root, **knobs)
    cases = source.cases()
    for case in cases:
        if any(fault.severity is Severity.ERROR for fault in case.faults):
            with pytest.raises(DataError) as caught:
                source.read(case)
            assert caught.value.faults == case.faults
            assert all(fault.case_id == case.case_id for fault in case.faults)
    return {case.case_id: [fault.check for fault in case.faults] for case in cases}


def by_simpleitk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (x, y, z) and affine in RAS as SimpleITK's series reader has them."""
    read = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    affine = np.eye(4)
    affine[:3, :3] = np.array(read.GetDirection()).reshape(3, 3) * read.GetSpacing()
    affine[:3, 3] = read.GetOrigin()
    return SimpleITK.GetArrayFromImage(read).transpose(2, 1, 0), LPS_TO_RAS @ affine


@pytest.mark.parametrize("orientation", [AXIAL, (0.0, 1, 0, 0, 0, -1), (-1.0, 0, 0, 0, 1, 0), OBLIQUE])
def test_voxels_and_affine_are_those_of_simpleitks_reader(tmp_path: Path, orientation: Sequence[float]) -> None:
    write_series(tmp_path / "any" / "depth", orientation=orientation)
    read = read_only(tmp_path)
    expected, affine = by_simpleitk(tmp_path / "any" / "depth")
    np.testing.assert_array_equal(read.pixels, expected[None])
    np.testing.assert_allclose(read.geometry.affine, affine, atol=1e-5)
    assert read.pixels.dtype == np.float32
    assert read.geometry.spacing_mm == pytest.approx((0.7, 0.8, 2.5), abs=1e-5)
    assert read.annotation is None


def test_stored_values_are_rescaled_and_slices_follow_their_places(tmp_path: Path) -> None:
    write_series(tmp_path)
    np.testing.assert_array_equal(read_only(tmp_path).pixels[0], voxels().transpose(2, 1, 0) * 2.0 - 1000)


def test_each_slice_is_rescaled_by_its_own_header(tmp_path: Path) -> None:
    for path, slope in zip(write_series(tmp_path, Modality="PT"), (1.0, 2.0, 3.0, 4.0, 5.0), strict=True):
        dataset = pydicom.dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, 0
        dataset.save_as(path)
    factors = np.arange(1, 6)[:, None, None]
    np.testing.assert_array_equal(read_only(tmp_path).pixels[0], (voxels() * factors).transpose(2, 1, 0))


def test_a_magnetic_resonance_image_needs_no_scale(tmp_path: Path) -> None:
    write_series(tmp_path, SOPClassUID=MRImageStorage, Modality="MR", RescaleSlope=None, RescaleIntercept=None)
    source = DICOM(root=tmp_path, modalities=["MR"])
    np.testing.assert_array_equal(source.read(source.cases()[0]).pixels[0], voxels().transpose(2, 1, 0))


def test_the_channel_is_named_by_the_modality_where_there_is_one(tmp_path: Path) -> None:
    write_series(tmp_path / "ct")
    assert DICOM(root=tmp_path).channels == ("CT",)
    write_series(tmp_path / "mr", series="1.2.4", SOPClassUID=MRImageStorage, Modality="MR")
    assert DICOM(root=tmp_path).channels == ("image",)
    assert DICOM(root=tmp_path, modalities=["MR"]).channels == ("MR",)


def test_a_case_tells_patient_modality_and_files_and_no_name(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "site a" / "scan")
    (case,) = DICOM(root=tmp_path).cases()
    assert (case.case_id, case.group, case.facts) == ("site a__scan", "patient 1", {"modality": "CT"})
    assert case.images == tuple(paths)
    assert "Doe" not in str(case)


def test_two_series_in_a_folder_are_two_cases_or_a_fault(tmp_path: Path) -> None:
    write_series(tmp_path / "scan")
    write_series(tmp_path / "scan", series="1.2.4", SeriesNumber=5, names=lambda k: f"other{k}")
    assert checks(tmp_path) == {"scan_series_4": [], "scan_series_5": []}
    faulty = checks(tmp_path, one_series_per_folder=True)
    assert faulty == {"scan_series_4": ["two_series"], "scan_series_5": ["two_series"]}


def test_series_of_one_number_in_a_folder_have_ids_of_their_own(tmp_path: Path) -> None:
    write_series(tmp_path)
    write_series(tmp_path, series="1.2.4", names=lambda k: f"other{k}")
    ids = list(checks(tmp_path))
    assert len(set(ids)) == 2
    assert all("series_4" in name for name in ids)


def test_ids_of_series_do_not_depend_on_folders(tmp_path: Path) -> None:
    write_series(tmp_path / "Doe Jane")
    before = list(checks(tmp_path, case_ids="series"))
    shutil.move(tmp_path / "Doe Jane", tmp_path / "elsewhere")
    assert list(checks(tmp_path, case_ids="series")) == before
    assert before[0].startswith("series_4_")


def test_a_series_in_several_folders_is_one_case(tmp_path: Path) -> None:
    write_series(tmp_path, names=lambda k: f"scan/{k}/slice")
    assert checks(tmp_path) == {"scan": []}


def places(*millimetres: float) -> dict[str, Any]:
    return {"places_mm": millimetres}


@pytest.mark.parametrize(
    ("fault", "changes"),
    [
        ("slice_gap", places(0, 2.5, 7.5, 10)),
        ("slice_gap", places(0, 2.5, 5, 7.8)),
        ("duplicate_position", places(0, 2.5, 2.5, 5)),
        ("gantry_tilt", {"shift": (0, 0.2, 0)}),
        ("rescale_missing", {"RescaleSlope": None}),
        ("too_few_slices", places(0)),
        ("wrong_channels", {"PhotometricInterpretation": "PALETTE COLOR"}),
        ("missing_tag", {"ImagePositionPatient": None}),
        ("missing_tag", {"ImageOrientationPatient": None}),
        ("missing_tag", {"PixelSpacing": None}),
        ("missing_tag", {"PixelSpacing": [0.8, 0.7, 0.7]}),
        ("unfit_spacing", {"PixelSpacing": [0.8, 0]}),
        ("unfit_spacing", {"ImageOrientationPatient": [1, 0, 0, 0, 0, 0]}),
        ("missing_group", {"PatientID": ""}),
    ],
)
def test_what_makes_no_volume_is_listed_with_its_fault(tmp_path: Path, fault: str, changes: dict[str, Any]) -> None:
    write_series(tmp_path / "scan", **changes)
    assert checks(tmp_path) == {"scan": [fault]}


@pytest.mark.parametrize(
    ("fault", "tags"),
    [
        ("mixed_orientations", {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}),
        ("mixed_spacings", {"PixelSpacing": [0.8, 0.8]}),
        ("mixed_shapes", {"Rows": ROWS - 1}),
        ("missing_group", {"PatientID": "patient 2"}),
        ("missing_tag", {"Columns": None}),
    ],
)
def test_one_slice_unlike_the_others_is_named(tmp_path: Path, fault: str, tags: dict[str, Any]) -> None:
    path = write_series(tmp_path / "scan")[2]
    dataset = pydicom.dcmread(path)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value) if value is not None else delattr(dataset, keyword)
    dataset.save_as(path)
    assert checks(tmp_path) == {"scan": [fault]}


def test_all_faults_of_a_series_are_told_at_once(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", places_mm=(0, 2.5, 7.5), shift=(0.3, 0, 0), RescaleSlope=None, PatientID="")
    assert checks(tmp_path) == {"scan": ["rescale_missing", "slice_gap", "gantry_tilt", "missing_group"]}


def test_a_copy_of_a_slice_is_named_with_both_files(tmp_path: Path) -> None:
    path = write_series(tmp_path / "scan")[1]
    shutil.copy(path, tmp_path / "scan" / "copy")
    (case,) = DICOM(root=tmp_path).cases()
    (fault,) = case.faults
    assert fault.check == "duplicate_instance"
    assert str(path) in fault.found
    assert "copy" in fault.found


def test_the_message_of_a_gap_names_the_files_beside_it(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan", **places(0, 2.5, 7.5, 10))
    with pytest.raises(DataError, match=f"5 mm between {paths[1].name} and {paths[2].name}"):
        read_only(tmp_path)


@pytest.mark.parametrize(
    ("knobs", "changes"),
    [
        ({"gap_tolerance": 0.2}, places(0, 2.5, 5.0, 7.8)),
        ({"tilt_tolerance_deg": 6.0}, {"shift": (0, 0.2, 0)}),
        ({"group_by": "folder"}, {"PatientID": ""}),
        ({"min_slices": 1}, places(0)),
    ],
)
def test_a_knob_accepts_what_is_a_fault_without_it(
    tmp_path: Path, knobs: dict[str, Any], changes: dict[str, Any]
) -> None:
    write_series(tmp_path / "scan", **changes)
    read = read_only(tmp_path, **knobs)
    assert read.pixels.shape[1:3] == (COLUMNS, ROWS)
    assert read.geometry.spacing_mm[2] == pytest.approx(2.5, rel=0.05)


def test_scouts_are_passed_over_unless_asked_for(tmp_path: Path) -> None:
    write_series(tmp_path / "scan")
    write_series(tmp_path / "scout", places_mm=[0], series="1.2.4", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert checks(tmp_path) == {"scan": []}
    assert checks(tmp_path, localisers=True) == {"scan": [], "scout": ["too_few_slices"]}


def test_only_the_modalities_asked_for_are_listed(tmp_path: Path) -> None:
    write_series(tmp_path / "ct")
    write_series(tmp_path / "mr", series="1.2.4", Modality="MR", SOPClassUID=MRImageStorage)
    assert list(checks(tmp_path, modalities=["MR"])) == ["mr"]
    with pytest.raises(DataError, match="modality PT"):
        DICOM(root=tmp_path, modalities=["PT"]).cases()


def test_other_files_are_passed_over_and_damaged_ones_named(tmp_path: Path) -> None:
    write_series(tmp_path / "scan")
    shutil.copy(get_testdata_file("DICOMDIR"), tmp_path / "DICOMDIR")
    shutil.copy(get_testdata_file("rtplan.dcm"), tmp_path / "plan.dcm")
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "._IM0001.dcm").write_bytes(b"Mac")
    (tmp_path / "empty.DCM").write_bytes(b"")
    (tmp_path / "page.dcm").write_bytes(b"<!DOCTYPE html>" * 40)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert checks(tmp_path) == {"scan": [], "empty.DCM": ["unreadable"], "page.dcm": ["unreadable"]}


def test_a_file_whose_pixels_are_cut_off_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = write_series(tmp_path)[2]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=f"{path.name} needs to be a whole DICOM file"):
        read_only(tmp_path)


def test_a_file_that_went_away_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = write_series(tmp_path)[2]
    source = DICOM(root=tmp_path)
    (case,) = source.cases()
    path.unlink()
    with pytest.raises(DataError, match=path.name):
        source.read(case)


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="DICOM images"):
        DICOM(root=tmp_path).cases()
    with pytest.raises(DataError, match="is missing"):
        DICOM(root=tmp_path / "none").cases()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"root": None}, r"dataset\.root"),
        ({"spatial_dims": 4}, "spatial_dims"),
        ({"min_slices": 0}, "min_slices"),
        ({"gap_tolerance": -0.1}, "gap_tolerance"),
        ({"tilt_tolerance_deg": float("nan")}, "tilt_tolerance_deg"),
        ({"grid_tolerance_voxels": 0.5}, "grid_tolerance_voxels"),
        ({"modalities": "CT"}, "list of distinct names"),
        ({"case_ids": "uid"}, "folder or series"),
        ({"group_by": "patients"}, "did you mean patient"),
        ({"unannotated": "skip"}, "leave_out"),
        ({"labels": {"organ": 0}}, "above 0"),
        ({"labels": {"organ": -1}}, "name: id"),
        ({"labels": {"organ": 70_000}}, "name: id"),
    ],
)
def test_an_unfit_knob_is_refused(tmp_path: Path, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DICOM(**({"root": tmp_path} | knobs))


# Pictures


def write_radiograph(path: Path, stored: np.ndarray, **tags: Any) -> Path:
    defaults = {"Modality": "DX", "SOPClassUID": DigitalXRayImageStorageForPresentation, "FrameOfReferenceUID": None}
    return save(image(stored, **(defaults | {"SliceThickness": None} | tags)), path)


@pytest.mark.parametrize(
    ("tags", "spacing", "unit"),
    [
        ({"PixelSpacing": [0.2, 0.3]}, (0.2, 0.3), "mm"),
        ({"PixelSpacing": None, "ImagerPixelSpacing": [0.4, 0.5]}, (0.4, 0.5), "mm"),
        ({"PixelSpacing": [0.2, 0.3], "ImagerPixelSpacing": [0.4, 0.5]}, (0.2, 0.3), "mm"),
        ({"PixelSpacing": None}, (1.0, 1.0), "px"),
    ],
)
def test_a_radiograph_is_a_picture_of_rows_and_columns(
    tmp_path: Path, tags: dict[str, Any], spacing: tuple[float, float], unit: str
) -> None:
    stored = voxels(1)[0].astype(np.uint16)
    write_radiograph(tmp_path / "a" / "film.dcm", stored, **tags)
    write_series(tmp_path / "ct", series="1.2.4")
    source = DICOM(root=tmp_path, spatial_dims=2)
    (case,) = source.cases()
    read = source.read(case)
    assert case.case_id == "a__film"
    np.testing.assert_array_equal(read.pixels[0], stored * 2.0 - 1000)
    assert (read.geometry.spacing_mm, read.geometry.unit) == (spacing, unit)
    assert list(checks(tmp_path)) == ["ct"]


@pytest.mark.parametrize("signed", [False, True])
def test_what_is_to_be_shown_dark_is_turned_round(tmp_path: Path, signed: bool) -> None:
    stored = np.array([[-8, -1, 0, 7]], np.int16) if signed else np.array([[0, 1, 14, 15]], np.uint16)
    tags = {"BitsStored": 4, "HighBit": 3, "RescaleSlope": 1, "RescaleIntercept": 0}
    write_radiograph(tmp_path / "film.dcm", stored, PhotometricInterpretation="MONOCHROME1", **tags)
    assert read_only(tmp_path, spatial_dims=2).pixels[0].tolist() == stored[:, ::-1].tolist()


def test_hounsfield_units_are_not_turned_round(tmp_path: Path) -> None:
    write_series(tmp_path, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_only(tmp_path).pixels[0], voxels().transpose(2, 1, 0) * 2.0 - 1000)


def test_a_picture_without_extent_is_listed_with_its_fault(tmp_path: Path) -> None:
    write_radiograph(tmp_path / "film.dcm", voxels(1)[0], PixelSpacing=[0.2, 0])
    assert checks(tmp_path, spatial_dims=2) == {"film": ["unfit_spacing"]}


def test_a_picture_in_colour_or_of_several_frames_is_listed_with_its_fault(tmp_path: Path) -> None:
    for name in ("examples_rgb_color.dcm", "examples_ybr_color.dcm", "SC_rgb_small_odd.dcm"):
        shutil.copy(get_testdata_file(name), tmp_path / name)
    write_radiograph(tmp_path / "z.dcm", voxels(1)[0], Rows=None)
    found = checks(tmp_path, spatial_dims=2)
    assert list(found.values()) == [
        ["wrong_channels"],
        ["wrong_channels"],
        ["wrong_channels", "several_frames"],
        ["missing_tag"],
    ]


# Multi-frame files


def write_enhanced(path: Path, sources: Sequence[Path], *, series: str = "1.2.7") -> Path:
    """The same slices in one file, as highdicom converts them."""
    datasets = [pydicom.dcmread(source) for source in sources]
    is_ct = datasets[0].Modality == "CT"
    kind = hd.legacy.LegacyConvertedEnhancedCTImage if is_ct else hd.legacy.LegacyConvertedEnhancedMRImage
    knobs = {"series_instance_uid": series, "sop_instance_uid": f"{series}.1", "series_number": 9, "instance_number": 1}
    return save(kind(datasets, **knobs), path)


ENHANCED = {"Manufacturer": "m", "AcquisitionNumber": 1}
MAGNETIC = {"Modality": "MR", "SOPClassUID": MRImageStorage, "RescaleSlope": None, "RescaleIntercept": None}


@pytest.mark.parametrize("tags", [{}, MAGNETIC, MAGNETIC | {"PhotometricInterpretation": "MONOCHROME1"}])
def test_a_file_of_all_frames_reads_as_its_slices_do(tmp_path: Path, tags: dict[str, Any]) -> None:
    paths = write_series(tmp_path / "classic", orientation=OBLIQUE, **ENHANCED, **tags)
    write_enhanced(tmp_path / "enhanced" / "all.dcm", paths)
    source = DICOM(root=tmp_path)
    classic, whole = (source.read(case) for case in source.cases())
    assert len(whole.case.images) == 1
    np.testing.assert_array_equal(whole.pixels, classic.pixels)
    np.testing.assert_allclose(whole.geometry.affine, classic.geometry.affine, atol=1e-5)


def test_uneven_frames_are_refused_when_they_are_read(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "classic", **places(0, 2.5, 7.5, 10), **ENHANCED)
    write_enhanced(tmp_path / "enhanced" / "all.dcm", paths)
    shutil.rmtree(tmp_path / "classic")
    with pytest.raises(DataError, match=r"all\.dcm"):
        read_only(tmp_path)


def test_a_segmentation_of_a_file_of_all_frames_lies_on_it(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "classic", **ENHANCED)
    whole = write_enhanced(tmp_path / "enhanced" / "all.dcm", paths)
    shutil.rmtree(tmp_path / "classic")
    write_segmentation(tmp_path / "seg.dcm", [whole], {"organ": ORGAN})
    frames = pydicom.dcmread(whole).PerFrameFunctionalGroupsSequence
    heights = [float(frame.PlanePositionSequence[0].ImagePositionPatient[2]) for frame in frames]
    expected = ORGAN[np.argsort(heights)]
    np.testing.assert_array_equal(masked(tmp_path), expected)


def test_files_of_one_and_of_several_frames_in_a_series_are_a_fault(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan", **ENHANCED)
    write_enhanced(tmp_path / "scan" / "all.dcm", paths, series="1.2.3")
    assert checks(tmp_path) == {"scan": ["mixed_frames"]}


# Annotations


def write_segmentation(
    path: Path,
    sources: Sequence[Path],
    regions: dict[str, np.ndarray],
    *,
    kind: str = "BINARY",
) -> Path:
    """A SEG of boolean (slices, rows, columns) or fractions by label, as highdicom writes it."""
    code = Code("113343008", "SCT", "Organ")
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=code,
            segmented_property_type=code,
            algorithm_type="MANUAL",
        )
        for number, label in enumerate(regions, start=1)
    ]
    array = np.stack(list(regions.values()), axis=-1)
    if kind == "LABELMAP":
        array = (array * np.arange(1, len(regions) + 1)).max(axis=-1)
    segmentation = hd.seg.Segmentation(
        source_images=[pydicom.dcmread(source) for source in sources],
        pixel_array=array.astype(np.float32 if kind == "FRACTIONAL" else np.uint8),
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(entropy_srcs=[str(path)]),
        series_number=20,
        sop_instance_uid=generate_uid(entropy_srcs=[str(path), "instance"]),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=True,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    segmentation.save_as(path)
    return path


def block(*ends: tuple[int, int], shape: tuple[int, ...] = (SLICES, ROWS, COLUMNS)) -> np.ndarray:
    """A box of ones in (slices, rows, columns), a half-open pair for each axis."""
    region = np.zeros(shape, bool)
    region[tuple(slice(*pair) for pair in ends)] = True
    return region


ORGAN = block((0, 4), (1, 6), (1, 5))
LESION = block((1, 3), (2, 4), (2, 3))


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_segments_become_label_ids_on_the_grid_of_the_series(
    tmp_path: Path, kind: str, orientation: Sequence[float]
) -> None:
    paths = write_series(tmp_path / "scan", orientation=orientation)
    write_segmentation(tmp_path / "seg" / "a.dcm", paths, {"organ": ORGAN & ~LESION, "lesion": LESION}, kind=kind)
    source = DICOM(root=tmp_path, labels={"organ": 1, "lesion": 2})
    (case,) = source.cases()
    mask = source.read(case).annotation.mask
    np.testing.assert_array_equal(mask, (ORGAN.astype(int) + LESION).transpose(2, 1, 0))
    assert source.labels == {0: "background", 1: "organ", 2: "lesion"}


def masked(root: Path, **knobs: Any) -> np.ndarray:
    """The mask of the one case of a folder as (slices, rows, columns)."""
    return read_only(root, **knobs).annotation.mask.transpose(2, 1, 0)


@pytest.mark.parametrize(("labels", "on_top"), [({"organ": 1, "lesion": 2}, 2), ({"lesion": 2, "organ": 1}, 1)])
def test_the_name_that_comes_later_is_on_top(tmp_path: Path, labels: dict[str, int], on_top: int) -> None:
    paths = write_series(tmp_path / "scan")
    write_segmentation(tmp_path / "seg.dcm", paths, {"lesion": LESION, "organ": ORGAN})
    mask = masked(tmp_path, labels=labels)
    np.testing.assert_array_equal(mask, np.where(LESION, on_top, ORGAN))


def test_annotations_of_one_series_make_one_mask(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan")
    write_segmentation(tmp_path / "1.dcm", paths, {"organ": ORGAN})
    write_segmentation(tmp_path / "2.dcm", paths, {"lesion": LESION})
    write_structures(
        tmp_path / "3.dcm", {"node": [corners((0.6, 0.6, 4), (2.4, 0.6, 4), (2.4, 2.4, 4), (0.6, 2.4, 4))]}
    )
    expected = np.where(LESION, 2, ORGAN)
    expected[4, 1:3, 1:3] = 3
    np.testing.assert_array_equal(masked(tmp_path, labels={"organ": 1, "lesion": 2, "node": 3}), expected)


def test_several_names_may_have_one_id_and_others_none(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan")
    write_segmentation(
        tmp_path / "seg.dcm", paths, {"Liver": ORGAN, "liver": LESION, "body": block((0, 5), (0, 7), (0, 6))}
    )
    source = DICOM(root=tmp_path, labels={"liver": 3, "Liver": 3})
    assert source.labels == {0: "background", 3: "liver"}
    np.testing.assert_array_equal(masked(tmp_path, labels={"liver": 3, "Liver": 3}), 3 * ORGAN)


def test_without_labels_all_names_are_numbered(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan")
    write_segmentation(tmp_path / "seg.dcm", paths, {"organ": ORGAN, "lesion": LESION})
    assert DICOM(root=tmp_path).labels == {0: "background", 1: "lesion", 2: "organ"}
    np.testing.assert_array_equal(masked(tmp_path), 2 * ORGAN)


@pytest.mark.parametrize("slices", [(2,), (1, 3), (0, 4)])
def test_a_segmentation_of_some_slices_lies_on_these(tmp_path: Path, slices: tuple[int, ...]) -> None:
    paths = write_series(tmp_path / "scan")
    region = np.zeros_like(ORGAN)
    region[list(slices)] = ORGAN[0]
    path = write_segmentation(tmp_path / "seg.dcm", paths, {"organ": region})
    dataset = pydicom.dcmread(path)
    assert dataset.NumberOfFrames == len(slices)
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if "SpacingBetweenSlices" in measures:
        del measures.SpacingBetweenSlices
    dataset.save_as(path)
    np.testing.assert_array_equal(masked(tmp_path), region)


def changed_frames(path: Path, change: Callable[[Dataset, Dataset], None]) -> None:
    """Edit the shared groups and those of each frame of a segmentation."""
    dataset = pydicom.dcmread(path)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        change(dataset.SharedFunctionalGroupsSequence[0], frame)
    dataset.save_as(path)


def moved(millimetres: Sequence[float]) -> Callable[[Dataset, Dataset], None]:
    def change(_: Dataset, frame: Dataset) -> None:
        place = frame.PlanePositionSequence[0]
        place.ImagePositionPatient = list(np.add(place.ImagePositionPatient, millimetres))

    return change


def coarser(shared: Dataset, _: Dataset) -> None:
    shared.PixelMeasuresSequence[0].PixelSpacing = [1.6, 1.4]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (moved((0.35, 0, 0)), "0.5 voxels off"),
        (moved((0, 0, 1.25)), "0.5 voxels off"),
        (moved((0, 0, 25)), "outside the image"),
        (moved((-7.0, 0, 0)), "outside the image"),
        (coarser, "2 x 2 voxels"),
    ],
)
def test_a_segmentation_beside_the_grid_is_refused(
    tmp_path: Path, change: Callable[[Dataset, Dataset], None], found: str
) -> None:
    paths = write_series(tmp_path / "scan")
    changed_frames(write_segmentation(tmp_path / "seg.dcm", paths, {"organ": ORGAN}), change)
    with pytest.raises(DataError, match=found) as caught:
        read_only(tmp_path)
    assert [fault.check for fault in caught.value.faults] == ["unfit_grid"]


def test_a_segmentation_moved_by_whole_voxels_is_moved_in_the_mask(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan")
    changed_frames(write_segmentation(tmp_path / "seg.dcm", paths, {"lesion": LESION}), moved((0.7, -0.8, 2.5)))
    np.testing.assert_array_equal(masked(tmp_path), np.roll(LESION, (1, -1, 1), axis=(0, 1, 2)))


def test_an_image_without_annotation_is_what_the_knob_says(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "a")
    write_series(tmp_path / "b", series="1.2.4")
    assert checks(tmp_path) == {"a": [], "b": []}
    assert checks(tmp_path, labels={"organ": 1}) == {"a": ["missing_label"], "b": ["missing_label"]}
    write_segmentation(tmp_path / "seg.dcm", paths, {"organ": ORGAN})
    assert checks(tmp_path) == {"a": [], "b": ["missing_label"]}
    assert checks(tmp_path, unannotated="list") == {"a": [], "b": []}
    assert checks(tmp_path, unannotated="leave_out") == {"a": []}


def test_an_annotation_without_its_images_is_named(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "a")
    write_segmentation(tmp_path / "seg.dcm", paths, {"organ": ORGAN})
    shutil.rmtree(tmp_path / "a")
    assert checks(tmp_path) == {"seg.dcm": ["missing_image"]}


def test_an_annotation_of_a_series_that_is_not_asked_for_is_passed_over(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "mr", series="1.2.4", Modality="MR", SOPClassUID=MRImageStorage)
    write_segmentation(tmp_path / "seg.dcm", paths, {"organ": ORGAN})
    write_series(tmp_path / "ct")
    assert checks(tmp_path, modalities=["CT"], unannotated="list") == {"ct": []}


def test_names_that_are_not_in_labels_are_told_with_the_nearest(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan")
    write_segmentation(tmp_path / "seg.dcm", paths, {"Lesions": LESION})
    (case,) = DICOM(root=tmp_path, labels={"lesion": 1}).cases()
    (fault,) = case.faults
    assert (fault.check, fault.found) == ("unknown_label", "Lesions")
    assert "did you mean lesion" in fault.remedy
    assert not masked(tmp_path, labels={"lesion": 1, "Lesions": 0}).any()


def test_a_damaged_segmentation_is_named(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan")
    path = write_segmentation(tmp_path / "seg.dcm", paths, {"organ": ORGAN})
    dataset = pydicom.dcmread(path)
    dataset.PixelData = dataset.PixelData[:2]
    dataset.save_as(path)
    with pytest.raises(DataError, match=r"seg\.dcm needs to be a whole DICOM file"):
        read_only(tmp_path)


def test_a_segmentation_of_one_radiograph_annotates_this_one(tmp_path: Path) -> None:
    tags = {"FrameOfReferenceUID": "1.2.8", "PatientOrientation": ["L", "F"]}
    paths = [write_radiograph(tmp_path / f"{k}.dcm", voxels(3)[k].astype(np.uint16), **tags) for k in range(3)]
    region = block((0, 1), (1, 4), (2, 6), shape=(1, ROWS, COLUMNS))
    write_segmentation(tmp_path / "seg.dcm", paths[1:2], {"nodule": region})
    source = DICOM(root=tmp_path, spatial_dims=2, unannotated="leave_out")
    (case,) = source.cases()
    assert case.case_id == "1"
    np.testing.assert_array_equal(source.read(case).annotation.mask, region[0])
    assert checks(tmp_path, spatial_dims=2) == {"0": ["missing_label"], "1": [], "2": ["missing_label"]}


# Contours

AFFINE = np.array([[-0.7, 0, 0, 10], [0, -0.8, 0, -20], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])


def corners(*indices: tuple[float, float, float]) -> np.ndarray:
    """Corners in voxel indices (column, row, slice)."""
    return np.array(indices)


def write_structures(
    path: Path,
    regions: dict[str, list[np.ndarray]],
    *,
    affine: np.ndarray = AFFINE,
    kind: str = "CLOSED_PLANAR",
    series: str = "1.2.3",
) -> Path:
    """A structure set with contours that are given in voxel indices."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, generate_uid(entropy_srcs=[str(path)])
    dataset.SeriesInstanceUID, dataset.Modality = generate_uid(entropy_srcs=[str(path), "series"]), "RTSTRUCT"
    referenced, study, frame = Dataset(), Dataset(), Dataset()
    referenced.SeriesInstanceUID = series
    study.RTReferencedSeriesSequence = [referenced]
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(regions.items(), start=1):
        declared, drawn = Dataset(), Dataset()
        declared.ROINumber, declared.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for contour in contours:
            item = Dataset()
            item.ContourGeometricType = kind
            points = contour @ affine[:3, :3].T + affine[:3, 3]
            item.ContourData = [f"{value:.5f}" for value in (points * (-1, -1, 1)).ravel()]
            item.NumberOfContourPoints = len(contour)
            drawn.ContourSequence.append(item)
        dataset.StructureSetROISequence.append(declared)
        dataset.ROIContourSequence.append(drawn)
    return save(dataset, path)


def star(z: int, *, center: tuple[float, float], radius: float, seed: int) -> np.ndarray:
    """A ragged polygon round a centre in one slice."""
    random = np.random.default_rng(seed)
    angles = np.sort(random.uniform(0, 2 * np.pi, 12))
    lengths = radius * random.uniform(0.5, 1.0, 12)
    place = np.stack([np.cos(angles), np.sin(angles)], axis=1) * lengths[:, None] + center
    return np.column_stack([place, np.full(12, float(z))])


def enclosed(contour: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels (columns, rows) whose middles a contour encloses, by matplotlib."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 2)
    return Polygon(contour[:, :2]).contains_points(grid).reshape(shape)


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_voxels_whose_middle_a_contour_encloses_belong_to_the_region(
    tmp_path: Path, orientation: Sequence[float]
) -> None:
    shape = (40, 50)
    write_series(tmp_path / "scan", orientation=orientation, shape=shape)
    affine = read_only(tmp_path).geometry.affine
    contours = [star(z, center=(24, 19), radius=18, seed=z) for z in (1, 2, 3)]
    holes = [star(2, center=(24, 19), radius=5, seed=9)]
    write_structures(tmp_path / "rt.dcm", {"organ": contours + holes}, affine=affine)
    expected = np.zeros((50, 40, SLICES), bool)
    for contour in contours + holes:
        expected[..., int(contour[0, 2])] ^= enclosed(contour, (50, 40))
    mask = read_only(tmp_path).annotation.mask
    np.testing.assert_array_equal(mask, expected)
    assert expected.sum() > 500


def test_a_contour_inside_another_is_a_hole_and_one_beside_it_a_part(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", shape=(12, 12))

    def square(low: float, high: float) -> np.ndarray:
        return corners((low, low, 2), (high, low, 2), (high, high, 2), (low, high, 2))

    write_structures(tmp_path / "rt.dcm", {"organ": [square(0.5, 8.5), square(2.5, 6.5), square(9.5, 10.5)]})
    expected = np.zeros((12, 12), int)
    expected[1:9, 1:9], expected[3:7, 3:7], expected[10, 10] = 1, 0, 1
    np.testing.assert_array_equal(masked(tmp_path)[2], expected)


def test_a_contour_that_leaves_the_image_is_cut_at_its_border(tmp_path: Path) -> None:
    write_series(tmp_path / "scan")
    contour = corners((-5, -5, 0), (2.5, -5, 0), (2.5, 50, 0), (-5, 50, 0))
    write_structures(tmp_path / "rt.dcm", {"organ": [contour]})
    expected = np.zeros((SLICES, ROWS, COLUMNS), int)
    expected[0, :, :3] = 1
    np.testing.assert_array_equal(masked(tmp_path), expected)


@pytest.mark.parametrize("z", [1.5, -1.0, float(SLICES)])
def test_a_contour_between_or_beyond_the_slices_is_refused(tmp_path: Path, z: float) -> None:
    write_series(tmp_path / "scan")
    write_structures(tmp_path / "rt.dcm", {"organ": [corners((1, 1, z), (4, 1, z), (4, 4, z))]})
    with pytest.raises(DataError, match=f"contour 0 of 'organ' at slice {z:.3f}") as caught:
        read_only(tmp_path)
    assert [fault.check for fault in caught.value.faults] == ["unfit_grid"]


def test_a_contour_across_the_slices_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "scan")
    write_structures(tmp_path / "rt.dcm", {"organ": [corners((1, 1, 0), (4, 1, 1), (4, 4, 2))]})
    with pytest.raises(DataError, match="grid"):
        read_only(tmp_path)


def test_points_enclose_nothing(tmp_path: Path) -> None:
    write_series(tmp_path / "scan")
    write_structures(tmp_path / "rt.dcm", {"isocentre": [corners((1, 1, 1.3))]}, kind="POINT")
    assert not masked(tmp_path).any()


def test_contours_are_not_looked_for_on_pictures(tmp_path: Path) -> None:
    write_radiograph(tmp_path / "film.dcm", voxels(1)[0])
    write_structures(tmp_path / "rt.dcm", {"organ": []})
    assert checks(tmp_path, spatial_dims=2) == {"film": []}


# Files that pydicom ships


def real(tmp_path: Path, *names: str) -> Path:
    """A folder of its own for some of pydicom's files, named by its whole path there."""
    root = Path(str(get_testdata_file("CT_small.dcm"))).parent
    tmp_path.mkdir(exist_ok=True)
    for name in names:
        source = root / name
        target = tmp_path / source.name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    return tmp_path


def test_a_real_series_reads_as_simpleitk_reads_it(tmp_path: Path) -> None:
    root = real(tmp_path, "dicomdirtests/98892001")
    read = read_only(root, modalities=["CT"])
    expected, affine = by_simpleitk(root / "98892001" / "CT5N")
    np.testing.assert_array_equal(read.pixels[0], expected)
    np.testing.assert_allclose(read.geometry.affine, affine, atol=1e-6)
    assert (read.case.case_id, read.case.group) == ("98892001__CT5N", "98890234")


def test_faults_of_real_series_are_found(tmp_path: Path) -> None:
    root = real(tmp_path, "dicomdirtests/77654033", "dicomdirtests/98892003", "dicomdirtests/TINY_ALPHA")
    found = checks(root, min_slices=1)
    assert found["77654033__CT2"] == ["slice_gap"]
    assert found["98892003__MR700"] == ["mixed_orientations"]
    assert "missing_tag" in found["TINY_ALPHA__PT000000__ST000000__SE000000"]


def test_real_radiographs_are_turned_round_as_simpleitk_does(tmp_path: Path) -> None:
    source = DICOM(root=real(tmp_path, "dicomdirtests/77654033"), spatial_dims=2)
    cases = source.cases()
    for case in cases:
        assert pydicom.dcmread(case.images[0]).PhotometricInterpretation == "MONOCHROME1"
        expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(case.images[0]), SimpleITK.sitkFloat64))
        np.testing.assert_allclose(source.read(case).pixels, expected, rtol=1e-6)
        assert source.read(case).geometry.spacing_mm == (0.1, 0.1)
    assert len(cases) == 3


def test_a_real_truncated_file_and_a_real_compressed_one(tmp_path: Path) -> None:
    root = real(tmp_path, "MR_truncated.dcm")
    with pytest.raises(DataError, match=r"MR_truncated\.dcm needs to be a whole DICOM file"):
        read_only(root, min_slices=1)
    plain, packed = (real(tmp_path / name, name) for name in ("MR_small.dcm", "MR_small_RLE.dcm"))
    np.testing.assert_array_equal(read_only(plain, min_slices=1).pixels, read_only(packed, min_slices=1).pixels)


def test_a_compression_that_cannot_be_read_is_told_from_damage(tmp_path: Path) -> None:
    root = real(tmp_path, "JPGExtended.dcm")
    with pytest.raises(DataError) as caught:
        read_only(root, spatial_dims=2)
    assert [fault.check for fault in caught.value.faults] == ["unknown_compression"]


def test_a_real_segmentation_lies_on_its_series(tmp_path: Path) -> None:
    path = real(tmp_path, "liver_1frame.dcm") / "liver_1frame.dcm"
    segmentation = pydicom.dcmread(path)
    series = segmentation.ReferencedSeriesSequence[0]
    uids = [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence]
    for uid, z in zip(uids, (-128.69, -129.69, -130.69), strict=True):
        tags = {
            "ImagePositionPatient": [-235.2, -226.8, z],
            "ImageOrientationPatient": list(AXIAL),
            "SOPInstanceUID": uid,
        }
        slice_ = image(
            np.zeros((512, 512), np.int16), series=series.SeriesInstanceUID, PixelSpacing=[0.810547] * 2, **tags
        )
        save(slice_, tmp_path / "ct" / f"{z}.dcm")
    source = DICOM(root=tmp_path)
    (case,) = source.cases()
    mask = source.read(case).annotation.mask
    bits = np.unpackbits(np.frombuffer(segmentation.PixelData, np.uint8), bitorder="little").reshape(512, 512)
    np.testing.assert_array_equal(mask[..., 2], bits.T)  # the highest slice
    assert not mask[..., :2].any()
    assert source.labels[1] == "Liver"


def test_a_real_structure_set_fills_the_area_of_its_contours(tmp_path: Path) -> None:
    path = real(tmp_path, "rtstruct.dcm") / "rtstruct.dcm"
    structures = pydicom.dcmread(path, force=True)
    referenced = structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    uid = referenced.RTReferencedSeriesSequence[0].SeriesInstanceUID
    place = {"origin": (-247.0, -197.0, 0.0), "shape": (40, 50), "PixelSpacing": [10, 10]}
    write_series(tmp_path / "ct", places_mm=(-210, -200, -190, -180, -170), series=str(uid), **place)
    mask = masked(tmp_path, labels={"patient": 1})
    areas_mm2 = (mask > 0).sum(axis=(1, 2)) * 100
    assert areas_mm2.tolist() == [0, 400 * 300, 400 * 300, 400 * 300, 0]
