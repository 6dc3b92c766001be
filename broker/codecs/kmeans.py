"""K-means, quick enough to run on every batch of a small device.

Letters: R groups, each clustered on its own; N points per group; s dimensions; L centroids per group.

Lloyd's algorithm, made quicker in four ways:

- Most steps use a sample of the points. A mean of n points has an error that is larger by a factor of about
  1 + 1/n. For few centroids (up to MAX_FEW) a sample is enough; for many, the last step uses all points.
- A step goes beyond the cluster's mean (over-relaxation). While the clusters around it move, a mean goes on
  moving in much the same direction, so fewer steps are needed. The last step stops at the mean.
- K-means may end in a poor local optimum. So few centroids begin as the best of several draws. Of many
  centroids, some that are needed least are relocated to where the error is largest.
- All work is matrix products and sequential passes over memory. With the points as columns,
  `c.x - |c|^2 / 2` scores all centroids against all points, and the largest score of a column is that of the
  nearest centroid. Where a score equals its column's largest, the point is a member of the cluster. That is a
  0/1 matrix, and its product with the points gives the sums over the members.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

MAX_FEW = 4  # up to so many centroids count as few

BESIDE_POWER_OF_TWO = 16
"""More points in a sample: columns of 2**10 values lie at the same places of the first-level cache."""
MIN_SAMPLE_POINTS = 1024
SAMPLE_POINTS_PER_CENTROID_IF_FEW = 256
SAMPLE_POINTS_PER_CENTROID_IF_MANY = 32

STARTS_IF_FEW = 16  # each drawn from its own part of the sample; the best one is taken
DRAWS_FROM_FEW_POINTS = 4  # where there are too few for parts
JUDGES_IF_FEW = 256  # points by whose error
STEPS_IF_FEW = 3

STEPS_ON_SAMPLE_IF_MANY = 4
RELOCATE_AT_STEPS = (1, 3)  # which of these steps relocate centroids
CENTROIDS_PER_RELOCATED = 8  # one centroid in so many is relocated, at each of those steps
STEPS_ON_ALL_POINTS_IF_MANY = 1

OVER_RELAXATION = np.float32(1.9)  # a step's length, as a multiple of the way to the mean

MIN_SEEDING_POINTS = 64
SEEDING_POINTS_PER_CENTROID = 8
SEEDING_ROUNDS = 8  # about so many draws for all centroids; 15 centroids or fewer are drawn one by one

SAME_IN_FLOAT16 = np.float32(2**-24)  # points at a smaller squared relative distance are equal in float16


class Points:
    """The points of all groups.

    Attributes:
        rows: Shape (R, N, s), C-contiguous, of magnitudes whose squares neither under- nor overflow.
        columns: The same points as columns, with a row of ones below: shape (R, s + 1, N). None before
            `add_columns`, which pays where the points are scored several times.
    """

    def __init__(self, rows: Floats, columns: Floats | None = None) -> None:
        self.rows = rows
        self.columns = columns

    def __len__(self) -> int:
        return int(self.rows.shape[1])

    def add_columns(self) -> Floats:
        """Fills `columns`, in pieces that fit into the processor's first-level cache, and returns them."""
        if self.columns is not None:
            return self.columns
        groups, total, size = self.rows.shape
        self.columns = columns = np.empty((groups, size + 1, total), np.float32)
        columns[:, size] = 1
        piece = max(1, 2**13 // size)
        for start in range(0, total, piece):
            part = self.rows[:, start : start + piece]
            columns[:, :size, start : start + piece] = part.transpose(0, 2, 1)
        return columns

    def sample(self, count: int, rng: np.random.Generator) -> "Points":
        """Draws `count` points with replacement, at the same places in all groups.

        Where there are no more than `count` points, returns all of them in random order.
        """
        total = len(self)
        picks = rng.integers(total, size=count) if count < total else rng.permutation(total)
        return Points(np.take(self.rows, picks, axis=1))

    def score(self, centroids: Floats, out: Floats) -> None:
        """Writes `c.x - |c|^2 / 2` for centroids of shape (R, L, s) into `out`, shape (R, L, N)."""
        half_squares = _half_squares(centroids)[:, :, None]
        if self.columns is None:
            products = np.matmul(self.rows, np.ascontiguousarray(centroids.transpose(0, 2, 1)))
            np.subtract(products.transpose(0, 2, 1), half_squares, out=out)
        else:
            np.matmul(np.concatenate((centroids, -half_squares), axis=2), self.columns, out=out)

    def sums(self, is_member: Floats) -> tuple[Floats, Floats]:
        """Adds up members, 0/1, shape (R, L, N): their sums, (R, L, s), and how many they are, (R, L, 1)."""
        if self.columns is not None and is_member.shape[1] <= MAX_FEW:
            both = np.matmul(is_member, self.columns.transpose(0, 2, 1))
            return both[:, :, :-1], both[:, :, -1:]
        return np.matmul(is_member, self.rows), np.matmul(is_member, np.ones((len(self), 1), np.float32))


def cluster(points: Points, count: int, rng: np.random.Generator) -> Floats:
    """Finds `count` centroids in each group; with at most `count` different points, those are the centroids.

    Args:
        points: N points in each of R groups.
        count: L, 1 to 256.
        rng: Draws the sample and the first centroids.

    Returns:
        Shape (R, L, s).
    """
    if len(points) <= count:
        return np.pad(points.rows, ((0, 0), (0, count - len(points)), (0, 0)))
    seen, centroids, members = (_cluster_few if count <= MAX_FEW else _cluster_many)(points, count, rng)
    some_equal = members.sum() > members.shape[0] * len(seen)  # equal centroids have the same members
    return _use_all(points, centroids) if some_equal or not members.all() else centroids


def _cluster_few(points: Points, count: int, rng: np.random.Generator) -> tuple[Points, Floats, Floats]:
    """Returns the points that the last step used, the centroids, and the number of members of each."""
    wanted = max(MIN_SAMPLE_POINTS, count * SAMPLE_POINTS_PER_CENTROID_IF_FEW) + BESIDE_POWER_OF_TWO
    sample = points.sample(wanted, rng)
    return sample, *_lloyd(sample, _best_start(sample, count, rng), STEPS_IF_FEW)


def _best_start(sample: Points, count: int, rng: np.random.Generator) -> Floats:
    """Returns that one of several first sets of centroids that errs least, shape (R, count, s).

    Args:
        sample: N points in each of R groups, in random order.
        count: Number of centroids, below N.
        rng: Makes the draws.
    """
    groups, total, size = sample.rows.shape
    part = total // STARTS_IF_FEW
    if part < MIN_SEEDING_POINTS:  # too few to divide
        draws, parts = DRAWS_FROM_FEW_POINTS, sample.rows.repeat(DRAWS_FROM_FEW_POINTS, axis=0)
    else:
        draws, parts = STARTS_IF_FEW, sample.rows[:, : STARTS_IF_FEW * part].reshape(-1, part, size)
    starts = _seed(parts, count, rng).reshape(groups, draws * count, size)
    judges = Points(sample.rows[:, -JUDGES_IF_FEW:], sample.add_columns()[:, :, -JUDGES_IF_FEW:])
    scores = np.empty((groups, draws * count, len(judges)), np.float32)
    judges.score(starts, scores)
    least = scores.reshape(groups, draws, count, len(judges)).max(axis=2).sum(axis=2).argmax(axis=1)
    best: Floats = starts.reshape(groups, draws, count, size)[np.arange(groups), least]
    return best


def _cluster_many(points: Points, count: int, rng: np.random.Generator) -> tuple[Points, Floats, Floats]:
    """Returns the same as `_cluster_few`."""
    wanted = max(MIN_SAMPLE_POINTS, count * SAMPLE_POINTS_PER_CENTROID_IF_MANY) + BESIDE_POWER_OF_TWO
    sample = points.sample(wanted, rng)
    sample.add_columns()
    centroids, _ = _lloyd(sample, _seed(sample.rows, count, rng), STEPS_ON_SAMPLE_IF_MANY, RELOCATE_AT_STEPS)
    points.add_columns()
    return points, *_lloyd(points, centroids, STEPS_ON_ALL_POINTS_IF_MANY)


def nearest(points: Points, centroids: Floats) -> npt.NDArray[np.uint8]:
    """Returns the number of the nearest centroid for each point, shape (R, N).

    Args:
        points: N points in each of R groups.
        centroids: Shape (R, L, s).
    """
    if centroids.shape[1] == 2:  # noqa: PLR2004 - on which side of the plane between them
        first, second = centroids[:, :1], centroids[:, 1:]
        ways = np.ascontiguousarray((second - first).transpose(0, 2, 1))
        halfway = np.matmul((second + first) * np.float32(0.5), ways)
        is_second: npt.NDArray[np.bool_] = np.matmul(points.rows, ways) > halfway
        return is_second[:, :, 0].view(np.uint8)
    scores = np.empty((*centroids.shape[:2], len(points)), np.float32)
    points.score(centroids, scores)
    is_best = scores == scores.max(axis=1, keepdims=True)
    numbers = np.arange(centroids.shape[1], dtype=np.uint8)[:, None]
    codes: npt.NDArray[np.uint8] = np.multiply(is_best.view(np.uint8), numbers).max(axis=1)
    return codes


def _lloyd(
    points: Points, centroids: Floats, steps: int, relocate_at_steps: tuple[int, ...] = ()
) -> tuple[Floats, Floats]:
    """Takes Lloyd's steps.

    Returns:
        The centroids, shape (R, L, s), and how many members each had in the last step, shape (R, L).
    """
    count = centroids.shape[1]
    scores = np.empty((len(centroids), count, len(points)), np.float32)
    members = np.empty((len(centroids), count, 1), np.float32)
    for step in range(1, steps + 1):
        points.score(centroids, scores)
        best = scores.max(axis=1, keepdims=True)
        relocating = step in relocate_at_steps
        if relocating:
            second = np.where(scores == best, np.float32(-np.inf), scores).max(axis=1, keepdims=True)
        np.equal(scores, best, out=scores)
        moved, members = points.sums(scores)
        moved -= members * centroids  # nothing where there are no members
        moved *= (OVER_RELAXATION if step < steps else np.float32(1)) / np.maximum(members, 1)
        moved += centroids
        if relocating:
            _relocate(points.rows, centroids, moved, scores, best, second)
        centroids = moved
    return centroids, members[:, :, 0]


def _relocate(
    points: Floats, old: Floats, new: Floats, is_member: Floats, best: Floats, second: Floats
) -> None:
    """Relocates the centroids whose loss costs least to the clusters with the largest errors.

    Args:
        points: Shape (R, N, s).
        old: Centroids that the members are nearest to, shape (R, L, s).
        new: Centroids of the next step, shape (R, L, s); some are overwritten.
        is_member: 0/1, shape (R, L, N).
        best: Score of the nearest centroid, shape (R, 1, N).
        second: Score of the second nearest centroid, shape (R, 1, N).
    """
    group = np.arange(len(points))[:, None]
    moved = max(1, old.shape[1] // CENTROIDS_PER_RELOCATED)
    gaps = np.maximum(_half_squares(points)[:, None] - best, 0)
    errors = np.matmul(is_member, gaps.transpose(0, 2, 1))[:, :, 0]
    without = (best - second).transpose(0, 2, 1)  # how much worse a point's second nearest centroid is
    losses = np.matmul(is_member, without)[:, :, 0]
    to = np.argsort(-errors, axis=1)[:, :moved]
    idle = np.argsort(losses, axis=1)[:, :moved]
    farthest = (is_member[group, to] * gaps).argmax(axis=2)
    halfway = (points[group, farthest] + old[group, to]) * np.float32(0.5)
    pays = (errors[group, to] > 2 * losses[group, idle]) & (idle != to)
    new[group, idle] = np.where(pays[:, :, None], halfway, new[group, idle])


def _seed(points: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Draws points as first centroids; a point far from those already drawn is more likely (k-means++).

    Points have shape (R, N, s), with N above `count`; the result has shape (R, count, s).
    """
    points = points[:, : max(MIN_SEEDING_POINTS, count * SEEDING_POINTS_PER_CENTROID)]
    group = np.arange(len(points))[:, None]
    half_squares = _half_squares(points)
    columns = points.transpose(0, 2, 1)

    def half_distances(numbers: npt.NDArray[np.intp]) -> Floats:
        """Returns half the squared distance of each point to the nearest of these."""
        halves = half_squares[:, None] - np.matmul(points[group, numbers], columns)
        halves += half_squares[group, numbers][:, :, None]
        least: Floats = halves.min(axis=1)
        return np.maximum(least, 0)

    batch = max(1, count // SEEDING_ROUNDS)
    chosen = rng.integers(points.shape[1], size=(len(points), 1))
    gaps = half_distances(chosen)
    while chosen.shape[1] < count:
        chances = gaps / rng.standard_exponential(gaps.shape)
        if batch == 1:
            drawn = chances.argmax(axis=1)[:, None]
        else:
            drawn = np.argpartition(chances, -batch, axis=1)[:, -batch:]
        chosen = np.concatenate((chosen, drawn), axis=1)
        if chosen.shape[1] < count:
            gaps = np.minimum(gaps, half_distances(drawn))
    return points[group, chosen[:, :count]]


def _use_all(points: Points, centroids: Floats) -> Floats:
    """Puts each centroid that is nearest to no point onto the point with the largest error.

    Repeats until every centroid is used, or every point is as close to its centroid as float16 can tell.
    """
    count = centroids.shape[1]
    limits = SAME_IN_FLOAT16 * _half_squares(points.rows)
    for _ in range(count):
        codes = nearest(points, centroids).astype(np.intp)
        used = np.zeros(centroids.shape[:2], np.bool_)
        np.put_along_axis(used, codes, values=True, axis=1)
        gaps = _half_squares(points.rows - np.take_along_axis(centroids, codes[:, :, None], axis=1))
        spare = ~used & (gaps > limits).any(axis=1, keepdims=True)
        if not spare.any():
            break
        worst = np.argsort(-gaps, axis=1)[:, :count]
        chosen = np.take_along_axis(worst, np.maximum(np.cumsum(spare, axis=1) - 1, 0), axis=1)
        there = np.take_along_axis(points.rows, chosen[:, :, None], axis=1)
        centroids, _ = _lloyd(points, np.where(spare[:, :, None], there, centroids), steps=1)
    return centroids


def _half_squares(vectors: Floats) -> Floats:
    squares: Floats = np.einsum("rns,rns->rn", vectors, vectors)
    return squares * np.float32(0.5)
