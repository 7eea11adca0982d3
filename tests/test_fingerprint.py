from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from data_prep.fingerprint import MAX_SAMPLES, SIZE, Fingerprint, decode
from data_prep.same_content import same_content


def fingerprint_of(num_frames: int, rate: float) -> Fingerprint:
    """Frame i is of the one grey i modulo 256."""
    fingerprint = Fingerprint()
    for i in range(num_frames):
        if fingerprint.wants(i / rate):
            fingerprint.add(np.full((SIZE, SIZE), i % 256, np.uint8), i / rate)
    return fingerprint


def test_samples_survive_the_bytes() -> None:
    random = np.random.default_rng(0)
    fingerprint = Fingerprint()
    pictures = random.integers(0, 256, (20, SIZE, SIZE), dtype=np.uint8)
    for i, picture in enumerate(pictures):
        fingerprint.add(picture, i / 16)
    samples = decode(fingerprint.to_bytes())
    assert samples is not None
    assert np.array_equal(samples.pixels.reshape(-1, SIZE, SIZE), pictures)
    assert np.allclose(samples.seconds, np.arange(20) / 16)
    assert samples.length == pytest.approx(20 / 16)
    assert np.array_equal(samples.mirrored.pixels.reshape(-1, SIZE, SIZE), pictures[:, :, ::-1])
    assert np.allclose(samples.at(np.array([0.5 / 16]))[0], (pictures[0].astype(float) + pictures[1]).ravel() / 2)
    assert np.allclose(samples.halved[0, 0], pictures[0, :2, :2].mean())


def test_nothing_sampled_decodes_to_nothing() -> None:
    assert decode(Fingerprint().to_bytes()) is None
    with pytest.raises(ValueError, match="not a fingerprint"):
        decode(b"something else")


def test_the_start_is_sampled_more_densely_at_any_rate() -> None:
    for rate in (15, 25, 29.97, 60):
        samples = decode(fingerprint_of(int(10 * rate), rate).to_bytes())
        assert samples is not None
        head = int((samples.seconds < 3).sum())
        assert abs(head - 3 * min(rate, 16)) <= 2
        assert abs(len(samples.seconds) - head - 7 * 8) <= 2


@pytest.mark.parametrize("minutes", [1, 20])
def test_a_long_video_is_sampled_whole_and_stays_small(minutes: int) -> None:
    fingerprint = fingerprint_of(minutes * 60 * 25, 25)
    samples = decode(fingerprint.to_bytes())
    assert samples is not None
    assert MAX_SAMPLES / 2 < len(samples.seconds) <= MAX_SAMPLES
    assert samples.seconds[-1] > minutes * 60 - 2 * samples.step
    assert len(fingerprint.to_bytes()) < 65536


@pytest.mark.parametrize("leap", [1e5, 1e9])
def test_timestamps_that_leap_cost_no_memory(leap: float) -> None:
    """A file may claim any times; what is compared stays of the order of what was sampled."""
    samples = []
    for gap in (0.1, leap):
        fingerprint = Fingerprint()
        for i in range(40):
            picture = np.random.default_rng(i).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
            fingerprint.add(picture, i * 0.1 + (gap if i >= 20 else 0))
        samples.append(decode(fingerprint.to_bytes()))
    plain, leaping = samples
    assert plain is not None and leaping is not None
    tracemalloc.start()
    for a, b in ((plain, leaping), (leaping, plain), (leaping, leaping)):
        assert same_content(a, b) is not None, "half of it is the same"
        assert len(a.pictures) + len(b.pictures) < 100
    assert tracemalloc.get_traced_memory()[1] < 300e6
    tracemalloc.stop()
