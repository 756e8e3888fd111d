"""The shared thread pool through Python; its C++ face is in native/thread_pool_test.cpp."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from native_cases import network_digest, run_python, stream_digest, succeeds

import icmh_rt
from icmh_rt import OptionError

linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="counts threads in /proc, names CPUs"
)
fork_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture
def threads_restored():
    yield
    icmh_rt.set_num_threads(0)


# Counts -------------------------------------------------------------------------------------------


def test_the_number_of_threads_can_be_set(threads_restored):
    default = icmh_rt.get_num_threads()
    assert 1 <= default <= 64
    for number in (1, 2, 64, np.int64(3)):
        icmh_rt.set_num_threads(number)
        assert icmh_rt.get_num_threads() == number
    for number in (65, 10**30):
        icmh_rt.set_num_threads(number)
        assert icmh_rt.get_num_threads() == 64
    icmh_rt.set_num_threads(0)
    assert icmh_rt.get_num_threads() == default


@pytest.mark.parametrize("number", [-1, 1.0, "2", None, True, [2], np.float32(2)])
def test_other_numbers_of_threads_are_refused(number, threads_restored):
    icmh_rt.set_num_threads(5)
    with pytest.raises(OptionError, match=r"threads is .*; give a whole number") as caught:
        icmh_rt.set_num_threads(number)
    assert "\n" not in str(caught.value)
    assert icmh_rt.get_num_threads() == 5


@pytest.mark.parametrize(
    ("given", "expected"), [("1", 1), ("3", 3), ("64", 64), ("65", 64), ("9" * 30, 64)]
)
def test_the_environment_gives_the_default(given, expected):
    succeeds(
        f"""
        import icmh_rt
        assert icmh_rt.get_num_threads() == {expected}, icmh_rt.get_num_threads()
        icmh_rt.set_num_threads(2)
        assert icmh_rt.get_num_threads() == 2
        icmh_rt.set_num_threads(0)
        os.environ["ICMH_NUM_THREADS"] = "7"  # too late: it was read
        assert icmh_rt.get_num_threads() == {expected}
        """,
        ICMH_NUM_THREADS=given,
    )


@linux_only
@pytest.mark.parametrize("given", [None, "", "0"])
def test_the_default_is_the_cpus_of_the_process(given):
    succeeds(
        """
        import icmh_rt
        cpus = os.sched_getaffinity(0)
        assert icmh_rt.get_num_threads() == min(len(cpus), 64)
        os.sched_setaffinity(0, {min(cpus)})
        assert icmh_rt.get_num_threads() == 1
        network_digest(threads=icmh_rt.get_num_threads()), stream_digest()
        assert pool_threads(0) == 0
        """,
        ICMH_NUM_THREADS=given,
    )


@pytest.mark.parametrize("given", ["two", "-1", "1.5", " 2", "\n", "²"])
def test_a_bad_environment_is_one_line(given):
    code = """
        import icmh_rt
        for _ in range(2):
            try:
                icmh_rt.get_num_threads()
            except icmh_rt.BackendUnavailableError as error:
                print(error)
    """
    result = run_python(code, ICMH_NUM_THREADS=given)
    assert result.returncode == 0, result.stderr
    line, again = result.stdout.splitlines()
    assert line == again
    assert line.startswith("the environment variable ICMH_NUM_THREADS: '")
    assert "give 1 to 64, or 0" in line
    assert "reinstall" not in line


def test_importing_the_package_does_not_load_the_native_module():
    # Not through run_python, whose names need it.
    code = "import sys, icmh_rt; assert 'icmh_rt._C' not in sys.modules; icmh_rt.set_num_threads(1)"
    code += "; assert 'icmh_rt._C' in sys.modules and not {'torch', 'numpy'} & set(sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


# Loops --------------------------------------------------------------------------------------------


@linux_only
def test_the_pool_grows_with_need_and_only_so_far():
    succeeds(
        """
        import threading
        expected = network_digest(level="scalar")
        assert pool_threads(0) == 0
        for threads, helpers in ((1, 0), (2, 1), (4, 3), (2, 3)):
            assert network_digest(threads=threads) == expected
            found = pool_threads(helpers)
            assert found == helpers, (threads, found)

        found = []
        def call(number):
            for _ in range(20):
                found.append(network_digest(threads=2 + number % 3) == expected)
        callers = [threading.Thread(target=call, args=(number,)) for number in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert len(found) == 160 and all(found)
        time.sleep(0.1)
        assert pool_threads(3) == 3
        """
    )


def test_many_python_threads_share_the_pool(threads_restored):
    """Every loop at once, with the number of threads changing under them."""
    from concurrent.futures import ThreadPoolExecutor

    icmh_rt.set_num_threads(1)
    network, stream = network_digest(level="scalar", threads=1), stream_digest()

    def call(number: int) -> bool:
        icmh_rt.set_num_threads(1 + number % 5)
        if number % 2:
            return stream_digest() == stream
        return network_digest(threads=1 + number % 7) == network

    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(call, range(60)))


def test_the_codec_runs_in_python_threads_inside_native_threads(threads_restored):
    """What a server does: whole calls at once, each of them parallel inside."""
    import threading

    icmh_rt.set_num_threads(4)
    expected = stream_digest()
    barrier = threading.Barrier(6)
    found = []

    def call() -> None:
        barrier.wait()
        for _ in range(3):
            found.append(stream_digest())

    callers = [threading.Thread(target=call) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [expected] * 18


# Fork and exit ------------------------------------------------------------------------------------


@fork_only
def test_a_forked_child_has_a_pool_of_its_own():
    succeeds(
        """
        import icmh_rt, signal, threading
        icmh_rt.set_num_threads(3)
        expected = network_digest(threads=3), stream_digest()
        def has_threads(number):
            return not os.path.isdir("/proc/self/task") or pool_threads(number) == number
        assert has_threads(2)

        stop = threading.Event()
        def keep_busy():  # so that forks find the pool in any state
            while not stop.is_set():
                network_digest(threads=3)
        busy = [threading.Thread(target=keep_busy) for _ in range(2)]
        for number in range(12):
            if number == 4:
                for thread in busy:
                    thread.start()
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    signal.alarm(60)  # ends it
                    assert icmh_rt.get_num_threads() == 3
                    assert has_threads(0)
                    assert (network_digest(threads=3), stream_digest()) == expected
                    assert has_threads(2)
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        stop.set()
        for thread in busy:
            thread.join()
        assert (network_digest(threads=3), stream_digest()) == expected
        """
    )


@fork_only
def test_a_multiprocessing_pool_of_forks_works():
    succeeds(
        """
        import icmh_rt, multiprocessing
        icmh_rt.set_num_threads(3)
        def work(number):
            return network_digest(threads=3), stream_digest()
        expected = work(0)
        with multiprocessing.get_context("fork").Pool(3) as pool:
            assert pool.map(work, range(9)) == [expected] * 9
        assert work(0) == expected
        """
    )


def test_the_process_ends_while_loops_run():
    """Neither waits for the pool nor trips over it: exit codes are the program's."""
    for _ in range(3):
        result = run_python(
            """
            import icmh_rt, threading, time
            icmh_rt.set_num_threads(3)
            network_digest(threads=3), stream_digest()
            def keep_busy():
                while True:
                    network_digest(threads=3)
            for _ in range(3):
                threading.Thread(target=keep_busy, daemon=True).start()
            time.sleep(0.1)
            sys.exit(7)
            """,
            timeout=60,
        )
        assert result.returncode == 7, result.stderr
        assert result.stderr == ""


@fork_only
def test_signals_reach_the_python_thread():
    """SIGALRM interrupts Python's sleep although pool threads are there to take it."""
    succeeds(
        """
        import signal, time
        network_digest(threads=4)
        class Rang(Exception):
            pass
        def ring(*_):
            raise Rang
        signal.signal(signal.SIGALRM, ring)
        for _ in range(20):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            start = time.monotonic()
            try:
                time.sleep(20)
            except Rang:
                pass
            assert time.monotonic() - start < 10
        """
    )
