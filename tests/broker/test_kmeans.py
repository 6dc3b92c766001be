import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.codecs.kmeans import Floats, Points, cluster, nearest


def clustered(rng: np.random.Generator, clusters: int, count: int, size: int, noise: float = 0.1) -> Floats:
    centres = rng.standard_normal((clusters, size))
    points = centres[rng.integers(clusters, size=count)] + noise * rng.standard_normal((count, size))
    return points.astype(np.float32)


def squared_error(points: Floats, centroids: Floats, codes: npt.NDArray[np.uint8]) -> float:
    return float(((points - centroids[codes]).astype(np.float64) ** 2).sum())


def error_of(points: Floats, count: int, seed: int) -> float:
    prepared = Points(points[None])
    centroids = cluster(prepared, count, np.random.default_rng(seed))
    return squared_error(points, centroids[0], nearest(prepared, centroids)[0])


def plain_kmeans(points: Floats, count: int, seed: int) -> float:
    """Textbook k-means: k-means++ and ten of Lloyd's steps over all points, in double precision."""
    rng = np.random.default_rng(seed)
    exact = points.astype(np.float64)
    centroids = exact[[rng.integers(len(exact))]]
    while len(centroids) < count:
        gaps = ((exact[:, None] - centroids) ** 2).sum(axis=2).min(axis=1)
        centroids = np.vstack((centroids, exact[rng.choice(len(exact), p=gaps / gaps.sum())]))
    for _ in range(10):
        codes = ((exact[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
        centroids = np.stack(
            [
                exact[codes == code].mean(axis=0) if (codes == code).any() else centroids[code]
                for code in range(count)
            ]
        )
    return float(((exact[:, None] - centroids) ** 2).sum(axis=2).min(axis=1).sum())


@pytest.mark.parametrize(
    ("count", "points", "size"), [(2, 3000, 8), (4, 3000, 16), (12, 1500, 4), (32, 3000, 8)]
)
def test_the_error_is_as_small_as_that_of_textbook_kmeans(count: int, points: int, size: int) -> None:
    data = [clustered(np.random.default_rng(seed), 2 * count, points, size, 0.3) for seed in range(6)]
    ours = sum(error_of(x, count, seed) for seed, x in enumerate(data))
    theirs = sum(plain_kmeans(x, count, seed) for seed, x in enumerate(data))
    assert ours < 1.03 * theirs


def test_separate_clusters_are_found() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = clustered(rng, 16, 4000, 8, noise=0.01)
        assert error_of(x, 16, seed) < 2 * 4000 * 8 * 0.01**2


def test_a_codebook_of_each_group_equals_that_of_the_group_alone() -> None:
    rng = np.random.default_rng(0)
    groups = np.stack([clustered(rng, 3, 200, 4, noise=0.01) + 10 * shift for shift in range(5)])
    together = cluster(Points(groups), 3, rng)
    for group, centroids in zip(groups, together, strict=True):
        error = squared_error(group, centroids, nearest(Points(group[None]), centroids[None])[0])
        assert error < 2 * 200 * 4 * 0.01**2


def test_nearest_is_nearest_with_and_without_columns() -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((3, 700, 5), np.float32)
    centroids = rng.standard_normal((3, 9, 5), np.float32)
    expected = ((rows[:, :, None] - centroids[:, None]) ** 2).sum(axis=3).argmin(axis=2)
    points = Points(rows)
    np.testing.assert_array_equal(nearest(points, centroids), expected)
    points.add_columns()
    np.testing.assert_array_equal(nearest(points, centroids), expected)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    groups=st.integers(1, 3),
    kinds=st.integers(1, 40),
    spare=st.integers(0, 5),
    points=st.sampled_from([1, 7, 60, 300, 3000]),
    size=st.sampled_from([1, 3, 64]),
)
def test_with_enough_centroids_every_kind_of_point_has_its_own(
    seed: int, groups: int, kinds: int, spare: int, points: int, size: int
) -> None:
    rng = np.random.default_rng(seed)
    different = rng.standard_normal((groups, kinds, size), np.float32)
    often = np.minimum(
        rng.geometric(0.3, (groups, points)) - 1, kinds - 1
    )  # the last kinds are rare or missing
    rows = np.take_along_axis(different, often[:, :, None], axis=1)
    prepared = Points(rows)
    centroids = cluster(prepared, kinds + spare, rng)
    codes = nearest(prepared, centroids).astype(np.intp)
    there = np.take_along_axis(centroids, codes[:, :, None], axis=1)
    np.testing.assert_allclose(there, rows, rtol=1e-3, atol=1e-3)


def test_a_single_odd_point_among_thousands_gets_a_centroid() -> None:
    rows = np.zeros((1, 20_000, 4), np.float32)
    rows[0, 12_345] = 1
    centroids = cluster(Points(rows), 2, np.random.default_rng(0))
    assert sorted(centroids[0, :, 0].tolist()) == [0, 1]


def test_one_centroid_is_about_the_mean() -> None:
    rows = np.random.default_rng(0).standard_normal((1, 500, 3), np.float32)
    centroids = cluster(Points(rows), 1, np.random.default_rng(0))
    np.testing.assert_allclose(centroids[0, 0], rows[0].mean(axis=0), atol=1e-5)


def test_the_generator_decides() -> None:
    rows = np.random.default_rng(0).standard_normal((2, 5000, 4), np.float32)
    first, second = (cluster(Points(rows), 9, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
