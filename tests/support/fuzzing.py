"""Mutated files: each must be read, or refused by an error of ours that names it, within bounded time and memory.

    python tests/support/fuzzing.py [--count 300] [--seed 0] [--kind npy] [--first 17]      (or: make fuzz ARGS=...)

File number N of a kind depends on kind, seed and N alone; a failing one is saved, with the command that makes it
again. The files are read in a process of their own, which also shows those that end it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root), str(root / "platform")]

from fuzz_kinds import KINDS, NAME, Kind

SECONDS = 30  # for one file; then the process ends
MORE_MEMORY = 2 * 2**30  # bytes above what the process has before the first file
_MOST_BYTES = 2 * 2**20
_WORDS = (
    b"[" * 100_000, b"{\"a\":" * 50_000, b"9" * 400, b"-1", b"1e999", b"NaN", b"Infinity", b"null", b"true", b'"',
    b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\r\n", b"\r", b"\n\n", b",", b";", b"\t", b"../", b"/etc/passwd",
    b"\\ud800", b"0.", b"1" * 200_000, b"[]", b"{}", b'""', b"\xcc\x81", b" ", b"#", b"(", b"]" * 3, b"1e308", b"-0",
)  # fmt: skip
_VALUES = (
    None, True, False, 0, 1, -1, 5, 2**63, -(2**70), 10**400, 0.5, 1e308, float("inf"), float("nan"), "", "5", "x",
    "nan", "1e999", "A" * 5000, "../../x", "/etc/passwd", "\x00", "e\u0301", [], {}, [[]], [1], ["x"], {"x": 1},
    [None] * 3, [[1, 2]],
)  # fmt: skip


def mutated(content: bytes, random_: random.Random) -> bytes:
    """One to four changes: flipped bits, cuts, insertions, zeros, edited lengths, words that programs stumble over; or
    another value in a JSON document."""
    if content[:1] in b"{[" and random_.random() < 0.4:
        return _other_value(content, random_)
    data = bytearray(content)
    for _ in range(random_.choice((1, 1, 1, 2, 4))):
        size = len(data)
        ends = random_.random() < 0.4  # headers and directories lie at the ends
        at = random_.randrange(min(size, 256) or 1) if ends else random_.randrange(size or 1)
        at = max(0, size - 1 - at) if ends and random_.random() < 0.5 else at
        count = random_.choice((1, 2, 4, 8, 16, 100, 1000))
        change = random_.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9))
        if change == 0 and size:
            data[at] ^= 1 << random_.randrange(8)
        elif change == 1 and size:
            data[at] = random_.choice((0, 1, 0x7F, 0x80, 0xFF, random_.randrange(256)))
        elif change == 2:
            del data[at:]
        elif change == 3:
            del data[at : at + count]
        elif change == 4:
            data[at:at] = random_.randbytes(count)
        elif change == 5:
            data[at : at + count] = bytes(len(data[at : at + count]))
        elif change == 6:  # a piece twice
            data[at:at] = data[at : at + count]
        elif change == 7:  # a number that may be a length or a place
            width, order = random_.choice((1, 2, 4, 8)), random_.choice(("little", "big"))
            old = int.from_bytes(data[at : at + width], order)
            top = 1 << 8 * width
            new = random_.choice(
                (old + 1, old - 1, 2 * old, 0, top - 1, top // 2, top // 2 - 1, size, 1 << 40, old << 8)
            )
            data[at : at + width] = (new % top).to_bytes(width, order)
        elif change == 8:  # two pieces change places
            other = random_.randrange(size or 1)
            one, two = data[at : at + count], data[other : other + count]
            if len(one) == len(two):
                data[at : at + count], data[other : other + count] = two, one
        else:
            word = random_.choice(_WORDS)
            data[at : at + random_.choice((0, len(word), size))] = word
    return bytes(data[:_MOST_BYTES])


def _other_value(content: bytes, random_: random.Random) -> bytes:
    """A line of JSON, or a document, with another value, key or list somewhere."""
    lines = content.splitlines(keepends=True)
    number = random_.randrange(len(lines))
    try:
        whole, before, after = json.loads(content), b"", b""
    except ValueError:
        whole, before, after = json.loads(lines[number]), b"".join(lines[:number]), b"".join(lines[number + 1 :])
    places = list(_places(whole))
    if places:
        container, key = random_.choice(places)
        change = random_.randrange(5)
        if change == 0:
            del container[key]
        elif change == 1 and isinstance(container, dict):
            container[random_.choice(("", "x", "\x00", "../../x", "e\u0301", "A" * 5000, "_check"))] = container.pop(
                key
            )
        else:
            container[key] = random_.choice(_VALUES)
    return before + json.dumps(whole).encode() + b"\n" + after


def _places(value: object) -> Iterator[tuple[dict | list, object]]:
    for key, part in list(
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield value, key
        yield from _places(part)


def file_number(kind: Kind, seeds: Sequence[bytes], seed: int, number: int) -> bytes:
    random_ = random.Random(f"{kind.name} {seed} {number}")
    return mutated(random_.choice(seeds), random_)


def judged(kind: Kind, path: Path) -> str:
    """ "accepted", "refused", or what is wrong."""
    from bsp.errors import FileError, TooManyBroken, VideoError
    from bsp_platform.storage.errors import StageDamaged

    try:
        kind.read(path)
    except (FileError, VideoError, TooManyBroken, StageDamaged, ValueError) as error:
        # A ValueError of ours says which file it is about; those of others do not know it.
        if NAME in str(error):
            return "refused"
        return f"does not name the file: {type(error).__name__}: {str(error)[:300]}"
    except BaseException as error:
        return f"{type(error).__module__}.{type(error).__name__}: {str(error)[:300]}"
    return "accepted"


def child(names: Sequence[str], seed: int, first: int, count: int) -> None:
    """Reads the files and prints [kind, number, judgement] for each, and [kind, number] before."""
    import h5py  # noqa: F401  (what is needed counts as memory before the first file)
    import torch

    import bsp.encoders.checkpoints  # noqa: F401
    import bsp_platform.work.pretraining  # noqa: F401

    torch.set_num_threads(1)
    # What libraries write goes nowhere; the answers keep their place.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limited = False
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            kind = KINDS[name]
            folder = Path(scratch) / name
            folder.mkdir()
            (folder / "seeds").mkdir()
            seeds = kind.seeds(folder / "seeds")
            for content in seeds:  # what is not mutated is read
                (folder / f"{NAME}{kind.suffix}").write_bytes(content)
                found = judged(kind, folder / f"{NAME}{kind.suffix}")
                if found != "accepted":
                    print(json.dumps([name, -1, f"the valid file: {found}"]), file=answers)
            if not limited:
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                most = pages * resource.getpagesize() + MORE_MEMORY
                resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
                limited = True
            for number in range(first, first + count):
                path = folder / f"{NAME}{kind.suffix}"
                path.write_bytes(file_number(kind, seeds, seed, number))
                print(json.dumps([name, number]), file=answers)
                signal.alarm(SECONDS)
                found = judged(kind, path)
                signal.alarm(0)
                print(json.dumps([name, number, found]), file=answers)


def fuzz(
    names: Sequence[str], *, seed: int, first: int, count: int, save: Path | None = None
) -> tuple[Counter, list[str]]:
    """How many files of each kind were accepted and refused, and a line for each that was neither."""
    counts: Counter[tuple[str, str]] = Counter()
    failures: list[str] = []
    todo = [(name, first) for name in names]
    while todo:
        name, begin = todo[0]
        # One process for what is left; after a death, one for the rest of that kind and then one for the others.
        together = [n for n, f in todo] if begin == first else [name]
        last = None
        for line in _answers(together, seed, begin, first + count - begin):
            if len(line) == 2:
                last = line
                continue
            last = None
            kind, number, found = line
            if found in ("accepted", "refused"):
                counts[kind, found] += 1
            else:
                failures.append(_told(kind, seed, number, found, save))
        if last is not None:
            kind, number = last
            failures.append(_told(kind, seed, number, f"ended the process, or took longer than {SECONDS} s", save))
            rest = [n for n, _ in todo][[n for n, _ in todo].index(kind) + 1 :]
            todo = ([(kind, number + 1)] if number + 1 < first + count else []) + [(n, first) for n in rest]
        else:
            todo = [(n, f) for n, f in todo if n not in together]
    return counts, failures


def _answers(names: Sequence[str], seed: int, first: int, count: int) -> Iterator[list]:
    numbers = {"--seed": seed, "--first": first, "--count": count}
    options = [word for name, number in numbers.items() for word in (name, str(number))]
    command = [sys.executable, __file__, *options, "--child", *names]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    answered = 0
    with process:
        for line in process.stdout:
            answered += 1
            yield json.loads(line)
        said = process.stderr.read()
    if not answered:
        raise RuntimeError(f"the process that reads did not start: {said[-2000:]}")


def _told(name: str, seed: int, number: int, found: str, save: Path | None) -> str:
    place = ""
    if save is not None and number >= 0:
        save.mkdir(parents=True, exist_ok=True)
        path = save / f"{name}-{seed}-{number}{KINDS[name].suffix}"
        with tempfile.TemporaryDirectory() as scratch:
            path.write_bytes(file_number(KINDS[name], KINDS[name].seeds(Path(scratch)), seed, number))
        place = f" ({path})"
    return f"{name} --seed {seed} --first {number}: {found}{place}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", action="append", choices=sorted(KINDS), help="may be repeated; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--count", type=int, default=2000, help="files of each kind")
    parser.add_argument("--save", type=Path, default=Path("fuzz_failures"), help="where failing files go")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        return child(chosen.child, chosen.seed, chosen.first, chosen.count)
    began, bad = time.time(), 0
    names = chosen.kind or list(KINDS)
    print(f"{len(names)} kinds, {chosen.count} files of each; a file that nobody changed must be accepted", flush=True)
    for name in names:
        counts, failures = fuzz([name], seed=chosen.seed, first=chosen.first, count=chosen.count, save=chosen.save)
        read, refused = counts[name, "accepted"], counts[name, "refused"]
        print(f"{name:14} {read:6} accepted {refused:6} refused {len(failures):4} wrong", flush=True)
        for failure in failures:
            print(f"    {failure}", flush=True)
        bad += len(failures)
    print(f"{time.time() - began:.0f} s, seed {chosen.seed}; {bad} wrong")
    sys.exit(bool(bad))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
