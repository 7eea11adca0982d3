"""Whether the Hub takes our token, before the work whose result is to go there.

python -m data_prep.login: prints JSON, the token's `role` as the Hub names it, or what is amiss.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError

from data_prep.apart import ask_apart
from data_prep.errors import UserError, printable
from data_prep.patience import reason, status, tire_of_silence

_SECONDS = 20.0
_EXPECTED = "expected a JSON object that says who we are"


def check_login(limit_seconds: float = _SECONDS) -> None:
    """Raises `UserError` when there is no token, or the Hub says that it is wrong or only reads. A Hub out of reach, or
    one that answers oddly, is no reason to stop: then a line on stderr says so.
    """
    answer = ask_apart([sys.executable, "-m", "data_prep.login"], time.monotonic() + limit_seconds)
    if answer.get("lacking"):
        raise UserError("--push_to_hub needs a token: run `hf auth login`, or set HF_TOKEN.")
    if answer.get("refused"):
        raise UserError("--push_to_hub: the Hub does not accept the token. Run `hf auth login`, or set HF_TOKEN.")
    if answer.get("role") == "read":
        raise UserError("--push_to_hub: the token may only read. Make one that may write, and run `hf auth login`.")
    problem = f"no answer within {limit_seconds:g} s" if answer.get("late") else answer.get("error")
    if problem:
        print(f"warning: the Hub does not answer as it should ({printable(str(problem))}); the work goes on, the push is tried at the end", file=sys.stderr)  # fmt: skip


def _ask() -> dict[str, Any]:
    try:
        answer = HfApi().whoami()
    except LocalTokenNotFoundError:
        return {"lacking": True}
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # what the client stumbles over
        return {"error": f"{_EXPECTED} ({reason(error)})"}
    except Exception as error:
        return {"refused": True} if status(error) in (401, 403) else {"error": reason(error)}
    if not isinstance(answer, dict):
        return {"error": f"{_EXPECTED}, got {type(answer).__name__}"}
    try:
        return {"role": answer["auth"]["accessToken"]["role"]}
    except (KeyError, TypeError):  # some other server's idea of an answer: the push will tell
        return {}


if __name__ == "__main__":
    tire_of_silence(_SECONDS)
    print(json.dumps(_ask(), allow_nan=False))
