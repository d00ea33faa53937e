"""The container images that the steps run in on a cluster.

`pipelines/run.py` sets the tags to a digest of the source tree before it imports the components: KFP's
cache key holds the image, so on the laptop too an edit of the code is a cache miss.
"""

import os

TRAIN = os.environ.get("HOUNSFIELD_TRAIN_IMAGE", "hounsfield/train:0.1.0")
GUARD = os.environ.get("HOUNSFIELD_GUARD_IMAGE", "hounsfield/guard:0.1.0")

STORAGE_CLAIM = os.environ.get("HOUNSFIELD_STORAGE_CLAIM", "")
"""A volume that `tune` and `train` get at /storage: for jobs of the cluster whose storage is pvc://CLAIM/..."""
