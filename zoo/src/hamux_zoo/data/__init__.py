"""Images and labels: read, changed at random, and cut into batches."""

from ._changes import (
    AUGMENTATIONS as AUGMENTATIONS,
    augment as augment,
    blur as blur,
    gaussian_noise as gaussian_noise,
    salt_and_pepper as salt_and_pepper,
)
from ._folders import files_below as files_below, picture_endings as picture_endings
from ._images import (
    Images as Images,
    Loader as Loader,
    batches as batches,
    list_samples as list_samples,
    load_samples as load_samples,
    split_off as split_off,
    whole_number as whole_number,
)
from ._tables import (
    Data as Data,
    Reading as Reading,
    Source as Source,
    load_images as load_images,
    read as read,
    splits as splits,
    stream_images as stream_images,
)
