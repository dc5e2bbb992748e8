"""The filter of system calls, as the classic BPF program that bubblewrap hands to the kernel (seccomp(2)).

Namespaces already keep a program from the machine. The filter narrows what it may ask the kernel itself, where most
ways out of namespaces were found: mounts and namespaces, tracing, BPF, io_uring, userfaultfd, keys, modules, clocks,
memory that no limit counts, and sockets of families that network namespaces do not cover (AF_VSOCK, AF_ALG ...).
Calls newer than this table do not exist for it.

The program is written out here because the Python bindings of libseccomp need the library on the machine, which
bubblewrap does not, and forty lines of BPF do the same.
"""

from __future__ import annotations

import errno
import platform
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

_HIGHEST = 462
"""The newest call that was looked at (Linux 6.10)."""
_X32 = 0x40000000
"""Begins the numbers of x86-64's second ABI, by which filters are evaded."""

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column of the table below, and AUDIT_ARCH of linux/audit.h."""

DENIED: Mapping[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "kcmp": (312, 272), "pidfd_getfd": (438, 438),
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "statmount": (457, 457), "listmount": (458, 458), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    # the kernel
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "syslog": (103, 116), "lookup_dcookie": (212, 18), "acct": (163, 89),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "create_module": (174, None),
    "get_kernel_syms": (177, None), "query_module": (178, None), "uselib": (134, None), "ustat": (136, None),
    "_sysctl": (156, None), "nfsservctl": (180, 42), "vserver": (236, None), "iopl": (172, None),
    "ioperm": (173, None), "modify_ldt": (154, None), "vhangup": (153, 58), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "lsm_get_self_attr": (459, 459), "lsm_set_self_attr": (460, 460),
    "lsm_list_modules": (461, 461),
    # keys, clocks and names
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171), "sethostname": (170, 161),
    "setdomainname": (171, 162),
    # memory that no limit counts
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "msgget": (68, 186),
    "mq_open": (240, 180),
}  # fmt: skip
"""Number of each call that is refused with EPERM, on x86-64 and on 64-bit ARM; None where there is no such call."""

_ABSENT = {"clone3": (435, 435), "memfd_create": (319, 279), "memfd_secret": (447, 447)}
"""Calls that answer ENOSYS: the C library then takes `clone`, whose flags can be looked at, or a file."""

_CHECKED = {"clone": (56, 220), "socket": (41, 198), "ioctl": (16, 29), "personality": (135, 92)}
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEW{TIME,NS,CGROUP,UTS,IPC,USER,PID,NET} of linux/sched.h
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
_TERMINAL = (0x5412, 0x541C)  # TIOCSTI types into a terminal, TIOCLINUX pastes into a console
_PERSONALITIES = (0, 0xFFFFFFFF)  # the usual one, and the question which one it is

_LOAD, _EQUAL, _ABOVE, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data


def supported() -> bool:
    """Say whether there is a filter for this machine's processor."""
    return platform.machine() in _ARCHITECTURES


def filter_program(machine: str | None = None) -> bytes:
    """Return the filter for a kind of processor, by default this machine's: an array of `struct sock_filter`.

    Raises:
        KeyError: There is none for it.
    """
    column, architecture = _ARCHITECTURES[machine or platform.machine()]
    program = _Program()
    program.load(_ARCHITECTURE)
    program.test(_EQUAL, architecture, if_not=_KILL)
    program.load(_NUMBER)
    if column == 0:
        program.test(_AT_LEAST, _X32, then=_KILL)
    program.test(_ABOVE, _HIGHEST, then=_refusal(errno.ENOSYS))
    for table, error in ((DENIED, errno.EPERM), (_ABSENT, errno.ENOSYS)):
        for numbers in table.values():
            if (number := numbers[column]) is not None:
                program.test(_EQUAL, number, then=_refusal(error))
    checked = {name: numbers[column] for name, numbers in _CHECKED.items()}
    program.argument(checked["clone"], 0, _ANY_BIT, (_NEW_NAMESPACES,), _refusal(errno.EPERM), _ALLOW)
    program.argument(checked["socket"], 0, _EQUAL, _FAMILIES, _ALLOW, _refusal(errno.EAFNOSUPPORT))
    program.argument(checked["ioctl"], 1, _EQUAL, _TERMINAL, _refusal(errno.EPERM), _ALLOW)
    program.argument(checked["personality"], 0, _EQUAL, _PERSONALITIES, _ALLOW, _refusal(errno.EPERM))
    program.end(_ALLOW)
    return bytes(program.code)


def _refusal(error: int) -> int:
    return 0x00050000 | error


@dataclass(slots=True)
class _Program:
    """A BPF program in the making; every jump goes over one or a few instructions, so none can be too far."""

    code: bytearray

    def __init__(self) -> None:
        self.code = bytearray()

    def load(self, offset: int) -> None:
        """Load a word of `struct seccomp_data`."""
        self._add(_LOAD, offset)

    def end(self, value: int) -> None:
        """Return a verdict."""
        self._add(_RETURN, value)

    def test(self, comparison: int, value: int, *, then: int | None = None, if_not: int | None = None) -> None:
        """Return a verdict when a comparison holds, or when it does not; else go on."""
        verdict = then if then is not None else if_not
        assert verdict is not None
        self._add(comparison, value, over=(0, 1) if then is not None else (1, 0))
        self.end(verdict)

    def argument(
        self, number: int, index: int, comparison: int, values: tuple[int, ...], then: int, otherwise: int
    ) -> None:
        """Decide on a call by the lower half of one of its arguments (the kernel reads no more of these)."""
        self._add(_EQUAL, number, over=(0, 2 + 2 * len(values)))
        self.load(16 + 8 * index)
        for value in values:
            self.test(comparison, value, then=then)
        self.end(otherwise)

    def _add(self, code: int, value: int, over: tuple[int, int] = (0, 0)) -> None:
        self.code += struct.pack("=HBBI", code, *over, value)
