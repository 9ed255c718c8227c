"""A user's checkers as bad as they come; ``text`` says what to do. Not a test file."""

import ctypes
import os
import re
import signal
import sys
import threading
import time

from pruner_jax.types import Verdict

HOARD = []


def check(problem, text, answer):
    """Do what the response says; a harmless response is correct if it equals the gold answer."""
    match text:
        case "hang in C":
            re.match("(a+)+$", "a" * 64 + "b")
        case "hang holding the lock":
            sys.set_int_max_str_digits(0)
            int("9" * 10**7)
        case "sleep":
            time.sleep(1000)
        case "ignore signals and hang":
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
                signal.signal(number, signal.SIG_IGN)
            while True:
                pass
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "leave":
            os._exit(3)
        case "sys.exit":
            sys.exit("enough")
        case "raise":
            raise KeyError("gold")
        case "interrupt":
            raise KeyboardInterrupt
        case "allocate":
            return len(bytearray(4 << 30)) > 0
        case "hoard":  # leaves too little for whoever comes next, and says nothing
            HOARD.append(bytearray(400 << 20))
        case "print":
            print("x" * 100_000)
            os.write(1, b"y" * 100_000)
        case "close everything":
            os.closerange(3, 100)
        case "thread":
            threading.Thread(target=time.sleep, args=(1000,)).start()
        case "child":
            if os.fork() == 0:
                time.sleep(1000)
        case "return None":
            return None
        case "return nan":
            return float("nan")
        case "recurse":
            return check_again(problem, text, answer)
        case "need room":
            return len(bytearray(250 << 20)) > 0
    return text == problem.answer or text in ("print", "thread", "child", "hoard")


def check_again(problem, text, answer):
    """Never returns."""
    return check(problem, text, answer)


def slow(problem, text, answer):
    """Takes as many seconds as the answer says."""
    time.sleep(float(answer))
    return True


def modules(problem, text, answer):
    """Which of the modules named in the text this process has imported, and its devices."""
    loaded = [name for name in text.split() if name in sys.modules]
    return Verdict.WRONG, f"{loaded} {os.environ['JAX_PLATFORMS']} {os.environ['OMP_NUM_THREADS']}"


def whole(problem, text, answer, *, bonus=0.0):
    """Reports what it was given."""
    return 0.5 + bonus, f"{problem.question}|{text}|{answer}|{dict(problem.columns)}"
