"""data_prep.login: what stops a run at its start, and what does not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import OddHub, Run
from forks import Forks

pytestmark = pytest.mark.slow
CHECK = (
    "import sys, time; from data_prep.login import check_login; began = time.monotonic(); check_login({0});"
    "print('goes on'); {0} == 4 and print(time.monotonic() - began, file=sys.stderr)"
)


@pytest.fixture
def check(forks: Forks, tmp_path: Path) -> Run:
    def run(seconds: float = 20, **environment: str) -> subprocess.CompletedProcess[str]:
        return forks.run("-c", CHECK.format(seconds), cwd=tmp_path, **{"HF_TOKEN": "hf_secret_token", **environment})

    return run


def test_a_hub_that_drips_its_answer_does_not_hold_training_up(odd_hub: OddHub, check: Run) -> None:
    odd_hub.drip = True  # for a day
    done = check(seconds=4)
    assert done.stdout == "goes on\n" and "(no answer within 4 s); the work goes on" in done.stderr
    took = float(done.stderr.splitlines()[-1])
    assert 4 <= took < 60


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (200, b"[1]", "expected a JSON object that says who we are, got list"),
        (200, b'"token"', "expected a JSON object that says who we are, got str"),
        (200, b"null", "got NoneType"),
        (200, b"<html>log in</html>", "expected a JSON object that says who we are (JSONDecodeError"),
        (500, b'{"error": "the token service is down"}', "500"),
        (404, b"token?", "404"),
    ],
)
def test_an_odd_answer_is_one_line_and_no_missing_token(
    odd_hub: OddHub, check: Run, status: int, answer: bytes, said: str
) -> None:
    odd_hub.status, odd_hub.answer = status, answer
    done = check()
    assert done.stdout == "goes on\n" and said in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(
        "warning: the Hub does not answer as it should"
    )
    assert "hf_secret_token" not in done.stderr


def test_what_another_kind_of_hub_says_of_us_is_enough(odd_hub: OddHub, check: Run) -> None:
    odd_hub.answer = b'{"name": "me", "auth": null}'
    done = check()
    assert (done.stdout, done.stderr) == ("goes on\n", "")


def test_a_missing_token_and_one_that_only_reads_stop_it(hub: object, check: Run) -> None:
    done = check(HF_TOKEN="")
    assert "needs a token: run `hf auth login`" in done.stderr and "goes on" not in done.stdout
    done = check(HF_TOKEN="hf_read_token")
    assert "the token may only read" in done.stderr and "hf_read_token" not in done.stdout + done.stderr
    done = check(HF_TOKEN="hf_wrong_token")
    assert "the Hub does not accept the token" in done.stderr and "hf_wrong_token" not in done.stdout + done.stderr
    assert check().stdout == "goes on\n"
