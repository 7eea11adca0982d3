"""Which videos show the same content, by their bytes, their fingerprints and their names, and the groups that makes.

Fingerprints of many videos are not compared all with all. Each second of each video becomes a short vector that a
mirror does not change; vectors are sorted into cells around some of them, and only neighbours within a cell become
pairs to compare. Each video keeps its few best pairs, so that a thousand black videos cost a thousand times a few.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from data_prep.fingerprint import SIZE, Samples, decode
from data_prep.name_groups import is_copy_name
from data_prep.same_content import same_content


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two videos, by index, `first` < `second`: the same bytes; the same content or a part of it; that, mirrored."""

    first: int
    second: int
    kind: Literal["identical", "copy", "mirrored"]


def find_duplicates(digests: Sequence[str], fingerprints: Callable[[int], bytes] | Sequence[bytes]) -> list[Duplicate]:
    """Pairs with the same content, ordered; video i has `digests[i]` (of its bytes) and a fingerprint.

    Of many copies not each pair is listed, but enough that the pairs connect them: of identical files those with the
    first one, which stands for them in all other pairs, and of each video the `_CANDIDATES` likeliest.
    """
    fetch = fingerprints if callable(fingerprints) else fingerprints.__getitem__
    first_of: dict[str, int] = {}
    found = []
    for index, digest in enumerate(digests):
        first = first_of.setdefault(digest, index)
        if first != index:
            found.append(Duplicate(first, index, "identical"))
    distinct = list(first_of.values())

    @lru_cache(maxsize=512)  # typically 0.3 MB each, with what is derived from it
    def samples(index: int) -> Samples | None:
        return decode(fetch(index))

    for first, second in map(np.ndarray.tolist, _candidates(distinct, samples)):
        kind = _kind(samples(first), samples(second))
        if kind:
            found.append(Duplicate(first, second, kind))
    return sorted(found, key=lambda duplicate: (duplicate.first, duplicate.second))


def _kind(a: Samples | None, b: Samples | None) -> Literal["copy", "mirrored"] | None:
    if a is None or b is None:
        return None
    if same_content(a, b) is not None:  # first: of a symmetrical scene both hold
        return "copy"
    return "mirrored" if same_content(a, b.mirrored) is not None else None


# --- likely pairs

_CANDIDATES = 8  # compared per video
_NEIGHBOURS = 5  # kept per vector
_PROBES = 3  # cells that a vector is looked for in
_CELL = 2000  # vectors of a cell that are looked at: more are there only where thousands are alike
_VECTORS_PER_CELL = 400
_VIDEOS_AT_ONCE = 4000  # bounds memory
_FAINT = 4.0  # grey levels; a picture of less contrast (black, a fade) tells nothing
_FAINT_MOTION = 0.2  # grey levels, of what moves before a still background, where its noise is left out already
_HALF = SIZE // 2
# Squared distance of vectors (unit contrast: 2 at most for a picture, a quarter of it for its change). 99.5 % of 1,300
# true copies had a pair of windows nearer than 0.15, all nearer than 0.28; 0.8 % of pairs of distinct clips of the same
# three sports are nearer than 0.2.
_NEAR, _CHANGE_WEIGHT = 0.3, 0.5


def _candidates(videos: list[int], samples: Callable[[int], Samples | None]) -> np.ndarray:
    """Pairs of `videos` to compare, `(n, 2)`, each (smaller, larger), sorted."""
    rows, vectors = _vectors(videos, samples, hop=1.0)
    if len(vectors) == 0:
        return np.zeros((0, 2), np.int32)
    random = np.random.default_rng(0)
    num_cells = max(1, len(vectors) // _VECTORS_PER_CELL)
    centers = vectors[np.sort(random.choice(len(vectors), num_cells, replace=False))].astype(np.float32)
    cell_of = _nearest(vectors, centers, 1)[:, 0]
    order = np.argsort(cell_of, kind="stable")
    starts = np.searchsorted(cell_of[order], np.arange(num_cells + 1))
    cells = [order[start : min(end, start + _CELL)] for start, end in zip(starts, starts[1:])]
    pairs = np.zeros((0, 2), np.int32)  # and not a set of tuples, which takes twenty times the memory
    for start in range(0, len(videos), _VIDEOS_AT_ONCE):
        asking, queries = _vectors(videos[start : start + _VIDEOS_AT_ONCE], samples, hop=0.5)
        if len(queries):
            found = _search(
                queries.astype(np.float32), asking, _nearest(queries, centers, _PROBES), vectors, rows, cells
            )
            pairs = np.unique(np.concatenate([pairs, _best_pairs(*found)]), axis=0)
    return pairs


def _nearest(vectors: np.ndarray, centers: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` centers nearest to each vector, `(len(vectors), count)`, in blocks."""
    count = min(count, len(centers))
    norms = (centers**2).sum(axis=1) / 2
    blocks = []
    for start in range(0, len(vectors), 4096):
        far = norms - vectors[start : start + 4096].astype(np.float32) @ centers.T
        blocks.append(far.argpartition(count - 1, axis=1)[:, :count] if count > 1 else far.argmin(axis=1)[:, None])
    return np.concatenate(blocks)


_Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # asking video, other video, squared distance


def _search(
    queries: np.ndarray,
    asking: np.ndarray,
    probes: np.ndarray,
    vectors: np.ndarray,
    rows: np.ndarray,
    cells: list[np.ndarray],
) -> _Found:
    """For each query its `_NEIGHBOURS` nearest of another video in each probed cell, if nearer than `_NEAR`."""
    found: list[_Found] = []
    flat = probes.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], np.arange(len(cells) + 1))
    for cell, start, end in zip(cells, starts, starts[1:]):
        members = vectors[cell].astype(np.float32)
        norms = (members**2).sum(axis=1)
        for block in range(start, end, 4096):
            who = order[block : min(end, block + 4096)] // probes.shape[1]
            query = queries[who]
            distance = norms - 2 * (query @ members.T) + (query**2).sum(axis=1)[:, None]
            distance[asking[who][:, None] == rows[cell]] = np.inf
            found.append(_neighbours(distance, asking[who], rows[cell]))
    asks, others, distances = zip(*found)
    return np.concatenate(asks), np.concatenate(others), np.concatenate(distances)


def _neighbours(distance: np.ndarray, asking: np.ndarray, others: np.ndarray) -> _Found:
    near = distance < _NEAR
    crowded = np.flatnonzero(near.sum(axis=1) > _NEIGHBOURS)
    if len(crowded):
        limit = np.partition(distance[crowded], _NEIGHBOURS - 1, axis=1)[:, _NEIGHBOURS - 1]
        near[crowded] = distance[crowded] <= limit[:, None]
        near[crowded] &= near[crowded].cumsum(axis=1) <= _NEIGHBOURS  # equally near: the first ones
    query, member = np.nonzero(near)
    return asking[query], others[member], distance[query, member]


def _best_pairs(asking: np.ndarray, others: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Of each asking video its `_CANDIDATES` nearest others: pairs `(n, 2)`, each (smaller, larger)."""
    # Rounded, so that equally near ones come in the order of their index, and link to the same first ones.
    order = np.lexsort((others, np.round(distances, 3), asking))
    taken: dict[int, set[int]] = defaultdict(set)
    for ask, other in zip(asking[order].tolist(), others[order].tolist()):
        if len(taken[ask]) < _CANDIDATES:
            taken[ask].add(other)
    pairs = [(ask, other) for ask, some in taken.items() for other in some]
    return np.sort(np.array(pairs, np.int32).reshape(-1, 2), axis=1)


def _vectors(videos: list[int], samples: Callable[[int], Samples | None], hop: float) -> tuple[np.ndarray, np.ndarray]:
    """The video of each vector, and the vectors: one of a second in every `hop` s, float16 `(n, 128)`."""
    rows, vectors = [], []
    for video in videos:
        decoded = samples(video)
        if decoded is not None:
            some = _windows(decoded, hop)
            rows.append(np.full(len(some), video, np.int64))
            vectors.append(some)
    if not rows:
        return np.zeros(0, np.int64), np.zeros((0, SIZE * SIZE // 2), np.float16)
    return np.concatenate(rows), np.concatenate(vectors)


def _windows(samples: Samples, hop: float) -> np.ndarray:
    """Mean picture and amount of change of each second: mirror-invariant, of unit contrast, float16 `(n, 128)`."""
    small = samples.halved
    left, right = samples.windows(hop)
    mean, change = _mean_and_deviation(small, left, right)
    faint = _FAINT
    if samples.is_of_fixed_camera:
        # What moves must tell the clips of a fixed camera apart, though it changes far less than the light does.
        change, faint = _mean_and_deviation(samples.moving.halved, left, right)[1], _FAINT_MOTION
    contrast = mean.std(axis=1)
    telling = np.flatnonzero(contrast >= _FAINT)
    keep = telling if len(telling) else np.arange(1)
    mean = (mean - mean.mean(axis=1, keepdims=True)) / (contrast[:, None] + _FAINT)
    change = change / (np.sqrt((change**2).mean(axis=1, keepdims=True)) + faint)
    return np.concatenate([_folded(mean[keep]), _CHANGE_WEIGHT * _folded(change[keep])], axis=1).astype(np.float16)


def _mean_and_deviation(values: np.ndarray, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of rows `left[i]` to `right[i]` of `values`."""
    zero = np.zeros((1, values.shape[1]))
    sums = np.concatenate([zero, np.cumsum(values, axis=0, dtype=np.float64)])
    squares = np.concatenate([zero, np.cumsum(values**2, axis=0, dtype=np.float64)])
    count = (right - left)[:, None]
    mean = (sums[right] - sums[left]) / count
    return mean, np.sqrt(np.maximum((squares[right] - squares[left]) / count - mean**2, 0))


def _folded(pictures: np.ndarray) -> np.ndarray:
    """What a mirror does not change of `(n, 64)`: the even part, and the size of the odd part; of norm 1 at most."""
    pictures = pictures.reshape(-1, _HALF, _HALF) / _HALF
    flipped = pictures[:, :, ::-1]
    even, odd = (pictures + flipped) / np.sqrt(2), np.abs(pictures - flipped) / np.sqrt(2)
    half = _HALF // 2
    return np.concatenate([even[:, :, :half], odd[:, :, :half]], axis=2).reshape(len(pictures), -1)


# --- groups


def join_groups(
    video_ids: Sequence[str],
    given: Sequence[str | None],
    duplicates: Iterable[Duplicate],
    hints: Mapping[int, str] | None = None,
) -> list[str | None]:
    """The group of each video; None where it stands alone.

    Videos connected by duplicates, by the same given group or by the same hint (`name_groups`) share one: the
    smallest given group among them, else the smallest hint, else the id of a member, preferably one whose name does
    not say that it is a copy. So a group keeps its name when copies are added.
    """
    hints = hints or {}
    parent = list(range(len(video_ids)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    def join(one: int, other: int) -> None:
        low, high = sorted((root(one), root(other)))
        parent[high] = low

    for duplicate in duplicates:
        join(duplicate.first, duplicate.second)
    first_of: dict[tuple[str, str], int] = {}
    for index in range(len(video_ids)):
        for kind, name in (("given", given[index]), ("hint", hints.get(index))):
            if name is not None:
                join(first_of.setdefault((kind, name), index), index)
    members: dict[int, list[int]] = defaultdict(list)
    for index in range(len(video_ids)):
        members[root(index)].append(index)
    names = {top: _group_name(some, video_ids, given, hints) for top, some in members.items()}
    return [names[root(index)] for index in range(len(video_ids))]


def _group_name(
    members: list[int], video_ids: Sequence[str], given: Sequence[str | None], hints: Mapping[int, str]
) -> str | None:
    named = [group for group in (given[index] for index in members) if group is not None]
    if named:
        return min(named)
    hinted = [hints[index] for index in members if index in hints]
    if hinted:
        return min(hinted)
    if len(members) == 1:
        return None
    return min((video_ids[index] for index in members), key=lambda name: (is_copy_name(name), name))
