"""A checkpoint of a run as a model that comes with the package: float16 weights, its config without paths.

    python scripts/pack_weights.py RUN_OR_CHECKPOINT NAME

Writes pipeline/weights/NAME/model.safetensors and state.json; the model card beside them is written by hand.
"""

from __future__ import annotations

import dataclasses
import sys

from pipeline import storage
from pipeline.config import io as config_io
from pipeline.model.checkpoints import FORMAT, MODEL, STATE, describe_file, load_model
from pipeline.model.tensor_files import Part, encode, file_name
from pipeline.storage.json_files import write_json
from pipeline.weights import FOLDER


def main() -> None:
    source, name = sys.argv[1:]
    model, info = load_model(storage.absolute(source))
    assert info.config is not None, "a checkpoint of ours"
    run = config_io.replace(info.config, **{"out": "", "data.train": "", "data.val": "", "model.start": ""})
    run = dataclasses.replace(run, tracking=type(run.tracking)())
    data = encode(Part({key: value.half().contiguous() for key, value in model.state_dict().items()}))
    out = str(FOLDER / name)
    storage.write_bytes(storage.join(out, file_name(MODEL)), data)
    described = {"format": FORMAT, "step": info.step, "position": None, "best": None, "mlflow_run": None}
    files = {file_name(MODEL): describe_file(data)}
    write_json(storage.join(out, STATE), {**described, "config": config_io.to_dict(run), "files": files})
    print(f"{out}: step {info.step}, {len(data) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
