"""Export a trained run to a folder that segments scans without PyTorch and without this repository.

    python code/export.py --run model/LA/cml_8_seed1337 --output exported
    python exported/segment.py labels.nii.gz scan.nii.gz

The folder holds the tested network as ONNX (network.onnx: image in, class probabilities of the test row out), what
turns a scan into its input (preprocessing.json, of own data plan.json, too), windows and post-processing
(network.json), and a reader of 120 lines, segment.py, which needs numpy, scipy, nibabel and onnxruntime alone. It
reads and writes NIfTI, and its label maps are predict.py's. Before the folder is left there, ONNX Runtime and PyTorch
compute random windows, and their probabilities have to agree to 1e-4. What this script needs beside requirements.txt:
pip install -r requirements-export.txt
"""
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from runtime.script import reported

import numpy as np

from evaluation.pooled import is_folds
from evaluation.windows import windows_of
from imaging.cases import in_shell
from imaging.plan import PLAN, read_plan
from imaging.record import PUBLISHED, write_preprocessing, written_values
from runtime.command_line import parsed
from runtime.errors import DEBUG, InputError
from runtime.files import ROOT, make_folder, writing
from runtime.records import write_record
from training import datasets
from training.trained import load_run, preparation_of

PACKAGES = "onnx", "onnxruntime"
TOLERANCE = 1e-4        # by which a probability may differ from PyTorch's
READER = Path(__file__).parent / "evaluation" / "templates" / "segment.py"


@dataclass(kw_only=True)
class Options:
    """Export a trained run to a folder that segments scans without PyTorch and without this repository."""

    run: Path                       # folder that a train script wrote
    output: Path                    # folder to be made: network.onnx, network.json, preprocessing.json, segment.py
    checkpoint: Literal["last", "best", "pretrained"] = "last"  # weights of the run


def check_readable_there(run, preprocessing):
    """InputError for preprocessing that the reader does not know."""
    if preprocessing.crop in ("foreground", "brain") or preprocessing.clip or preprocessing.background == "own":
        raise InputError(f"{run}: its scans were prepared with {preprocessing.normalise} and the crop "
                         f"{preprocessing.crop}, and an exported reader does not crop; segment with predict.py")


def described(recipe, record):
    """What the reader needs to know beside the preprocessing, as predict.py takes it by default; JSON-ready.

    record: the run's own preprocessing, or None.
    """
    values = written_values(record, recipe.num_classes)
    kept = recipe.keep_largest
    return {"method": recipe.method, "num_classes": recipe.num_classes, "patch_size": list(recipe.patch_size),
            "stride": None, "weights": None, "half_resolution": recipe.half_resolution,
            "standardise": recipe.normalise == "zscore",
            "keep_largest": list(range(1, recipe.num_classes)) if kept is True else list(kept or ()),
            "values": values.tolist(), "dtype": str(values.dtype)} | windows_of(recipe, fast=True)


def write_network(path, method, shape):
    """The first view of `method.predict` as ONNX: image (batch, *shape) -> probabilities (batch, C, *S).

    method: on the CPU, with torch's own layers. By way of TorchScript, which takes 0.6 s of CPU time for a narrow V-Net
    where torch.export takes 8.
    """
    import torch  # here: options are read without PyTorch

    class Tested(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tested = method.tested     # and not what else a method has, such as the state of an optimiser

        def forward(self, image):
            return next(iter(method.predicted(image).values()))

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Tested().eval(), (torch.zeros(1, *shape),), path, dynamo=False, opset_version=18,
                          input_names=["image"], output_names=["probabilities"],
                          dynamic_axes={"image": {0: "batch"}, "probabilities": {0: "batch"}})


def largest_difference(path, method, shape):
    """By how much the probabilities of an exported network and of its method differ at most, on two random windows."""
    import onnxruntime
    import torch

    from evaluation.inference import inference
    windows = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with inference(method):
        [ours] = method.predicted(windows).values()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [theirs] = session.run(["probabilities"], {"image": windows.numpy()})
    return float(np.abs(ours.numpy() - theirs).max())


@reported
def main(args=None):
    options = parsed(Options, args, description=f"{__doc__}\n{DEBUG}")
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise InputError(f"{' and '.join(missing)}: not installed; pip install -r "
                         f"{ROOT / 'requirements-export.txt'} installs what export.py needs")
    if options.output.exists():
        raise InputError(f"--output {options.output}: is there already, expected a folder to be made; name another "
                         "one, or remove it")
    if is_folds(options.run):
        raise InputError(f"--run {options.run}: is a folder of folds, and one network is exported; give one of them, "
                         f"such as {options.run / 'fold1'}, or a run on all labelled cases")
    dataset = datasets.of_run(options.run)
    record = preparation_of(options.run)
    preprocessing = record or PUBLISHED[dataset.data.dataset]
    check_readable_there(options.run, preprocessing)
    trained = load_run(options.run, options.checkpoint, device=None)
    recipe, method = trained.recipe, trained.method
    make_folder(options.output.absolute().parent)
    with writing(options.output), tempfile.TemporaryDirectory(
            prefix=f".{options.output.name}-", dir=options.output.absolute().parent) as folder:
        folder = Path(folder) / options.output.name
        folder.mkdir()
        shape = recipe.in_channels, *recipe.patch_size
        write_network(folder / "network.onnx", method, shape)
        difference = largest_difference(folder / "network.onnx", method, shape)
        if not difference <= TOLERANCE:
            raise InputError(f"{options.run}: the exported network's probabilities differ by {difference:.2g} from the "
                             f"run's on a random window, expected {TOLERANCE:g} at most; nothing is left in "
                             f"{options.output}; segment with predict.py")
        write_preprocessing(folder, preprocessing)
        write_record(folder / "network.json", described(recipe, record), indent=2)
        shutil.copyfile(READER, folder / READER.name)
        plan = getattr(recipe, "plan", None) or recipe.data_dir / PLAN
        if record and plan.is_file():
            if read_plan(plan)[0].made == record.made:
                shutil.copyfile(plan, folder / PLAN)
            else:
                print(f"{plan}: is left out, since the run's scans were prepared in another way")
        folder.rename(options.output)
    ends = [f"_{end}" for end in preprocessing.modalities] if recipe.in_channels > 1 else [""]
    print(f"{options.output}: {', '.join(sorted(path.name for path in options.output.iterdir()))}; on random windows, "
          f"probabilities differ by {difference:.1g} from the run's\n"
          f"next: python {in_shell(options.output / READER.name)} labels.nii.gz "
          + " ".join(f"scan{end}.nii.gz" for end in ends))


if __name__ == "__main__":
    main()
