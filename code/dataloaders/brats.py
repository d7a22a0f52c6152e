"""BraTS2019: 3D MRI of brain tumours, FLAIR, whole tumour, 250 training scans."""
from dataloaders.volumes import Volumes
from imaging.patients import named_in


class BraTS(Volumes):
    dataset = "BraTS2019"
    lists = {"train": "train.txt", "val": "val.txt", "test": "test.txt"}
    patient_of = staticmethod(named_in)     # of BraTS-GLI-00005-101, one of several scans

    def paths(self, name):
        return [f"data/{name}.h5", f"{name}.h5"]
