"""Functions run in processes of their own, which can be killed, and may have a file system of their own."""

import ctypes
import multiprocessing
import os
import subprocess
from pathlib import Path

import pytest
import torch

# Forked, not spawned: a child that imports torchvision anew takes seconds before it does anything.
CONTEXT = multiprocessing.get_context("fork")
# torch.export brings devices for which a first gradient would start threads, and with them nothing may fork. A gradient
# taken before, as here, starts none.
torch.ones(1, requires_grad=True).sum().backward()
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000


class Started:
    """A function that runs in a process of its own."""

    def __init__(self, function, *args):
        self._answer, send = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=_run, args=(send, function, args))
        self.process.start()
        send.close()

    def answer(self):
        """Wait for what it returns; None if it died."""
        try:
            return self._answer.recv()
        except EOFError:
            return None
        finally:
            self.process.join()


def _run(send, function, args):
    # Threads do not survive a fork; one thread needs none.
    torch.set_num_threads(1)
    send.send(function(*args))


def with_own_disk(folder, function, *, size):
    """Run a function in a process for which the folder is a small file system; skip where nobody may mount one."""
    folder.mkdir()
    answer = Started(_mount_and_run, folder, function, size).answer()
    if answer == "not permitted":
        pytest.skip("this machine lets nobody mount a file system of their own")
    return answer


def remount_read_only(folder):
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def _mount_and_run(folder, function, size):
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNS | CLONE_NEWUSER) != 0:
        return "not permitted"
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    told = subprocess.run(mount, capture_output=True, text=True)
    if told.returncode != 0:
        return "not permitted"
    return function(folder)
