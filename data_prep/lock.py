"""One writer at a time for each output: a lock that ends with its process and leaves no file behind.

The lock file lies beside the output (`.NAME.lock`), so that it holds between users and machines that share the disk. Where
none can be made there, as in a folder that cannot be written, it lies in this machine's folder for temporary files.
POSIX record locks: a forked process does not inherit them, so a killed command's readers do not hold its lock. Without
them, as on Windows, nothing is locked.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from huggingface_hub import constants

from data_prep.errors import UserError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

_POLL_SECONDS = 0.2
_TAKEN = (errno.EACCES, errno.EAGAIN)  # what the system says of a lock that another process has

# The process that holds each lock file: a second lock of one process would replace its first, and a fork has none.
_holders: dict[Path, int] = {}


class _Busy(Exception):
    """Another process has the lock."""

    def __init__(self, holder: str):
        self.holder = holder


@contextmanager
def only_writer(*outputs: tuple[str, str | Path | None]) -> Iterator[None]:
    """Hold the lock of each output, a pair of what a user calls it (as `--output`) and its path; None has no lock.

    Raises:
        UserError: another command is writing one of them, or the folder of one was deleted in the meantime.
    """
    names: dict[str, str] = {}
    with ExitStack() as held:
        for name, output in outputs:
            if output is not None and not _is_device(output):
                other = names.setdefault(os.path.realpath(output), name)
                if other != name:
                    raise UserError(f"{name} {output} is {other} too: give each a file of its own.")
                advice = "Wait until it has ended, or choose another."
                held.enter_context(_locked(_lock_files(output), f"{name} {output} is being written by", advice))
        try:
            yield
        except FileNotFoundError as error:
            for name, output in outputs:
                if output is not None and "://" not in str(output) and not Path(output).absolute().parent.is_dir():
                    raise UserError(f"{name} {output}: its folder was deleted while this command worked. Make it, and give the same command again.") from error  # fmt: skip
            raise


@contextmanager
def one_after_the_other(output: str | Path) -> Iterator[None]:
    """Hold the lock of an output that several commands need and each can make: wait while another one makes it."""
    with _locked(_lock_files(output), f"waiting for {output}, which is being prepared by", wait=True):
        yield


@contextmanager
def only_push(repo_type: str, repo_id: str, again: str) -> Iterator[None]:
    """Hold this user's lock of a repository of the Hub. `again` is the command to give later.

    Raises:
        UserError: another command is uploading to it.
    """
    key = _digest(f"{constants.ENDPOINT} {repo_type} {repo_id}")
    files = [Path(constants.HF_HUB_CACHE) / ".locks" / f"push-{key}.lock", _temporary(key)]
    with _locked(files, f"{repo_id} is being uploaded to by", f"When it has ended: {again}"):
        yield


def _lock_files(output: str | Path) -> list[Path]:
    """Where the lock of an output may lie, best first. Links and other spellings of one path have one lock."""
    if "://" in str(output):  # an object store has no locks: one for the commands of this machine
        return [_temporary(_digest(str(output).rstrip("/")))]
    path = Path(os.path.realpath(output))
    return [path.parent / f".{path.name}.lock", _temporary(_digest(str(path)))]


def _temporary(key: str) -> Path:
    user = os.getuid() if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir()) / f"timesformer-locks-{user}" / key


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _is_device(output: str | Path) -> bool:
    """Return True for a terminal, a pipe or /dev/null, which any number of commands may write to."""
    return os.path.exists(output) and not os.path.isfile(output) and not os.path.isdir(output)


@contextmanager
def _locked(files: list[Path], busy: str, advice: str = "", wait: bool = False) -> Iterator[None]:
    """Hold the first of the lock files that can be made."""
    if fcntl is None:
        yield
        return
    said = False
    while True:
        try:
            taken = _take_first(files)
            break
        except _Busy as error:
            if not wait:
                raise UserError(f"{busy} {error.holder}. {advice}") from None
            if not said:
                print(f"{busy} {error.holder}", file=sys.stderr, flush=True)
            said = True
            time.sleep(_POLL_SECONDS)
    if taken is None:
        print(f"warning: no lock can be made in {files[-1].parent}: start no second command with this output", file=sys.stderr)  # fmt: skip
        yield
        return
    path, descriptor, made = taken
    _holders[path] = os.getpid()
    try:
        yield
    finally:
        _release(path, descriptor, made)


def _take_first(files: list[Path]) -> tuple[Path, int, list[Path]] | None:
    """(lock file, its descriptor, the folders made for it), or None where no lock can be made at all."""
    for path in files:
        made = [folder for folder in path.parents if not folder.exists()]
        with suppress(OSError):  # no right to write there, or a disk without locks
            while (descriptor := _take(path)) is None:
                pass
            return path, descriptor, made
        _remove_empty(made)
    return None


def _take(path: Path) -> int | None:
    """The descriptor of the locked file; None where its last holder has just removed it: try again."""
    if _holders.get(path) == os.getpid():
        raise _Busy("this command itself")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except FileNotFoundError:
        if path.parent.is_dir():
            raise
        return None  # its last holder has just removed the folder too
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(path, descriptor):
            os.close(descriptor)
            return None
    except OSError as error:
        holder = _holder(descriptor)
        os.close(descriptor)
        if error.errno in _TAKEN:
            raise _Busy(holder) from None
        with suppress(OSError):  # of no use on a disk without locks
            os.unlink(path)
        raise
    with suppress(OSError):  # a full disk: the lock is held without it
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}".encode(), 0)
    return descriptor


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether the locked file still has its name: a holder removes it before it lets go."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    pid, _, host = os.pread(descriptor, 300, 0).decode("utf-8", "replace").partition(" ")
    if not pid.isdigit():
        return "another command"
    return f"another command (process {pid}{'' if host == socket.gethostname() else f' on {host}'})"


def _release(path: Path, descriptor: int, made: list[Path]) -> None:
    """Remove the file before the lock ends: whoever opened it meanwhile sees that it is gone, and makes another."""
    if _holders.get(path) != os.getpid():  # a fork of the holder
        return
    with suppress(OSError):
        if _is_at(path, descriptor):
            os.unlink(path)
    del _holders[path]
    os.close(descriptor)
    _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
