"""Methods to find abnormal images without a network, of scikit-learn and NumPy.

README.md defines their scores. Patches are those of SPADE (Cohen and Hoshen, 2020) and PatchCore (Roth
et al., 2022), of pixels in place of the features of a pretrained network.
"""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances, pairwise_distances_argmin_min
from sklearn.neighbors import NearestNeighbors

import autoencoder as ae
from beyond.common import progress_bar
from beyond.pca import fit_pca, reconstruct_by_pca

NAMES = ("PCA", "cosine", "Euclidean", "patches", "random-convolutions")
NEIGHBOURS = 5
NEIGHBOUR_IMAGES = 60000  # the training images among which neighbours are looked for
PATCH = 7
PATCH_IMAGES = 1000  # the training images whose patches are compared
FILTERS = 64
FILTER = 5
POOL = 4
CONVOLUTION_IMAGES = 2000  # those to which random convolutions are fitted


def make_baselines(data, components):
    """Fits the methods to normal images. Returns {name: function of images (m, X_n) that returns their
    scores (m,), which are at least 0}.

    data: DataSets; components: of PCA. Raises AutoEncoderError if there is only one training image.
    """
    train = data.train.images
    ae.require(len(train) > 1, "baselines need two training images or more")
    pca = fit_pca(train, components)

    def pca_error(images):
        return np.square(reconstruct_by_pca(pca, images) - images).sum(axis=1)

    functions = [pca_error]
    neighbours = train[:NEIGHBOUR_IMAGES]
    n = min(NEIGHBOURS, len(neighbours))
    for metric in ("cosine", "euclidean"):
        nearest = NearestNeighbors(n_neighbors=n, algorithm="brute", metric=metric).fit(neighbours)
        functions.append(lambda images, nearest=nearest: nearest.kneighbors(images)[0].mean(axis=1))
    functions.append(make_patches(train[:PATCH_IMAGES]))
    functions.append(make_random_convolutions(train[:CONVOLUTION_IMAGES]))
    return dict(zip(NAMES, functions))


def windows(images, size):
    """Returns all squares of `size` x `size` pixels, or as many as there are, of images (n, X_n), as a view:
    (n, height, width, rows, columns)."""
    images = ae.as_2d(images)
    sides = [min(size, side) for side in images.shape[1:]]
    return np.lib.stride_tricks.sliding_window_view(images, sides, axis=(1, 2))


def make_patches(train):
    """Returns the function of method patches. train: (n, X_n)"""
    references = windows(train, PATCH)
    n, height, width, rows, columns = references.shape
    places = [(y, x) for y in patch_places(height) for x in patch_places(width)]

    def near(y, x):
        """Returns the patches of the training images near a place: (n x places, pixels)."""
        patches = references[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        return patches.reshape(-1, rows * columns)

    def distances(images):
        """(m, X_n) -> (m, places)"""
        patches = windows(images, PATCH)
        found = []
        for y, x in progress_bar("patches", places):
            of_images = patches[:, y, x].reshape(-1, rows * columns)
            found.append(pairwise_distances_argmin_min(of_images, near(y, x))[1])
        return np.stack(found, axis=1)

    # What is usual are the distances of a training image to the others. Those of the validation images
    # have to be like those of new images, because their scores become the threshold.
    usual = []
    for y, x in progress_bar("patches", places):
        of_train = references[:, y, x].reshape(n, rows * columns)
        to_patches = pairwise_distances(of_train, near(y, x))
        to_images = to_patches.reshape(n, n, -1).min(axis=2)
        np.fill_diagonal(to_images, np.inf)
        usual.append(to_images.min(axis=1))
    median = np.median(usual, axis=1)
    sd = np.std(usual, axis=1)
    # More than the standard deviation of the place, which is 0 where images are all alike.
    sd = sd + 0.1 * sd.mean() + 0.01 * median.mean() + 1e-6
    return lambda images: np.maximum(0, (distances(images) - median) / sd).max(axis=1)


def patch_places(n):
    """Returns which of n places, in one direction, have a patch: every third one or fewer, and the last. No
    pixel is left out."""
    step = min(PATCH, max(3, n // 12))
    return sorted({*range(0, n, step), n - 1})


def make_random_convolutions(train):
    """Returns the function of method random-convolutions. train: (n, X_n)"""
    pixels = windows(train[:1], FILTER)[0, 0, 0].size
    filters = np.random.default_rng(0).standard_normal((pixels, FILTERS), np.float32)
    filters -= filters.mean(axis=0)

    def features(images):
        """(m, X_n) -> (m, places x FILTERS)"""
        found = []
        for batch in np.array_split(images, 1 + images.size // 200_000):  # of some 100 MB each
            squares = windows(batch, FILTER)
            maps = np.maximum(0, squares.reshape(*squares.shape[:3], pixels) @ filters)
            rows = np.arange(0, maps.shape[1], POOL)
            columns = np.arange(0, maps.shape[2], POOL)
            sums = np.add.reduceat(np.add.reduceat(maps, rows, axis=1), columns, axis=2)
            found.append(sums.reshape(len(batch), -1))
        return np.concatenate(found)

    of_train = features(train)
    n = min(150, len(train) // 2, of_train.shape[1])
    pca = PCA(n, whiten=True, svd_solver="randomized", random_state=0).fit(of_train)
    return lambda images: np.square(pca.transform(features(images))).sum(axis=1)
