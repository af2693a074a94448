"""Makes small DICOM files, with pydicom of the system's Python."""
import datetime
import os
import random

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
SR = "1.2.840.10008.5.1.4.1.1.88.11"

# Names and IDs that no log line may hold.
PATIENT_NAME = "Zzyzxson^Quirinius"
PATIENT_ID = "PID-Xq7-424242"


def write(path, study=None, series=None, sop=None, modality="CT", size=4096, seed=None, sop_class=CT, **attributes):
    """Writes one instance whose pixel data fills it up to about `size` bytes; returns its SOP Instance UID."""
    rng = random.Random(seed if seed is not None else str(path))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = sop or generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.is_little_endian, ds.is_implicit_VR = True, False
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID = study or generate_uid()
    ds.SeriesInstanceUID = series or generate_uid()
    ds.PatientName = PATIENT_NAME
    ds.PatientID = PATIENT_ID
    ds.Modality = modality
    ds.StudyDate = datetime.date(2026, 11, 23).strftime("%Y%m%d")
    for name, value in attributes.items():
        setattr(ds, name, value)
    pixels = max(16, size - 900) & ~1
    ds.Rows, ds.Columns, ds.BitsAllocated = 1, min(pixels, 65535), 8
    ds.add_new((0x7FE0, 0x0010), "OB", rng.randbytes(pixels))
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    part = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.part")
    ds.save_as(part, write_like_original=False)
    os.rename(part, path)
    return str(ds.SOPInstanceUID)
