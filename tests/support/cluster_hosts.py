"""Hosts of a test's own on one Linux machine: what `ray up` needs of machines, made of namespaces.

A lab is one process tree: a "laptop", from which `ray up` is run, and hosts that let it in by ssh. The laptop and each
host have a network, processes, a host name and folders of their own; a bridge in the laptop joins them, and nothing
joins them to the real network. They share one folder, mounted as /mnt/bsp as a file server's would be. All of it
lives in namespaces: when the lab's first process ends, every process, mount and network interface goes with it.

What a host has instead of a rented machine's:
  user ubuntu, who is the superuser under another name, with an empty home folder (the system's skeleton files);
  ~/bin/sudo, which runs its arguments, and ~/bin/apt-get, which only says what it was asked for: no network here;
  ~/bin/python3, the Python that runs this test, and ~/venv, a link to this test's environment, which lies below a
  writable layer of the host's own: what a host installs stays in the host (``fresh`` hosts have no ~/venv);
  nothing of the machine's own /home, /root, /tmp, /run, nor this repository: a host sees what was sent to it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

NEEDED = {  # program: the Debian and Ubuntu package that brings it
    "/usr/sbin/sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "rsync": "rsync",
    "ip": "iproute2",
    "curl": "curl",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "flock": "util-linux",
}
ADDRESSES = {"laptop": "10.77.0.1", "head": "10.77.0.2", "worker": "10.77.0.3"}  # in a network of the lab's own
HOSTS = ("head", "worker")
USER = "ubuntu"

_FOLDERS = """
set -euo pipefail
mount --make-rprivate /
hide() {  # an empty folder in place of the machine's
    [ ! -d "$1" ] || mount -t tmpfs -o mode=0755 tmpfs "$1"
}
keep() {  # the folder $1, put aside as $2, is seen again although a folder above it was hidden
    mkdir -p "$1"
    mount --bind "$2" "$1"
}
"""

_LAPTOP = """
ip link set lo up
ip link add bridge type bridge
ip address add {laptop}/24 dev bridge
ip link set bridge up
mount -t tmpfs tmpfs /mnt
mkdir /mnt/bsp /mnt/lab /mnt/python /mnt/venv /mnt/repository /mnt/wheels
mount --bind {scratch} /mnt/lab
mount --bind {scratch}/shared /mnt/bsp
mount --bind {python} /mnt/python
mount --bind {venv} /mnt/venv
mount --bind {repository} /mnt/repository
mount --bind {wheels} /mnt/wheels
hide /tmp
keep {repository} /mnt/repository
keep {venv} /mnt/venv
keep {python} /mnt/python
for host in {hosts}; do
    unshare --net --pid --fork --mount --uts --mount-proc --kill-child \\
        bash /mnt/lab/host.sh $host > /mnt/lab/$host.log 2>&1 &
    process=$!
    until [ "$(readlink /proc/$process/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
    ip link add $host type veth peer name eth0 netns $process
    ip link set $host master bridge up
done
touch /mnt/lab/is_up
wait
"""

_HOST = """
hostname $1
declare -A address=({addresses})
until ip link show eth0 > /dev/null 2>&1; do sleep 0.05; done
ip link set lo up
ip address add ${{address[$1]}}/24 dev eth0
ip link set eth0 up
for file in passwd group hosts resolv.conf; do mount --bind /mnt/lab/etc/$file /etc/$file; done
for folder in /home /root /tmp /run /dev/shm {repository}; do hide $folder; done
chmod 1777 /tmp /dev/shm
mkdir -p /tmp/ray /run/sshd
if [ -d /mnt/lab/home_$1 ]; then mount --bind /mnt/lab/home_$1 /home; fi
mkdir -p /home/{user}/bin /home/{user}/.config/pip
cp -r /etc/skel/. /home/{user}
keep {python} /mnt/python
{venv}
cp /mnt/lab/bin/* /home/{user}/bin
cp /mnt/lab/etc/pip.conf /home/{user}/.config/pip
ln -s {python}/bin/python3 /home/{user}/bin/python3
exec /usr/sbin/sshd -D -e -f /mnt/lab/etc/sshd_config
"""

_LAYERED_VENV = """
mkdir -p /run/layer {venv}
mount -t tmpfs tmpfs /run/layer
mkdir /run/layer/upper /run/layer/work
mount -t overlay -o lowerdir=/mnt/venv,upperdir=/run/layer/upper,workdir=/run/layer/work overlay {venv}
ln -s {venv} /home/{user}/venv
"""

_SSHD = """
HostKey /mnt/lab/host_key
AuthorizedKeysFile /mnt/lab/key.pub
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
"""

_TRIAL = """
ip link add b type bridge && ip link add v type veth peer name w
mount -t tmpfs tmpfs /mnt && mkdir /mnt/upper /mnt/work /mnt/both
mount -t overlay -o lowerdir={venv},upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/both
"""


def why_not() -> str | None:
    """Why a lab cannot be made here, in one sentence with the remedy; None if it can."""
    if sys.platform != "linux":
        return f"namespaces are Linux's, and this is {sys.platform}"
    if os.geteuid() != 0:
        return "only the superuser may make hosts of namespaces: run this test as root"
    missing = sorted({package for program, package in NEEDED.items() if shutil.which(program) is None})
    if missing:
        return f"programs are missing: apt-get install {' '.join(missing)}"
    trial = ["bash", "-ec", _TRIAL.format(venv=shlex.quote(sys.prefix))]
    tried = subprocess.run([*_UNSHARE, *trial], capture_output=True, text=True)
    if tried.returncode:
        return f"namespaces, bridges or overlay mounts are not allowed here: {tried.stderr.strip()[-300:]}"
    return None


_UNSHARE = ("unshare", "--net", "--pid", "--fork", "--mount", "--uts", "--mount-proc", "--kill-child")


class Lab:
    """The laptop and its hosts, for the length of a ``with``. ``scratch`` takes logs, keys and the shared folder.

    wheels: hosts have no environment of their own; ~/venv is then made by the setup commands, from the wheels in this
    folder. That takes 2.3 GB of ``scratch`` per host. None: ~/venv is this test's environment.
    """

    def __init__(self, scratch: Path, repository: Path, *, wheels: Path | None = None):
        self.scratch, self.repository, self.wheels = scratch, repository, wheels
        self.shared = scratch / "shared"  # /mnt/bsp of all hosts
        self.home = "/mnt/lab/home"  # on the laptop
        self._first: subprocess.Popen | None = None

    def __enter__(self) -> Lab:
        try:
            self._write_files()
            # setpriv: if this process is killed, the kernel kills the lab.
            command = ["setpriv", "--pdeathsig", "KILL", *_UNSHARE, "bash", str(self.scratch / "laptop.sh")]
            with (self.scratch / "laptop.log").open("w") as log:
                self._first = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            self._wait_for_hosts()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._first is None:
            return
        for laptop in psutil.Process(self._first.pid).children():
            laptop.kill()  # the first process of a namespace: the kernel kills all others with it
        try:
            self._first.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._first.kill()
            self._first.wait()
        self._first = None

    def run(self, command: str, *, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a bash command on the laptop, in the repository. Its output holds stdout and stderr.

        Raises subprocess.TimeoutExpired after ``timeout`` seconds; the command then ends with the lab.
        """
        environment = {
            "HOME": self.home,
            "PATH": f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
        }
        laptop = psutil.Process(self._first.pid).children()[0].pid
        return subprocess.run(
            ["nsenter", f"--target={laptop}", "--net", "--pid", "--mount", "--uts", "bash", "-c",
             f"cd {shlex.quote(str(self.repository))}; {command}"],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=timeout,
        )  # fmt: skip

    def on(self, host: str, command: str, *, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, by ssh from the laptop."""
        options = "-i /mnt/lab/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        return self.run(f"ssh {options} {USER}@{ADDRESSES[host]} {shlex.quote(command)}", timeout=timeout)

    def processes(self) -> list[psutil.Process]:
        """Everything that runs in the lab, as the machine outside sees it."""
        return psutil.Process(self._first.pid).children(recursive=True)

    def _wait_for_hosts(self) -> None:
        deadline = time.monotonic() + 60
        is_up = (self.scratch / "is_up").exists
        while not (is_up() and all(self.on(host, "hostname").stdout.strip() == host for host in HOSTS)):
            if self._first.poll() is not None or time.monotonic() > deadline:
                logs = [self.scratch / f"{name}.log" for name in ADDRESSES]
                told = "\n".join(f"{log.name}: {log.read_text()[-1000:]}" for log in logs if log.exists())
                raise RuntimeError(f"the hosts do not answer\n{told}")
            time.sleep(0.1)

    def _write_files(self) -> None:
        scratch = self.scratch
        for folder in ("shared", "etc", "bin", "home"):
            (scratch / folder).mkdir(parents=True)
        (scratch / "home").chmod(0o700)
        for name in ("key", "host_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(scratch / name)]
            subprocess.run(command, check=True)
        names = {
            "scratch": shlex.quote(str(scratch)),
            "repository": shlex.quote(str(self.repository)),
            "venv": shlex.quote(sys.prefix),
            "python": shlex.quote(sys.base_prefix),
            "wheels": shlex.quote(str(self.wheels or scratch)),
            "laptop": ADDRESSES["laptop"],
            "hosts": " ".join(HOSTS),
            "addresses": " ".join(f"[{name}]={ADDRESSES[name]}" for name in HOSTS),
            "user": USER,
        }
        (scratch / "laptop.sh").write_text(_FOLDERS + _LAPTOP.format(**names))
        own_venv = "" if self.wheels else _LAYERED_VENV.format(**names)
        (scratch / "host.sh").write_text(_FOLDERS + _HOST.format(**names | {"venv": own_venv}))
        if self.wheels:
            for host in HOSTS:
                (scratch / f"home_{host}").mkdir()

        etc = {
            "sshd_config": _SSHD,
            "passwd": f"{USER}:x:0:0::/home/{USER}:/bin/bash\nroot:x:0:0::/root:/bin/bash\n"
            "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n",
            "group": f"{USER}:x:0:\nroot:x:0:\nnogroup:x:65534:\ntty:x:5:\n",
            "hosts": "127.0.0.1 localhost\n" + "".join(f"{at} {name}\n" for name, at in ADDRESSES.items()),
            "resolv.conf": "",
            # Nothing can be downloaded in the lab. pip reads "no-build-isolation = false" as "no isolation": the
            # build of this project then takes setuptools from the environment, where PyTorch has brought it.
            "pip.conf": "[global]\nno-index = true\n"
            + ("find-links = /mnt/wheels\n" if self.wheels else "no-build-isolation = false\n"),
        }
        for name, content in etc.items():
            (scratch / "etc" / name).write_text(content)
        for name, content in {"sudo": 'exec "$@"', "apt-get": 'echo "apt-get $* (stand-in)"'}.items():
            path = scratch / "bin" / name
            path.write_text(f"#!/bin/bash\n{content}\n")
            path.chmod(0o755)
