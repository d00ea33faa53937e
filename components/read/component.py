"""Step read: one shard of the DICOM source, examined and de-identified."""

from kfp import dsl
from kfp.dsl import Dataset, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def read(
    source: str,
    shard: str,
    source_fingerprint: str,
    frames: str,
    deidentification: str,
    store: str,
    workers: int,
    images: Output[Dataset],
):
    """Accept or refuse each object of `shard` (as `3/8`) of `source`, and de-identify it; no labels yet.

    With a `store`, a folder that outlives the run, an interrupted step goes on, and of a source that has
    grown only what is new is read. `source_fingerprint` is not used: it makes changed files a cache miss. The
    de-identification key is in HOUNSFIELD_DEID_KEY, or in the file that HOUNSFIELD_DEID_KEY_FILE names.
    """
    import os
    from pathlib import Path

    from hounsfield.data.examine import Rules
    from hounsfield.data.shard import read_shard
    from hounsfield.data.sources import Shard
    from hounsfield.dicom.deidentify import Profile, key_from
    from hounsfield.dicom.frames import Frames

    rules = Rules(key_from(os.environ), frames=Frames(frames), profile=Profile.parse(deidentification))
    done = read_shard(
        source,
        Path(images.path),
        rules,
        Shard.parse(shard),
        workers=workers,
        store=Path(store) if store else None,
    )
    images.metadata["examined"] = done.examined
    images.metadata["known"] = done.known
