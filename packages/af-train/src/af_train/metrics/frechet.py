"""Distances between two sets of features: Frechet, and the unbiased kernel distance (MMD)."""

import numpy as np
from numpy.typing import NDArray

from af_train.metrics.contract import UnmeasurableClipError

Matrix = NDArray[np.float64]


def frechet_distance(made: NDArray[np.floating], true: NDArray[np.floating]) -> float:
    """Return the squared Frechet distance of Gaussians fitted to features ``[n, d]``.

    Heusel et al. (2017), equation 6, with the unbiased covariance, in float64. With fewer samples
    than ``d`` + 1 the covariances are rank-deficient and the distance of equal distributions is
    far above 0: compare only values of equal sample sizes.
    """
    return frechet_of_gaussians(*_moments(made), *_moments(true))


def frechet_of_gaussians(mean_a: Matrix, cov_a: Matrix, mean_b: Matrix, cov_b: Matrix) -> float:
    """Return ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``.

    The trace of the root is the sum of the roots of the eigenvalues of the symmetric matrix
    ``C_a^(1/2) C_b C_a^(1/2)``: real, and safe for singular covariances without adding to them.
    """
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ cov_b @ root).clip(0)
    apart = mean_a - mean_b
    return float(apart @ apart + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(cross).sum())


def kernel_distance(made: NDArray[np.floating], true: NDArray[np.floating]) -> float:
    """Return the unbiased squared MMD of features ``[n, d]`` with ``k(x, y) = (x y / d + 1)^3``.

    Binkowski et al. (2018), equation 4, over all pairs at once. It may be negative.
    """
    a, b = _features(made), _features(true)
    return (
        _off_diagonal_mean(_kernel(a, a))
        + _off_diagonal_mean(_kernel(b, b))
        - 2 * float(_kernel(a, b).mean())
    )


def _kernel(a: Matrix, b: Matrix) -> Matrix:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _off_diagonal_mean(kernel: Matrix) -> float:
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))


def _moments(features: NDArray[np.floating]) -> tuple[Matrix, Matrix]:
    values = _features(features)
    return values.mean(0), np.cov(values, rowvar=False).reshape(values.shape[1], values.shape[1])


def _features(features: NDArray[np.floating]) -> Matrix:
    if features.ndim != 2 or len(features) < 2:
        raise UnmeasurableClipError(
            f"A distance of distributions needs features [n >= 2, d], not {list(features.shape)}."
        )
    return np.asarray(features, np.float64)
