"""What a cloud sells and the test of `ray up` can use instead of NFS and SQLite: S3 (moto) and PostgreSQL, both on the
laptop of a lab (cluster_hosts.py), reached by the hosts through the lab's network.

    apt-get install postgresql; pip install 'psycopg[binary]'
    BSP_RAY_UP_CLOUD=1 pytest tests/platform/cluster/test_ray_up.py
"""

from __future__ import annotations

import glob
import importlib.util
import re
from typing import Any

from cluster_hosts import ADDRESSES, Lab

_S3_PORT, _DATABASE_PORT = 9000, 5432
BUCKET = "s3://bsp"
DATABASE = f"postgresql://bsp:secret@{ADDRESSES['laptop']}:{_DATABASE_PORT}/mlflow"
CREDENTIALS = {
    "AWS_ENDPOINT_URL": f"http://{ADDRESSES['laptop']}:{_S3_PORT}",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

_S3 = f"""
export {" ".join(f"{name}={value}" for name, value in CREDENTIALS.items())}
setsid moto_server -H {ADDRESSES["laptop"]} -p {_S3_PORT} > /mnt/lab/s3.log 2>&1 < /dev/null &
until curl -s -o /dev/null $AWS_ENDPOINT_URL; do sleep 0.2; done
python -c 'import boto3; boto3.client("s3").create_bucket(Bucket="bsp")'
"""

# PostgreSQL refuses to run as the superuser.
_DATABASE = f"""
set -e
programs=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
chmod 711 /mnt/lab
mkdir /mnt/lab/database
chown nobody /mnt/lab/database
cd /mnt/lab/database
as_nobody="setpriv --reuid=nobody --clear-groups"
echo secret > password
$as_nobody $programs/initdb -D data -U bsp --pwfile=password --auth=scram-sha-256 > /dev/null
echo 'host all all {ADDRESSES["laptop"]}/24 scram-sha-256' >> data/pg_hba.conf
setsid $as_nobody $programs/postgres -D data -h {ADDRESSES["laptop"]} -p {_DATABASE_PORT} -k /mnt/lab/database \\
    > ../database.log 2>&1 < /dev/null &
export PGPASSWORD=secret
until $programs/createdb -h {ADDRESSES["laptop"]} -p {_DATABASE_PORT} -U bsp mlflow 2> /dev/null; do sleep 0.2; done
"""


def why_no_services() -> str | None:
    """What is missing here, in one sentence with the remedy; None if nothing is."""
    if not glob.glob("/usr/lib/postgresql/*/bin/postgres"):
        return "PostgreSQL is missing: apt-get install postgresql"
    if importlib.util.find_spec("psycopg") is None:
        return "its driver is missing in this environment: pip install 'psycopg[binary]'"
    return None


def start_services(lab: Lab) -> None:
    """Start both, with an empty bucket and an empty database."""
    for script in (_S3, _DATABASE):
        done = lab.run(script, timeout=120)
        assert done.returncode == 0, done.stdout


def use_services(config: dict[str, Any]) -> dict[str, Any]:
    """A cluster's configuration with the settings that docs/cluster.md names for S3 and a database changed."""
    everywhere = {"BSP_STORAGE": f"{BUCKET}/storage", "BSP_CACHE": "/mnt/bsp/cache", **CREDENTIALS}
    on_head = {"MLFLOW_BACKEND_STORE_URI": DATABASE, "MLFLOW_ARTIFACTS_DESTINATION": f"{BUCKET}/mlflow"}
    commands = {"setup_commands": everywhere, "head_setup_commands": on_head}
    return config | {name: [_changed(text, settings) for text in config[name]] for name, settings in commands.items()}


def _changed(command: str, settings: dict[str, str]) -> str:
    """A setup command with other values for what it exports of ``settings``; new names come before the others."""
    for name, value in settings.items():
        line = f"'export {name}={value}'"
        command, found = re.subn(rf"'export {name}=[^']*'", line, command)
        if not found:
            command = command.replace(r"printf '%s\n'", rf"printf '%s\n' {line}")
    return command
