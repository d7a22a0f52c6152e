"""LA: 3D gadolinium-enhanced MRI of the left atrium, 80 training scans."""
from dataloaders.volumes import Volumes


class LA(Volumes):
    dataset = "LA"
    lists = {"train": "train.list", "test": "test.list"}

    def paths(self, name):
        return [f"2018LA_Seg_Training Set/{name}/mri_norm2.h5", f"{name}/mri_norm2.h5", f"{name}.h5", f"LA/{name}.h5",
                f"Pancreas_h5/{name}_norm.h5", f"Pancreas_h5/{name}.h5"]
