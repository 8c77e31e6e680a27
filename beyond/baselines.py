"""Plain methods to find abnormal images, of scikit-learn and NumPy. Nothing is trained by gradients.

| name                | score                                                                      |
|---------------------|----------------------------------------------------------------------------|
| PCA                 | squared error of the reconstruction from as many components as the network |
|                     | has latents                                                                |
| cosine              | mean cosine distance of the pixels to the 5 nearest training images        |
| Euclidean           | the same, with the Euclidean distance                                      |
| patches             | the distance of each patch of 7 x 7 pixels to the nearest training image's |
|                     | at the same place, or 1 pixel beside it; in standard deviations of the     |
|                     | validation images at this place; the largest                               |
| random-convolutions | 64 random filters of 5 x 5 pixels, ReLU, means of 4 x 4 pixels; squared    |
|                     | Mahalanobis distance from the training images in 150 principal components  |

Patches are those of SPADE (Cohen and Hoshen, 2020) and PatchCore (Roth et al., 2022), of pixels in
place of the features of a pretrained network.
"""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.neighbors import NearestNeighbors

import autoencoder as ae
from beyond.pca import decode_by_pca, fit_pca

NAMES = ("PCA", "cosine", "Euclidean", "patches", "random-convolutions")
NEIGHBOURS = 5
NEIGHBOUR_IMAGES = 10000  # the training images among which neighbours are looked for
PATCH = 7
PATCH_IMAGES = 1000  # those whose patches are compared
FILTERS = 64
FILTER = 5
POOL = 4
CONVOLUTION_IMAGES = 2000  # those to which random convolutions are fitted


def make_baselines(data, components):
    """Fits the methods to normal images. Returns {name: function of images (m, X_n) that returns their
    scores (m,)}.

    data: DataSets; components: of PCA.
    """
    train = data.train.images
    pca = fit_pca(train, components)

    def pca_error(images):
        reconstructions = decode_by_pca(pca, pca.transform(images))
        return np.square(reconstructions - images).sum(axis=1)

    functions = [pca_error]
    neighbours = train[:NEIGHBOUR_IMAGES]
    n = min(NEIGHBOURS, len(neighbours))
    for metric in ("cosine", "euclidean"):
        nearest = NearestNeighbors(n_neighbors=n, algorithm="brute", metric=metric).fit(neighbours)
        functions.append(lambda images, nearest=nearest: nearest.kneighbors(images)[0].mean(axis=1))
    functions.append(make_patches(train[:PATCH_IMAGES], data.validation.images))
    functions.append(make_random_convolutions(train[:CONVOLUTION_IMAGES]))
    return dict(zip(NAMES, functions))


def windows(images, size):
    """Returns all squares of `size` x `size` pixels, or as many as there are, of images (n, X_n):
    (n, height, width, pixels of a square)."""
    images = ae.as_2d(images)
    sides = [min(size, side) for side in images.shape[1:]]
    found = np.lib.stride_tricks.sliding_window_view(images, sides, axis=(1, 2))
    return found.reshape(*found.shape[:3], -1)


def make_patches(train, validation):
    """Returns the function of method patches. train, validation: (n, X_n)"""
    references = windows(train, PATCH)
    height, width = references.shape[1:3]
    # Every second place of MNIST's images, fewer of larger ones, for speed; but none is left out.
    step = min(PATCH, max(2, height // 12))
    places = [(y, x) for y in range(0, height, step) for x in range(0, width, step)]

    def distances(images):
        """(m, X_n) -> (m, places)"""
        patches = windows(images, PATCH)
        found = []
        for y, x in places:
            near = references[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            near = near.reshape(-1, near.shape[-1])
            found.append(pairwise_distances_argmin_min(patches[:, y, x], near)[1])
        return np.stack(found, axis=1)

    usual = distances(validation)
    median = np.median(usual, axis=0)
    sd = usual.std(axis=0)
    sd += 0.1 * sd.mean() + 1e-6  # where images hardly differ
    return lambda images: np.maximum(0, (distances(images) - median) / sd).max(axis=1)


def make_random_convolutions(train):
    """Returns the function of method random-convolutions. train: (n, X_n)"""
    pixels = windows(train[:1], FILTER).shape[-1]
    filters = np.random.default_rng(0).standard_normal((pixels, FILTERS), np.float32)
    filters -= filters.mean(axis=0)

    def features(images):
        """(m, X_n) -> (m, places x FILTERS)"""
        maps = np.maximum(0, windows(images, FILTER) @ filters)
        rows = np.arange(0, maps.shape[1], POOL)
        columns = np.arange(0, maps.shape[2], POOL)
        sums = np.add.reduceat(np.add.reduceat(maps, rows, axis=1), columns, axis=2)
        return sums.reshape(len(images), -1)

    def features_of_batches(images):
        batches = np.array_split(images, 1 + len(images) // 200)
        return np.concatenate([features(batch) for batch in batches])

    of_train = features_of_batches(train)
    n = min(150, len(train) // 2, of_train.shape[1])
    pca = PCA(n, whiten=True, svd_solver="randomized", random_state=0).fit(of_train)
    return lambda images: np.square(pca.transform(features_of_batches(images))).sum(axis=1)
